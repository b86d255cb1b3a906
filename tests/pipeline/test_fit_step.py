"""How much a step takes on where the user leaves it open: about as much everywhere, and on a GPU what it takes."""

from pathlib import Path

import pytest
import torch
import tyro
import yaml
from conftest import Run, distil_config
from helpers import start
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion
from nerfstudio.data.scene_box import SceneBox
from pretended import a_gpu
from torch import Generator, Tensor

from pvd_nerfstudio.distillation.stages import DistillationConfig
from pvd_nerfstudio.pipeline import fit_step
from pvd_nerfstudio.pipeline.fit_step import FEWEST, LONGEST, OF_A_RAY, WIDER, fit_samples, seconds_of, widest
from pvd_nerfstudio.student.model import StudentModel, StudentModelConfig

OPEN = ("--pipeline.distillation.rays-per-step", "-1", "--pipeline.distillation.points-per-step", "-1")
"""What the tests' own options close."""


def in_contracted_space(occupied: float) -> StudentModel:
    """A student with a share of its cells occupied."""
    config = StudentModelConfig(
        student="mlp", contracted=True, near_plane=0.05, far_plane=1000.0, background_color="black", grid_resolution=32
    )
    student = config.setup(scene_box=SceneBox(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3])), num_train_data=1)
    student.fit(1.0, 4.0)
    student.grid.occupy(torch.rand(32, 32, 32, generator=Generator().manual_seed(0)) < occupied)
    return student


def draw_rays(count: int, generator: Generator) -> RayBundle:
    directions: Tensor = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    return RayBundle(torch.zeros(count, 3), directions, pixel_area=torch.zeros(count, 1))


@pytest.mark.parametrize("occupied", [0.02, 0.3, 1.0])
def test_a_step_through_fog_has_about_as_many_samples_as_one_through_an_object(occupied: float) -> None:
    student, method = in_contracted_space(occupied), DistillationConfig().resolved()
    student.train()
    before = len(student.sample(draw_rays(1024, Generator().manual_seed(1)))) / 1024
    fit_samples(student, method, draw_rays, seed=0)
    after = len(student.sample(draw_rays(1024, Generator().manual_seed(1)))) / 1024
    factor, share = student.config.train_step_factor, method.rays_per_step / 1024
    assert 1.6 <= factor <= LONGEST and FEWEST <= share <= 1
    if before <= OF_A_RAY:
        assert factor == 1.6 and share == 1
    elif factor < LONGEST:
        assert after == pytest.approx(OF_A_RAY, rel=0.1) and share == 1
    elif share > FEWEST:
        assert share * after == pytest.approx(OF_A_RAY, rel=0.1)
    else:
        assert share * after > OF_A_RAY, "more is not done"


@pytest.mark.parametrize(("busy_at", "expected"), [(1, 1), (2, 2), (8, 8), (1000, 16)])  # a half more for each more
def test_a_gpu_has_as_many_rays_as_cost_hardly_more(busy_at: int, expected: int) -> None:
    assert widest(lambda times: 1.0 + max(0.0, 0.5 * (times - busy_at))) == expected


def test_a_gpu_has_as_many_rays_as_fit_into_its_memory() -> None:
    assert widest(lambda times: 1.0 if times < WIDER[2] else float("inf")) == WIDER[1]


def test_what_is_chosen_stands_in_config_yml_and_what_the_user_says_is_kept(teacher: Run, tmp_path: Path) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "2")
    contracted = ("--pipeline.model.contracted", "True", "--pipeline.model.background-color", "black")
    saved = {}
    for name, more in {
        "fog": (*contracted, "--pipeline.model.render-step-size", "0.003", *OPEN),
        "said": (*contracted, "--pipeline.model.render-step-size", "0.003"),
        "off": (*contracted, "--pipeline.model.render-step-size", "0.003", "--pipeline.fit-step", "False", *OPEN),
        "object": OPEN,
    }.items():
        trainer = start(distil_config(tmp_path / name, *options, *more))
        config = yaml.load((trainer.base_dir / "config.yml").read_text(), Loader=yaml.Loader)
        saved[name] = config.pipeline.distillation.rays_per_step, config.pipeline.model.train_step_factor
        assert not config.pipeline.is_step_open
    assert saved["fog"][0] <= 1024 and 1.6 < saved["fog"][1] <= LONGEST
    assert saved["said"] == (64, 1.6) and saved["off"] == saved["object"] == (1024, 1.6)


def test_a_gpu_is_timed(teacher: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "2", *OPEN)
    config = distil_config(tmp_path, *options)
    config.machine.device_type = "cuda"
    timed: list[int] = []

    def seconds(student: StudentModel, rays: RayBundle, times: int, in_half: bool) -> float:
        assert not in_half and seconds_of(student, rays, times, in_half) > 0
        timed.append(times)
        return 1.0 if times <= 4 else 2.0

    monkeypatch.setattr(fit_step, "seconds_of", seconds)
    with a_gpu():
        trainer = start(config)
        assert all(parameter.grad is None for parameter in trainer.pipeline.student.parameters())
    method = trainer.pipeline.config.distillation
    assert timed == [1, 2, 4, 8] and (method.rays_per_step, method.points_per_step) == (4096, 32768)


def test_a_gpu_saves_rarely_and_has_half_precision_unless_it_is_said(teacher: Run) -> None:
    words = ("pvd-distill", "--steps-per-eval-image", "2000")
    for device, saves, half in (("cpu", 1000, False), ("cuda", 5000, True)):
        config = tyro.cli(AnnotatedBaseConfigUnion, args=list(words))
        config.machine.device_type = device
        config._suit_machine()
        assert (config.steps_per_save, config.mixed_precision, config.steps_per_eval_image) == (saves, half, 2000)
