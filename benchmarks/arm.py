"""One arm of a comparison over time: a training by the clock, in a process of its own.

`benchmarks.time_to_quality` and `benchmarks.stock` start it.
"""

import copy
import json
import shlex
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import tyro
from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion, all_methods
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import writer
from torch import Generator, Tensor

from benchmarks.fidelity import fidelity
from benchmarks.teacher import DEVICE
from benchmarks.timed import Timed
from pvd_nerfstudio.distillation.bank import BankChunk, RayTargets, Source, take
from pvd_nerfstudio.pipeline import DistillationPipeline
from pvd_nerfstudio.pipeline.bank_source import ChunkSource
from pvd_nerfstudio.pipeline.picture_source import PictureSource
from pvd_nerfstudio.student.splat import SplatModel
from pvd_nerfstudio.teacher.adapters import adapter_of
from pvd_nerfstudio.teacher.building import no_lpips
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.trainer_config import PVDTrainerConfig
from pvd_nerfstudio.training.optimizers import CosineSchedulerConfig

LITERAL = (
    "--pipeline.distillation.preset pvd --pipeline.distillation.rays-per-step 1024 "
    "--pipeline.distillation.rays-per-chunk 1024 --pipeline.distillation.points-per-step 8192 "
    "--pipeline.distillation.points-per-chunk 8192"
)
"""The papers' method, with as many rays and points a step as ours: theirs (4,096 and all samples) are slower still."""
ON_IMAGES = ("scratch", "scratch-muon")
"""Arms without a teacher: with the optimiser that such students are usually trained with, and with ours."""
ADAMW_ALONE = ("scratch", "adamw", "pvd")
"""Arms that learn everything with AdamW and a cosine, as the last release did."""
LEVELS = ("poses", "rays", "points")
LEVELED = {**{level: (level,) for level in LEVELS}, "all": LEVELS}
"""Arms with active learning, and the levels that are on in them."""
OURS = {"none": (), "adamw": (), "images": (), **LEVELED}
"""Arms that distil by our method, and their levels."""
StockName = Literal["vanilla-nerf", "tensorf", "nerfacto"]
STOCK = get_args(StockName)
SCRATCH = (
    "--pipeline.inherit-color-head False --pipeline.distillation.start-chunks 128 "
    "--pipeline.distillation.first-chunks 128 --pipeline.distillation.refresh-every 24"
)
"""Images are read fast: half a million pixels at the start, and more of them than the teacher can answer."""


class ImageSource(ChunkSource):
    """Pixels of images whose rays meet something in the grid: the rays that a distillation has too."""

    def _read_images(self, generator: Generator) -> BankChunk:
        kept: list[RayTargets] = []
        count = self._method.rays_per_chunk
        while sum(len(rays.origins) for rays in kept) < count:
            rays = super()._read_images(generator).rays
            hit = self._shared.march(rays.origins, rays.directions).ray_indices.unique()
            kept.append(take(rays, hit[torch.randperm(len(hit), generator=generator, device=hit.device)]))
        together = (torch.cat(values)[:count] for values in zip(*(vars(rays).values() for rays in kept)))
        return BankChunk(RayTargets(*together), None)


class ImagePipeline(DistillationPipeline):
    """The same student on images: of the teacher it gets the occupancy grid and nothing else; Gaussians begin anywhere
    in the scene box."""

    def _meet(self, teacher: FrozenTeacher) -> None:
        super()._meet(teacher)
        student = self.student
        if isinstance(student, SplatModel):
            generator = Generator().manual_seed(self._seed)
            low, high = student.field.aabb
            anywhere, colors = (torch.rand(len(student.field), 3, generator=generator).to(low) for _ in range(2))
            student.field.sow(low + anywhere * (high - low), colors, torch.zeros_like(colors))
            for name, parameters in student.get_param_groups().items():
                self._optimizers.replace(name, parameters)
        self._teacher = None

    @property
    def _point_answers(self) -> None:
        return None

    def _source(self) -> Source:
        if isinstance(self.student, SplatModel):
            return PictureSource(None, self.student, self.datamanager)
        method, active = self.config.distillation, self._levels()
        return ImageSource(None, self.student, self.datamanager, method, active, self._seed, 0)


Name = Literal["scratch", "scratch-muon", "pvd", "adamw", "none", "poses", "rays", "points", "all", "images", StockName]


@dataclass
class Arm:
    """Train one arm and write what was measured."""

    name: Name
    """Which arm; the last three are nerfstudio's own methods."""
    teacher: Path
    """The teacher; the stock methods take its data set alone."""
    output: Path
    """The file, JSON."""
    student: str = "mlp"
    """Architecture of the student."""
    options: str = ""
    """Further options for `ns-train`."""
    steps: int = 1000
    """Steps of the run."""
    seconds: float = 300.0
    """When it is stopped, finished or not."""
    times: tuple[float, ...] = ()
    """Seconds at which it is measured; it is at its end in any case."""
    pixels: int = 2000
    """Pixels of each test view."""
    seed: int = 0
    """Seed of the run."""
    fit_step: bool = False
    """Whether a step takes on what suits scene and machine, and not the same in all arms."""
    keep: Path | None = None
    """Folder for the trained run, which is a teacher like any other; by default it goes when it is measured."""

    def run(self) -> None:
        """Train, measure, write."""
        if self.keep is not None and self.keep.exists():
            sys.exit(f"{self.keep} exists already; choose another folder with --keep.")
        with tempfile.TemporaryDirectory() as folder, no_lpips():
            config = self._stock() if self.name in STOCK else self._distillation()
            quiet(config, Path(folder), self.seed)
            timed = Timed(config, self.seconds, list(self.times), self.pixels)
            writers = list(writer.EVENT_WRITERS)
            trainer = timed.run()
            pipeline = trainer.pipeline
            if self.keep is not None:
                self._keep(trainer, self.keep, timed.curve[-1].steps)
            writer.EVENT_WRITERS[:] = writers  # its own log goes with the folder
        result: dict[str, Any] = {"arm": self.name, "seed": self.seed, "curve": [asdict(one) for one in timed.curve]}
        end = timed.curve[-1]
        if self.name in OURS:
            method = pipeline.config.distillation
            result |= {"rays_per_step": method.rays_per_step, "points_per_step": method.points_per_step}
        if self.name in OURS and self.times:  # not a pilot
            result |= {"teacher_share": pipeline.teacher_seconds / end.seconds}
            if not (pipeline.config.model.chosen.is_drawn or pipeline._teacher.shows_views):
                result |= {"step_ratio": step_ratio(pipeline, end.steps - 1)}
            result |= {"fidelity": asdict(fidelity(pipeline, pipeline._teacher))}
        self.output.write_text(json.dumps(result, indent=2), "utf8")

    def _keep(self, trainer: Trainer, folder: Path, steps: int) -> None:
        config = trainer.config
        if self.name in ON_IMAGES:
            config.pipeline._target = DistillationPipeline
        config.output_dir = folder
        trainer.checkpoint_dir = config.get_checkpoint_dir()
        TrainerConfig.save_config(config)
        trainer.save_checkpoint(steps - 1)

    def _distillation(self) -> TrainerConfig:
        words = ["pvd-distill", "--teacher-checkpoint", str(self.teacher), "--student", self.student]
        words += ["--max-num-iterations", str(self.steps), *shlex.split(self.options)]
        words += shlex.split(LITERAL) if self.name == "pvd" else []
        words += shlex.split(SCRATCH) if self.name in ON_IMAGES else []
        words += ["--pipeline.distillation.training-images", str(self.name == "images")]
        for level in LEVELS:
            words += [f"--pipeline.active.{level}", str(level in OURS.get(self.name, ()))]
        words += ["--machine.seed", str(self.seed), "--pipeline.fit-step", str(self.fit_step)]
        config = tyro.cli(AnnotatedBaseConfigUnion, args=words)
        if self.name in ON_IMAGES:
            config.pipeline._target = ImagePipeline
        if self.name in ADAMW_ALONE:
            config.optimizers.pop("matrices", None)
            for group in config.optimizers.values():
                group["scheduler"] = CosineSchedulerConfig(max_steps=self.steps)
        return config

    def _stock(self) -> TrainerConfig:
        """nerfstudio's method as it is, on the teacher's data set; nerfacto and its like in the teacher's bounds."""
        config: TrainerConfig = copy.deepcopy(all_methods[self.name])  # type: ignore[assignment]
        taught: Any = find_run(self.teacher).config.pipeline  # type: ignore[attr-defined]
        if taught.datamanager.data is not None:
            taught.datamanager.dataparser.data = Path(taught.datamanager.data)
        config.pipeline.datamanager.dataparser = taught.datamanager.dataparser
        config.max_num_iterations = self.steps
        if self.name == "nerfacto":
            model: Any = config.pipeline.model
            space = adapter_of(taught.model).space(taught.model)
            model.implementation, model.background_color = "torch", "white"
            model.disable_scene_contraction = not space.contracted
            model.near_plane, model.far_plane = space.near, space.far
        return config


def quiet(config: TrainerConfig, folder: Path, seed: int) -> None:
    """No viewer, no log lines, no evaluation of its own, no checkpoint before the end."""
    config.output_dir, config.experiment_name, config.timestamp = folder, "arm", "run"
    config.machine.device_type, config.machine.seed = DEVICE, seed
    config.vis, config.logging.local_writer.enable = "tensorboard", False
    config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = 0
    config.steps_per_save = 10**9
    config.viewer.quit_on_train_completion = True
    if isinstance(config, PVDTrainerConfig):
        config.summary = False


def step_ratio(pipeline: DistillationPipeline, step: int, repeats: int = 30) -> float:
    """Time of one of our steps over the student's own forward and backward on the same rays.

    Neither has the update of the weights, which is the same for both; the median of some repeats.
    """
    method = pipeline.config.distillation
    training, bank, student = pipeline.hand_over(), pipeline.bank_at(step), pipeline.student
    pipeline.train()

    def ours() -> Tensor:
        _, loss_dict, _ = pipeline.get_train_loss_dict(step)
        training.learn_errors()
        return torch.stack(list(loss_dict.values())).sum()

    def bare() -> Tensor:
        return (student(rays)["premultiplied"] - pixels).square().mean()

    generator = Generator(device=student.device).manual_seed(0)
    assert pipeline.active is not None
    targets = bank.rays(torch.cat(pipeline.active.draw_rays(method.rays_per_step, generator, bank.num_rays)))
    rays, pixels = training.ray_bundle(targets, generator), targets.rgb
    return median_seconds(ours, student, repeats) / median_seconds(bare, student, repeats)


def median_seconds(loss: Any, student: torch.nn.Module, repeats: int) -> float:
    """Of forward and backward."""
    taken = []
    for _ in range(repeats):
        student.zero_grad()
        start = time.perf_counter()
        loss().backward()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return sorted(taken)[repeats // 2]


if __name__ == "__main__":
    tyro.cli(Arm).run()
