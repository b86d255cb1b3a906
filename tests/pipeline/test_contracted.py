"""Scenes without an end: the shared samples show what lies far away, and a student of such a teacher learns it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY, Run, distil_config, train_stock
from helpers import start
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.model_components.renderers import RGBRenderer
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image
from torch import Generator, Tensor

from pvd_nerfstudio.commands.demo import small_nerfacto, train
from pvd_nerfstudio.commands.demo_scene import CAMERA_ANGLE_X
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.rendering.occupancy import OccupancyGrid
from pvd_nerfstudio.rendering.space import Space, Spacing
from pvd_nerfstudio.student.metrics import image_metrics
from pvd_nerfstudio.student.model import StudentModelConfig
from pvd_nerfstudio.teacher.adapters import Answer, log_of
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.teacher.occupancy import drop_unseen, fill_grid
from pvd_nerfstudio.teacher.safe_yaml import load_config
from pvd_nerfstudio.teacher.shown import Shown, shown_along_rays
from pvd_nerfstudio.teacher.targets import SharedSamples, render_teacher

AABB = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])


class Plain:
    """A teacher that is a formula: a ball in the middle, a floor without an end, and a sky of many colours."""

    device = torch.device("cpu")
    grid = None
    aabb = box = AABB
    run = SimpleNamespace(checkpoint_path="plain")

    def occupied(self, *_: Any) -> None:
        """It has to be asked."""

    def density(self, positions: Tensor, extent: float) -> Tensor:
        del extent
        ball, floor = positions.norm(dim=-1, keepdim=True) < 0.5, positions[..., 2:] < -0.8  # noqa: PLR2004
        return 60.0 * (ball | floor).float()

    def sky_left(self, positions: Tensor) -> Tensor:
        return torch.ones_like(positions[:, :1])

    def query(self, samples: RaySamples) -> Answer:
        positions = samples.frustums.get_positions()
        towards = torch.nn.functional.normalize(positions, dim=-1)
        waves = 0.5 + 0.4 * torch.sin(4 * positions / positions.norm(dim=-1, keepdim=True).clamp_min(1.0) + towards)
        return Answer(log_of(self.density(positions, 0.0)), waves, None)


def draw_rays(count: int, generator: Generator) -> RayBundle:
    """From around the ball, some at it and some past it."""
    origins = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    origins[:, 2] = origins[:, 2].abs() * 0.5
    aim = 1.5 * torch.randn(count, 3, generator=generator) * torch.tensor([1.0, 1.0, 0.5])
    directions = torch.nn.functional.normalize(aim - origins, dim=-1)
    return RayBundle(origins=origins, directions=directions, pixel_area=torch.zeros(count, 1))


def test_shared_samples_show_what_is_far_and_the_sky(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvd_nerfstudio.teacher.occupancy.SEEN_RAYS", 1 << 14)  # as it is for a sky in fine cells
    teacher: Any = Plain()
    spacing = StudentModelConfig(contracted=True).spacing(AABB)
    grid = OccupancyGrid(AABB, 96, contracted=True)
    shared = SharedSamples(grid, 0.0, 1000.0, spacing, has_sky=True)
    fill_grid(grid, teacher, spacing, 0.02)
    filled = grid.share
    drop_unseen(teacher, shared, draw_rays, seed=1)
    assert grid.share < 0.5 * filled
    more = draw_rays(500, Generator().manual_seed(2))  # each ends in samples, even if they are the sky's alone
    assert grid.contains(more.origins + 1000.0 * more.directions).float().mean() > 0.95
    dense = SharedSamples(OccupancyGrid(AABB, 8, contracted=True), 0.0, 1000.0, Spacing(0.002, bend=2.0), has_sky=True)
    rays = draw_rays(600, Generator().manual_seed(0))
    ours, truth = (render_teacher(teacher, samples, rays, shift=0.5) for samples in (shared, dense))
    assert (ours.opacity == 1).all()
    assert len(ours.samples) < 0.2 * len(truth.samples)
    renderer = RGBRenderer(background_color="black")
    error = (ours.over(renderer) - truth.over(renderer)).square().mean()
    assert -10 * error.log10() > 35


def test_thin_fog_is_seen_too() -> None:
    """As a teacher has it that has hardly been trained: no single sample is opaque enough to count."""
    fog: Any = Plain()
    fog.density = lambda positions, extent: 0.01 * (positions.norm(dim=-1, keepdim=True) < 0.5).float()  # noqa: PLR2004
    grid = OccupancyGrid(AABB, 32)
    fill_grid(grid, fog, Spacing(0.05), 0.02)
    assert grid.share == pytest.approx(4 / 3 * np.pi * 0.5**3 / 2**3, rel=0.5)  # the ball's share of the box
    fog.density = lambda positions, extent: torch.zeros_like(positions[:, :1])
    with pytest.raises(InputError, match="no density anywhere"):
        fill_grid(grid, fog, Spacing(0.05), 0.02)


@pytest.fixture(scope="module")
def outdoors(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's scene before a sky: its images are opaque."""
    folder = tmp_path_factory.mktemp("outdoors") / "teapot"
    shutil.copytree(scene, folder)
    for split in ("train", "val", "test"):
        for frame in json.loads((folder / f"transforms_{split}.json").read_text())["frames"]:
            path = folder / f"{frame['file_path']}.png"
            rgba = np.asarray(Image.open(path), dtype=float) / 255
            size = len(rgba)
            steps = ((np.arange(size) + 0.5) / size * 2 - 1) * np.tan(CAMERA_ANGLE_X / 2)
            right, down = np.meshgrid(steps, steps)
            rays = (
                np.stack([right, -down, -np.ones_like(right)], axis=-1) @ np.array(frame["transform_matrix"])[:3, :3].T
            )
            sky = 0.5 + 0.4 * rays / np.linalg.norm(rays, axis=-1, keepdims=True)
            rgb = rgba[..., :3] * rgba[..., 3:] + sky * (1 - rgba[..., 3:])
            Image.fromarray(np.round(255 * rgb).astype(np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def unbounded(outdoors: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """nerfacto as it is by default: contracted, its last sample behind everything."""
    config = small_nerfacto(outdoors, steps=120)
    config.pipeline.datamanager.train_num_rays_per_batch = 256
    config.pipeline.model = replace(
        config.pipeline.model,
        disable_scene_contraction=False,
        near_plane=0.05,
        far_plane=1000.0,
        background_color="last_sample",
        **TINY | {"features_per_level": 4, "num_nerf_samples_per_ray": 24, "num_proposal_samples_per_ray": (48,)},
    )
    return train_stock(config, tmp_path_factory.mktemp("teacher"))


@pytest.mark.parametrize("architecture", ["hash", "sparse"])
def test_a_contracted_teacher_is_converted_with_its_sky(unbounded: Run, tmp_path: Path, architecture: str) -> None:
    options = ("--teacher-checkpoint", str(unbounded.folder), "--student", architecture)
    options += ("--max-num-iterations", "100", "--pipeline.model.render-step-size", "0.06")
    folder, _ = train(distil_config(tmp_path, *options), lambda share: None)
    _, pipeline, _, _ = eval_setup(folder / "config.yml")
    assert pipeline.model.has_sky and pipeline.model.grid.contracted
    pipeline.load_teacher(unbounded.folder)
    camera = pipeline.datamanager.eval_dataset.cameras[:1]
    own, theirs = pipeline.model.get_outputs_for_camera(camera)["rgb"], pipeline.comparison.render(camera)
    assert image_metrics(own, theirs)["psnr"] > 20
    native = pipeline.comparison.teacher.render(camera)
    assert image_metrics(theirs, native)["psnr"] > 25


class Shell:
    """A teacher of one opaque ball in contracted space."""

    device = torch.device("cpu")
    grid: OccupancyGrid | None = None

    def __init__(self, centre: float, radius: float, scale: float = 1.0) -> None:
        self._centre, self._radius, self._scale = scale * torch.tensor([centre, 0.0, 0.0]), scale * radius, scale
        self.space = Space(0.05 * scale, 1000.0 * scale, contracted=True, background="black")

    def density(self, positions: torch.Tensor, extent: float) -> torch.Tensor:
        del extent
        return 1e3 / self._scale * ((positions - self._centre).norm(dim=-1, keepdim=True) < self._radius).float()


def shown_from(camera: float, ball: Shell, scale: float = 1.0) -> Shown:
    def rays(count: int, generator: torch.Generator) -> RayBundle:
        aside = 0.02 * torch.randn(count, 3, generator=generator)
        towards = torch.nn.functional.normalize(torch.tensor([1.0, 0.0, 0.0]) + aside, dim=-1)
        origins = scale * (torch.tensor([camera, 0.0, 0.0]) + torch.randn(count, 3, generator=generator) / 50)
        return RayBundle(origins, towards, torch.ones(count, 1))

    return shown_along_rays(ball, rays, seed=0)  # type: ignore[arg-type]


def test_samples_follow_what_is_shown_and_not_where_cameras_stand() -> None:
    assert shown_from(-20.0, Shell(0.0, 0.5)).bend(1.0) > 8  # far out, and what it looks at is in the middle
    assert shown_from(20.0, Shell(25.0, 2.0)).bend(1.0) < 2  # a room in metres: it is as far out as the camera
    assert shown_from(-3.0, Shell(0.0, 0.5)).bend(1.0) == pytest.approx(2.5 / 2**0.5, rel=0.1)


@pytest.mark.parametrize("scale", [0.01, 20.0, 1000.0])
def test_the_scale_is_what_is_shown(scale: float) -> None:
    """A ball that ends 1.5 from the middle; the unit of its poses is all that changes."""
    one, other = shown_from(-3.0, Shell(0.0, 1.5)), shown_from(-3.0, Shell(0.0, 1.5, scale), scale)
    assert one.scale == pytest.approx(1.5, rel=0.1)
    assert other.scale == pytest.approx(scale * one.scale, rel=0.02)
    assert other.bend(other.scale) == pytest.approx(scale * one.bend(one.scale), rel=0.02)


def test_what_lies_outside_the_teachers_grid_is_not_shown() -> None:
    """An earlier student, or instant-ngp, may answer with any density where it has learned nothing."""

    class Foggy(Shell):
        def density(self, positions: torch.Tensor, extent: float) -> torch.Tensor:
            beside = positions.norm(dim=-1, keepdim=True) > 2.2  # noqa: PLR2004
            return super().density(positions, extent) + 50.0 * beside.float()

    foggy = Foggy(0.0, 1.5)
    assert shown_from(-3.0, foggy).scale > 2.5  # about the camera
    foggy.grid = OccupancyGrid(2 * AABB, 64)
    foggy.grid.fill(lambda points: points.norm(dim=-1) < 1.5)  # noqa: PLR2004
    assert shown_from(-3.0, foggy).scale == pytest.approx(1.5, rel=0.1)


def test_coordinates_of_a_map_are_refused_with_a_remedy(unbounded: Run, tmp_path: Path, monkeypatch) -> None:
    from pvd_nerfstudio.data.datamanager import DistillationDataManager

    setup = DistillationDataManager.setup_train

    def far_out(self: Any) -> None:
        setup(self)
        self.train_cameras.camera_to_worlds[:, :, 3] += 4e6

    monkeypatch.setattr(DistillationDataManager, "setup_train", far_out)
    with pytest.raises(InputError, match="4,000,0.. away.*map coordinates.*auto-scale-poses"):
        start(distil_config(tmp_path, "--teacher-checkpoint", str(unbounded.folder), "--max-num-iterations", "2"))


def in_other_units(run: Path, scale: float, place: Path) -> Path:
    """A student's run that shows the same where all lengths are multiplied."""
    place.mkdir()
    shutil.copytree(run / "nerfstudio_models", place / "nerfstudio_models")
    config: Any = load_config(run / "config.yml")
    for name in ("near_plane", "far_plane", "scale", "render_step_size", "disparity_from"):
        setattr(config.pipeline.model, name, scale * getattr(config.pipeline.model, name))
    config.pipeline.datamanager.dataparser.scale_factor = scale
    (place / "config.yml").write_text(yaml.dump(config))
    return place


def converted(teacher: Path, place: Path, student: str, *options: str) -> Any:
    """A short conversion, its teacher beside it."""
    words = ("--teacher-checkpoint", str(teacher), "--student", student, "--max-num-iterations", "40", *options)
    folder, _ = train(distil_config(place, *words), lambda share: None)
    _, pipeline, _, _ = eval_setup(folder / "config.yml")
    pipeline.load_teacher(find_run(teacher).checkpoint_path)
    return folder, pipeline


def test_a_scene_is_converted_alike_in_any_unit(teacher: Run, tmp_path: Path) -> None:
    """As many samples, as faithful, with a scale that follows the poses: metres, or hundredths or thousands of them."""
    first, _ = converted(teacher.folder, tmp_path / "vm", "vm", "--pipeline.model.contracted", "True")
    psnr, samples, scales = {}, {}, {}
    for scale in (1.0, 0.01, 1000.0):
        scaled = in_other_units(first, scale, tmp_path / f"teacher-{scale}")
        step = ("--pipeline.model.render-step-size", str(0.05 * scale))
        _, pipeline = converted(scaled, tmp_path / f"hash-{scale}", "hash", *step)
        model, camera = pipeline.model, pipeline.datamanager.eval_dataset.cameras[:1]
        outputs = model.get_outputs_for_camera(camera)
        psnr[scale] = image_metrics(outputs["rgb"], pipeline.comparison.render(camera))["psnr"]
        samples[scale] = float(outputs["occupancy"].mean())
        scales[scale] = model.config.scale / scale
    assert psnr[1.0] > 25
    for scale in (0.01, 1000.0):
        assert scales[scale] == pytest.approx(scales[1.0], rel=0.05)
        assert samples[scale] == pytest.approx(samples[1.0], rel=0.1)
        assert psnr[scale] == pytest.approx(psnr[1.0], abs=0.3)
