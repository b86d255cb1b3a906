"""A tiny scene, a teacher of it and one distilled run, made once for all tests."""

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils import writer
from PIL import Image

from pvd_nerfstudio.commands.demo import small_nerfacto, train
from pvd_nerfstudio.commands.demo_scene import write_scene
from pvd_nerfstudio.teacher.building import no_lpips
from pvd_nerfstudio.trainer_config import PVDTrainerConfig

warnings.filterwarnings("ignore")
torch.set_num_threads(1)  # two would wait for each other wherever the machine does something else, too

SMALL = (
    *("--pipeline.model.mlp.num-layers", "3", "--pipeline.model.mlp.hidden-dim", "64"),
    *("--pipeline.model.hash.log2-hashmap-size", "12", "--pipeline.model.hash.num-levels", "6"),
    *("--pipeline.model.hash.max-res", "64", "--pipeline.model.grid-resolution", "32"),
    *(
        option
        for name in ("vm", "cp", "triplane")
        for size in (("resolution", "24"), ("start-resolution", "12"), ("color-components", "8"))
        for option in (f"--pipeline.model.{name}.{size[0]}", size[1])
    ),
    *("--pipeline.model.sparse.resolution", "32"),
    *("--pipeline.model.splat.num-gaussians", "400", "--pipeline.model.splat.picture-size", "32"),
    *("--pipeline.model.render-step-size", "0.05"),
    *("--pipeline.distillation.rays-per-chunk", "256", "--pipeline.distillation.points-per-chunk", "512"),
    *("--pipeline.distillation.rays-per-step", "64", "--pipeline.distillation.points-per-step", "256"),
    *("--pipeline.distillation.first-chunks", "2", "--pipeline.distillation.refresh-every", "4"),
    *("--machine.device-type", "cpu"),
)
"""Options that make a distillation step take milliseconds."""


TINY = {
    "log2_hashmap_size": 12,
    "max_res": 64,
    "num_levels": 6,
    "features_per_level": 2,
    "num_nerf_samples_per_ray": 16,
    "num_proposal_samples_per_ray": (32,),
}
"""Sizes of a nerfacto that trains in seconds."""


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Random numbers that a test draws without a generator of its own are the same in every run of it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def own_logs() -> Iterator[None]:
    """Each trainer adds its log to nerfstudio's list, and all later ones would write into it, too, and take longer."""
    yield
    for log in writer.EVENT_WRITERS:
        if isinstance(log, writer.TensorboardWriter):
            log.tb_writer.close()
    writer.EVENT_WRITERS.clear()


@pytest.fixture(autouse=True)
def few_rays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a conversion looks at before its first step, as few as suit images of 40 pixels; they are most of its time.

    Rays that say which cells of contracted space are seen, pixels of the teacher's check, views of a grid's depths.
    """
    monkeypatch.setattr("pvd_nerfstudio.teacher.occupancy.SEEN_RAYS", 1 << 12)
    monkeypatch.setattr("pvd_nerfstudio.teacher.occupancy.GRID_VIEWS", 12)
    monkeypatch.setattr("pvd_nerfstudio.teacher.check.PIXELS", 256)


@dataclass
class Run:
    """A trained run on disk."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.yml"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "nerfstudio_models"


def distil_config(output: Path, *options: str, name: str = "run") -> TrainerConfig:
    """What `ns-train pvd-distill` makes of its options, quiet."""
    config = tyro.cli(AnnotatedBaseConfigUnion, args=["pvd-distill", *SMALL, *options])
    return quiet(config, output, name)


def quiet(config: TrainerConfig, output: Path, name: str) -> TrainerConfig:
    config.output_dir, config.experiment_name, config.timestamp = output, "scene", name
    config.machine.device_type = "cpu"
    config.vis, config.logging.local_writer.enable = "tensorboard", False
    config.viewer.quit_on_train_completion = True
    if isinstance(config, PVDTrainerConfig):
        config.summary = False  # it takes longer than most of these runs
    return config


def train_stock(config: TrainerConfig, output: Path) -> Run:
    """A run of nerfstudio's own method, offline."""
    config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = 0
    with no_lpips():
        folder, _ = train(quiet(config, output, "teacher"), lambda share: None)
    return Run(folder)


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's scene, a few small views of it."""
    folder = tmp_path_factory.mktemp("data") / "teapot"
    write_scene(folder, train=12, val=2, test=2, size=40)
    return folder


@pytest.fixture(scope="session")
def teacher(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """nerfacto, trained just long enough to have a density that is worth a grid."""
    config = small_nerfacto(scene, steps=150)
    config.pipeline.model = replace(config.pipeline.model, use_appearance_embedding=True, **TINY)
    return train_stock(config, tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="session")
def student(teacher: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A short distillation of the teacher into an MLP."""
    output = tmp_path_factory.mktemp("student")
    folder, _ = train(
        distil_config(output, "--teacher-checkpoint", str(teacher.config), "--max-num-iterations", "60"),
        lambda share: None,
    )
    return Run(folder)


@pytest.fixture(scope="session")
def families(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A tiny run of every family of teachers, made when it is first queried for."""
    from teachers import FAMILIES  # noqa: PLC0415

    class Families(dict[str, Path]):
        def __missing__(self, name: str) -> Path:
            self[name] = FAMILIES[name](scene, tmp_path_factory.mktemp(name))
            return self[name]

    return Families()


@pytest.fixture()
def moved(student: Run, teacher: Run, tmp_path: Path) -> Run:
    """The student's run alone: its config says where it lies, its teacher is elsewhere."""
    folder = tmp_path / student.folder.relative_to(student.folder.parents[2])
    shutil.copytree(student.folder, folder)
    text = (folder / "config.yml").read_text()
    (folder / "config.yml").write_text(text.replace(student.folder.parents[2].name, tmp_path.name))
    return Run(folder)


@pytest.fixture()
def llff(tmp_path: Path) -> Path:
    """Nine cameras in a row at x = 0 … 8, all looking along -z, 40 x 30 pixels of an image twice that size."""
    folder = tmp_path / "llff"
    (folder / "images_4").mkdir(parents=True)
    rows = []
    for x in range(9):
        pose = np.zeros((3, 5))
        # down, right, backwards; centre; height, width, focal length
        pose[:, 0], pose[:, 1], pose[:, 2] = (0, -1, 0), (1, 0, 0), (0, 0, 1)
        pose[:, 3], pose[:, 4] = (x, 5, 7), (60, 80, 100)
        rows.append([*pose.flatten(), 4.0, 40.0])
        Image.new("RGB", (40, 30), (10 * x, 0, 0)).save(folder / "images_4" / f"{x}.png")
    np.save(folder / "poses_bounds.npy", np.array(rows))
    return folder


@pytest.fixture()
def nsvf(tmp_path: Path, scene: Path) -> Path:
    """The demo's scene in NSVF's layout, its axes turned and a validation split."""
    folder = tmp_path / "nsvf"
    for name in ("rgb", "pose"):
        (folder / name).mkdir(parents=True)
    for prefix, split in (("0", "train"), ("1", "val"), ("2", "test")):
        meta = json.loads((scene / f"transforms_{split}.json").read_text())
        for number, frame in enumerate(meta["frames"]):
            pose = np.array(frame["transform_matrix"])
            pose[:3, 1:3] *= -1
            np.savetxt(folder / "pose" / f"{prefix}_{number:04d}.txt", pose)
            image = Image.open(scene / f"{frame['file_path']}.png")
            image.save(folder / "rgb" / f"{prefix}_{number:04d}.png")
    focal = 0.5 * image.width / np.tan(0.5 * meta["camera_angle_x"])
    matrix = np.diag([focal, focal, 1.0, 1.0])
    matrix[:2, 2] = image.width / 2
    np.savetxt(folder / "intrinsics.txt", matrix)
    (folder / "bbox.txt").write_text("-1 -1 -0.5 1 1 1.5 0.4\n")
    return folder
