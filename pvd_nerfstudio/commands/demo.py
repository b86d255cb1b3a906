"""`pvd-demo`: a scene, a hash teacher, an MLP student, and an image of both. Offline, a few minutes on two cores."""

import copy
import random
import shutil
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import numpy as np
import torch
import tyro
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion, all_methods
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.model_components.renderers import background_color_override_context
from nerfstudio.models.nerfacto import NerfactoModelConfig
from nerfstudio.utils import writer
from nerfstudio.utils.eval_utils import eval_setup
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from pvd_nerfstudio.commands.demo_scene import CAMERA_RADIUS, write_scene
from pvd_nerfstudio.commands.report.figures import ComparedView, save_comparison, save_film
from pvd_nerfstudio.data.views import like, sphere
from pvd_nerfstudio.errors import InputError, run_command
from pvd_nerfstudio.input.ranges import COUNT, between, check_ranges
from pvd_nerfstudio.input.shown import next_commands
from pvd_nerfstudio.input.text import say
from pvd_nerfstudio.student.metrics import image_metrics
from pvd_nerfstudio.teacher.building import no_lpips
from pvd_nerfstudio.teacher.checkpoint import find_run, weights_megabytes
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.trainer_config import PVDTrainerConfig

WORST_GAP = 3.0
"""dB that the student may end under its teacher before the demo counts as failed."""


@dataclass
class Measured:
    """One row of the demo's table."""

    name: str
    parameters: int
    megabytes: float
    seconds: float
    metrics: list[dict[str, float]] = field(default_factory=list)
    rays: int = 0
    rendering_seconds: float = 0.0

    def mean(self, key: str) -> float:
        """Mean of a metric over the views."""
        return sum(metrics[key] for metrics in self.metrics) / len(self.metrics)

    def render(self, draw: Callable[[Cameras], Tensor], camera: Cameras, truth: Tensor) -> Tensor:
        """Draw a view, `[height, width, 3]`, and take its time and its metrics."""
        start = time.perf_counter()
        image = draw(camera)
        if image.is_cuda:
            torch.cuda.synchronize(image.device)
        self.rendering_seconds += time.perf_counter() - start
        self.rays += image.shape[0] * image.shape[1]
        self.metrics.append(image_metrics(image, truth))
        return image


@dataclass
class Demo:
    """Convert a small hash teacher into an MLP, from nothing, offline."""

    ranges = {"teacher_steps": COUNT, "student_steps": COUNT, "size": between(2, 4096)}

    output: Path = Path("pvd-demo")
    """Folder for scene, runs and images; an earlier demo in it is replaced."""
    teacher_steps: int = 1000
    """Training steps of the teacher."""
    student_steps: int = 2000
    """Training steps of the student."""
    size: int = 100
    """Width and height of the images."""

    def run(self) -> None:
        """Make the scene, train, distil, evaluate."""
        check_ranges(self)
        started = time.perf_counter()
        self._prepare_folder()
        columns = TextColumn("{task.description:<28}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        with Progress(*columns, console=CONSOLE) as progress:
            scene = self.output / "scene"
            write_scene(scene, size=self.size, progress=_bar(progress, "Ray-tracing a scene"))
            with no_lpips():
                teacher = train(
                    _quiet(small_nerfacto(scene, self.teacher_steps), self.output, "teacher"),
                    _bar(progress, "Training a hash teacher"),
                )
            student = train(self._student_config(teacher[0]), _bar(progress, "Distilling it into an MLP"))
            rows = self._evaluate(scene, teacher, student, _bar(progress, "Rendering"))
        CONSOLE.print(_table(rows))
        say(f"Done in {time.perf_counter() - started:.0f} s. Image: {self.output / 'compare.png'}")
        say(f"Look around: {next_commands(student[0] / 'config.yml')[0]}")
        gap = rows[0].mean("psnr") - rows[1].mean("psnr")
        if gap > WORST_GAP:
            raise InputError(
                f"The student ends {gap:.1f} dB under its teacher; more than {WORST_GAP:.0f} dB is a failure."
            )

    def _prepare_folder(self) -> None:
        mark = self.output / ".pvd-demo"
        if self.output.exists() and any(self.output.iterdir()):
            if not mark.is_file():
                raise InputError(
                    f"{self.output} is not empty and not an earlier demo; choose another folder with --output."
                )
            shutil.rmtree(self.output)
        self.output.mkdir(parents=True, exist_ok=True)
        mark.touch()

    def _student_config(self, teacher: Path) -> TrainerConfig:
        """What `ns-train pvd-distill --teacher-checkpoint ...` makes of its options."""
        options = ["--teacher-checkpoint", str(teacher), "--student", "mlp"]
        options += ["--pipeline.model.mlp.num-layers", "4", "--pipeline.model.mlp.hidden-dim", "128"]
        options += ["--max-num-iterations", str(self.student_steps), "--pipeline.model.background-color", "white"]
        config = tyro.cli(AnnotatedBaseConfigUnion, args=["pvd-distill", *options])
        return _quiet(config, self.output, "student")

    def _evaluate(
        self,
        scene: Path,
        teacher_run: tuple[Path, float],
        student_run: tuple[Path, float],
        bar: Callable[[float], None],
    ) -> list[Measured]:
        """Render the test views with both, and a film with the student alone; write image and film."""
        teacher = FrozenTeacher(find_run(teacher_run[0]), "cuda" if torch.cuda.is_available() else "cpu")
        with redirect_stdout(StringIO()):
            _, pipeline, _, _ = eval_setup(student_run[0] / "config.yml")
        student = pipeline.model
        parameters = sum(parameter.numel() for parameter in student.parameters())
        rows = [
            Measured("teacher: hash", teacher.num_parameters, weights_megabytes(teacher.run), teacher_run[1]),
            Measured("student: mlp", parameters, weights_megabytes(find_run(student_run[0])), student_run[1]),
        ]
        parser = BlenderDataParserConfig(data=scene, alpha_color="white").setup()
        dataset = InputDataset(parser.get_dataparser_outputs("test"))
        compared = []
        with background_color_override_context(torch.ones(3, device=teacher.device)):
            for index in range(len(dataset)):
                camera = dataset.cameras[index : index + 1].to(teacher.device)
                truth = dataset.get_image_float32(index).to(teacher.device)
                own = rows[0].render(teacher.render, camera, truth)
                learnt = rows[1].render(lambda view: student.get_outputs_for_camera(view)["rgb"], camera, truth)
                compared.append(ComparedView(learnt, own, truth))
                bar((index + 1) / (len(dataset) + 4))
        title = " to ".join(f"{name}, {row.mean('psnr'):.1f} dB" for name, row in zip(("nerfacto", "mlp"), rows))
        save_comparison(compared[:: max(1, len(compared) // 3)][:3], self.output / "compare.png", title)
        path = like(dataset.cameras, sphere(48, CAMERA_RADIUS, torch.zeros(3))[12:36]).to(teacher.device)
        frames = [student.get_outputs_for_camera(path[number : number + 1])["rgb"] for number in range(len(path))]
        save_film(frames, self.output / "student.mp4")
        bar(1.0)
        return rows


def small_nerfacto(scene: Path, steps: int) -> TrainerConfig:
    """nerfstudio's nerfacto, small, on images with an alpha channel and a random background."""
    config: TrainerConfig = copy.deepcopy(all_methods["nerfacto"])  # type: ignore[assignment]
    config.pipeline.datamanager = VanillaDataManagerConfig(
        dataparser=BlenderDataParserConfig(data=scene, alpha_color=None), train_num_rays_per_batch=512
    )
    config.pipeline.model = NerfactoModelConfig(
        implementation="torch",
        near_plane=2.0,
        far_plane=6.0,
        disable_scene_contraction=True,
        background_color="random",
        use_appearance_embedding=False,
        camera_optimizer=CameraOptimizerConfig(mode="off"),
        average_init_density=1.0,
        log2_hashmap_size=15,
        max_res=256,
        num_levels=8,
        features_per_level=4,
        num_proposal_iterations=1,
        num_proposal_samples_per_ray=(48,),
        num_nerf_samples_per_ray=24,
        proposal_net_args_list=[{"hidden_dim": 16, "log2_hashmap_size": 14, "num_levels": 4, "max_res": 64}],
        proposal_initial_sampler="uniform",
        distortion_loss_mult=0.0,
        eval_num_rays_per_chunk=4096,
    )
    for group in config.optimizers.values():
        group["optimizer"].lr, group["scheduler"].max_steps = 2e-2, 4 * steps
    config.max_num_iterations = steps
    return config


def train(config: TrainerConfig, bar: Callable[[float], None]) -> tuple[Path, float]:
    """Train as `ns-train` does, with a progress bar; returns the run's folder and the seconds that it took."""
    start = time.perf_counter()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(config.machine.seed)
    said = StringIO()
    try:
        with redirect_stdout(said):
            config.save_config()
            trainer = config.setup(local_rank=0, world_size=1)
            trainer.setup()
            tick = TrainingCallback(
                [TrainingCallbackLocation.AFTER_TRAIN_ITERATION],
                lambda step: bar((step + 1) / config.max_num_iterations),
            )
            trainer.callbacks.append(tick)
            trainer.train()
        writer.EVENT_WRITERS.clear()  # or the next run would write into this one's log, too
    except BaseException:
        print(said.getvalue())
        raise
    return config.get_base_dir(), time.perf_counter() - start


def _quiet(config: TrainerConfig, output: Path, name: str) -> TrainerConfig:
    """Where the run goes, and neither viewer nor log lines."""
    config.output_dir, config.experiment_name, config.timestamp = output, "runs", name
    config.machine.device_type = "cuda" if torch.cuda.is_available() else "cpu"
    config.vis, config.logging.local_writer.enable = "tensorboard", False
    config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = 0
    config.viewer.quit_on_train_completion = True
    if isinstance(config, PVDTrainerConfig):
        config.summary = False  # the demo has a table of its own
    return config


def _bar(progress: Progress, name: str) -> Callable[[float], None]:
    task = progress.add_task(name, total=1.0)
    return lambda share: progress.update(task, completed=share)


def _table(rows: list[Measured]) -> Table:
    table = Table(title="Test views")
    for name in ("", "PSNR", "SSIM", "parameters", "MB", "rays / s", "seconds"):
        table.add_column(name, justify="left" if not name else "right")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.mean('psnr'):.2f}",
            f"{row.mean('ssim'):.3f}",
            f"{row.parameters:,}",
            f"{row.megabytes:.2f}",
            f"{row.rays / row.rendering_seconds:,.0f}",
            f"{row.seconds:.0f}",
        )
    return table


def main() -> None:
    """Entry point of `pvd-demo`."""
    run_command(lambda: tyro.cli(Demo).run())


if __name__ == "__main__":
    main()
