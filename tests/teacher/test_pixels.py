"""A teacher without a field that can be queried is distilled from its renderings: NeuS, a sphere of radius 0.8."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from conftest import distil_config
from helpers import start
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.model_components.renderers import RGBRenderer
from nerfstudio.utils.eval_utils import eval_setup
from teachers import config_of

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.pipeline import DistillationPipeline
from pvd_nerfstudio.rendering.occupancy import OccupancyGrid
from pvd_nerfstudio.rendering.space import Spacing
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.teacher.occupancy import fill_grid_from_views
from pvd_nerfstudio.teacher.pixels import Seen, _span, look, query_pixels, show
from pvd_nerfstudio.teacher.targets import SharedSamples

RADIUS = 0.8


@pytest.fixture(scope="module")
def neus(families: Mapping[str, Path]) -> FrozenTeacher:
    return FrozenTeacher(find_run(families["neus"]), "cpu")


@pytest.fixture(scope="module")
def cameras(scene: Path) -> Cameras:
    parser = config_of("vanilla-nerf", scene).pipeline.datamanager.dataparser.setup()
    return parser.get_dataparser_outputs("train").cameras


def draw_from(cameras: Cameras):
    def draw(count: int, generator: torch.Generator) -> list[Cameras]:
        index = torch.randint(len(cameras), (count,), generator=generator).tolist()
        return [cameras[i : i + 1] for i in index]

    return draw


def test_it_has_pixels_alone(neus: FrozenTeacher) -> None:
    assert not neus.has_density and neus.feature_dim is None
    assert neus.color_head() is None


def test_what_is_seen_lies_on_the_surface(neus: FrozenTeacher, cameras: Cameras) -> None:
    seen = look(neus, cameras[:1])
    assert seen.rgb.shape == (1600, 3) and seen.opacity.shape == seen.distance.shape == (1600, 1)
    radius = seen.points.norm(dim=-1)
    assert len(radius) > 100
    assert abs(radius.median() - RADIUS) < 0.1
    assert seen.opacity.min() < 0.1


def test_background_is_taken_out(neus: FrozenTeacher, cameras: Cameras, monkeypatch) -> None:
    """The same image over white instead of black says the same about the scene."""
    black = look(neus, cameras[:1])
    neus.model.renderer_rgb.background_color = torch.ones(3)
    monkeypatch.setattr(neus, "space", type(neus.space)(0.05, 1000.0, False, "white"))
    white = look(neus, cameras[:1])
    neus.model.renderer_rgb.background_color = torch.zeros(3)
    torch.testing.assert_close(white.rgb, black.rgb, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(show(neus, cameras[:1], RGBRenderer("white"))[0, 0], torch.ones(3), atol=0.05, rtol=0)


def test_what_lies_outside_the_scene_box_is_for_contracted_students_alone(
    neus: FrozenTeacher, cameras: Cameras, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = look(neus, cameras[:1])
    small = torch.tensor([[-0.1] * 3, [0.1] * 3])
    monkeypatch.setattr(type(neus), "aabb", small)
    assert not (look(neus, cameras[:1]).opacity > 0.5).any()
    torch.testing.assert_close(look(neus, cameras[:1], contracted=True).rgb, whole.rgb)
    grid = OccupancyGrid(small, 32, contracted=True)
    fill_grid_from_views(grid, neus, draw_from(cameras))
    assert grid.contains(whole.points).float().mean() > 0.9


def test_without_accumulation_all_is_opaque(neus: FrozenTeacher, cameras: Cameras, monkeypatch) -> None:
    whole = neus.outputs_for

    def without(camera: Cameras) -> dict[str, torch.Tensor]:
        return {name: value for name, value in whole(camera).items() if name != "accumulation"}

    monkeypatch.setattr(neus, "outputs_for", without)
    seen = look(neus, cameras[:1])
    assert set(seen.opacity.unique().tolist()) <= {0.0, 1.0}  # 0: what lies outside the scene box


def test_a_teacher_without_depth_is_refused(neus: FrozenTeacher, cameras: Cameras, monkeypatch) -> None:
    monkeypatch.setattr(neus, "outputs_for", lambda camera: {"rgb": torch.zeros(40, 40, 3)})
    with pytest.raises(InputError, match="depth"):
        look(neus, cameras[:1])


def test_grid_is_a_shell_about_the_surface_and_the_bank_has_its_pixels(neus: FrozenTeacher, cameras: Cameras) -> None:
    grid, draw = OccupancyGrid(neus.aabb, 32), draw_from(cameras)
    fill_grid_from_views(grid, neus, draw)
    assert 0.02 < grid.share < 0.5
    directions = torch.nn.functional.normalize(torch.randn(200, 3), dim=-1)
    directions[:, 2] = directions[:, 2].abs()  # the cameras look from above
    assert grid.contains(RADIUS * directions).float().mean() > 0.9
    shared = SharedSamples(grid, 0.05, 1000.0, Spacing(0.05))
    part = query_pixels(neus, shared, draw, 300, torch.Generator().manual_seed(0))
    again = query_pixels(neus, shared, draw, 300, torch.Generator().manual_seed(0))
    assert part.points is None
    for name, width in (("origins", 3), ("directions", 3), ("rgb", 3), ("opacity", 1), ("start", 1), ("end", 1)):
        assert getattr(part.rays, name).shape == (300, width)
        assert torch.equal(getattr(part.rays, name), getattr(again.rays, name))
    rays = part.rays
    solid = (rays.opacity > 0.9)[:, 0]
    assert solid.any()
    middle = (rays.origins + (rays.start + rays.end) / 2 * rays.directions)[solid].norm(dim=-1)
    assert abs(middle.median() - RADIUS) < 0.15
    assert (rays.rgb <= rays.opacity + 1e-3).all()


def test_conversion_from_pixels_alone(families: Mapping[str, Path], tmp_path: Path, capsys) -> None:
    options = ("--teacher-checkpoint", str(families["neus"]), "--student", "mlp", "--max-num-iterations", "120")
    options += ("--pipeline.distillation.refresh-every", "1000", "--pipeline.distillation.rays-per-step", "256")
    trainer = start(distil_config(tmp_path, *options))
    said = " ".join(capsys.readouterr().out.split())
    assert "its renderings alone" in said and "neus has" in said
    pipeline = trainer.pipeline
    assert isinstance(pipeline, DistillationPipeline)
    assert pipeline.bank_at(0).advance(0) == 0
    before = pipeline.get_train_loss_dict(0)[2]["psnr_to_teacher"]
    trainer.train()
    loss, metrics = pipeline.get_train_loss_dict(119)[1:]
    assert "pixel_loss" in loss and "color_loss" not in loss
    assert metrics["psnr_to_teacher"] > before + 1
    _, loaded, _, _ = eval_setup(trainer.base_dir / "config.yml")
    assert loaded.model.get_outputs_for_camera(loaded.datamanager.eval_dataset.cameras[:1])["rgb"].std() > 0.01


def test_where_two_surfaces_share_a_pixel_both_are_looked_for(neus: FrozenTeacher) -> None:
    """A pixel on an edge has the mean of two depths, where there is nothing."""
    grid = OccupancyGrid(torch.tensor([[-1.0] * 3, [1.0] * 3]), 64)
    shared = SharedSamples(grid, 0.0, 10.0, Spacing(0.01))
    distance = torch.full((6, 12), 3.0)
    distance[:, 6:], distance[:, 6] = 5.0, 4.0
    opacity = torch.ones(6, 12)
    opacity[:, 11] = 0.2
    zero = torch.zeros(72, 3)
    seen = Seen(zero, zero, zero, opacity.view(-1, 1), zero, distance.view(-1, 1))
    start, end = (value.view(6, 12) for value in _span(shared, seen, 6))
    assert (start[:, 6] < 3).all() and (end[:, 6] > 5).all()
    assert (start[:, 0] > 2.8).all() and (end[:, 0] < 3.2).all()
    assert (start[:, 10] > 4.8).all() and end[:, 10].isfinite().all()
    assert (start[:, 11] == 0).all() and end[:, 11].isinf().all()
