"""The march and the compositing: against the dense definition, and the same on both devices."""

import math

import pytest
import torch
from nerfstudio.field_components.spatial_distortions import SceneContraction
from torch import Tensor

from pvd_nerfstudio.rendering.compositing import accumulate, render_weights
from pvd_nerfstudio.rendering.occupancy import OccupancyGrid
from pvd_nerfstudio.rendering.space import Region, Spacing
from pvd_nerfstudio.rendering.termination import answer_in_sight

AABB = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])


def ball(positions: Tensor) -> Tensor:
    return 50.0 * (positions.norm(dim=-1, keepdim=True) < 0.5).float()


def rays(count: int = 64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    origins = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1) * 3
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator) * 0.4 - origins, dim=-1)
    near = 1.0 + 0.05 * torch.rand(count, 1, generator=generator)
    return origins, directions, near, torch.full_like(near, 5.0)


@pytest.fixture(scope="module")
def grid() -> OccupancyGrid:
    grid = OccupancyGrid(AABB, 32)
    grid.fill(lambda points: ball(points)[:, 0] > 1.0)
    return grid


def test_grid_keeps_what_is_dense_and_drops_what_is_empty(grid: OccupancyGrid) -> None:
    points = torch.rand(20000, 3) * 2 - 1
    distance = points.norm(dim=-1)
    inside = grid.contains(points)
    assert inside[distance < 0.5].all()
    assert not inside[distance > 0.5 + math.sqrt(3) * 2 / 32].any()
    assert not grid.contains(torch.tensor([[1.5, 0.0, 0.0], [0.0, -1.01, 0.0]])).any()


def test_a_contracted_run_of_older_days_has_the_cells_of_its_scene_box(grid: OccupancyGrid) -> None:
    now = OccupancyGrid(AABB, 32, contracted=True)
    now.set_extra_state(grid.get_extra_state()["cells"])
    points = torch.rand(20000, 3) * 4 - 2
    before, after = grid.contains(points), now.contains(points)
    assert before.any() and after[before].all()
    assert not after[points.norm(dim=-1) > 0.5 + math.sqrt(3) * (2 + 4) / 32].any()
    again = OccupancyGrid(AABB, 32, contracted=True)
    again.set_extra_state(now.get_extra_state())
    assert torch.equal(again.occupied, now.occupied)


def test_march_keeps_exactly_the_midpoints_in_occupied_cells(grid: OccupancyGrid) -> None:
    origins, directions, near, far = rays()
    step = 0.03
    samples = grid.march(origins, directions, near, far, Spacing(step))
    number = torch.arange(200)
    middle = near + (number + 0.5) * step
    dense = grid.contains(origins[:, None] + middle[..., None] * directions[:, None]) & (middle < far)
    ray, index = dense.nonzero(as_tuple=True)
    assert torch.equal(samples.ray_indices, ray)
    torch.testing.assert_close(samples.starts[:, 0], near[ray, 0] + index * step, atol=1e-5, rtol=0)
    torch.testing.assert_close(samples.ends - samples.starts, torch.full_like(samples.starts, step), atol=1e-5, rtol=0)


def test_march_ends_at_far_and_misses_give_nothing(grid: OccupancyGrid) -> None:
    origins, directions, near, _ = rays()
    samples = grid.march(origins, directions, near, torch.full_like(near, 2.6), Spacing(0.03))
    assert len(samples) and samples.starts.max() + 0.015 < 2.6
    assert not len(grid.march(origins, -directions, near, torch.full_like(near, 5.0), Spacing(0.03)))


def test_grid_survives_saving(grid: OccupancyGrid) -> None:
    copy = OccupancyGrid(AABB, 32)
    copy.load_state_dict(grid.state_dict())
    origins, directions, near, far = rays()
    theirs, ours = (one.march(origins, directions, near, far, Spacing(0.03)).starts for one in (copy, grid))
    assert torch.equal(theirs, ours)


@pytest.mark.parametrize("scale", [1.0, 0.01, 1000.0])
def test_contraction_has_a_way_back_and_a_scale(scale: float) -> None:
    unit = torch.rand(500, 3) * 0.98 + 0.01
    space, box = Region(AABB, contracted=True), Region(AABB, contracted=False)
    space.scale = box.scale = scale
    torch.testing.assert_close(space.to_unit(space.to_world(unit)), unit, atol=1e-5, rtol=0)
    contract = SceneContraction(order=float("inf"))
    positions = torch.randn(500, 3) * 4
    torch.testing.assert_close(space.to_unit(scale * positions), (contract(positions) + 2) / 4)
    torch.testing.assert_close(box.to_unit(positions), (positions + 1) / 2)
    near, far = scale * torch.tensor([[0.5, 0.2, 0.0]]), scale * torch.tensor([[4.0, 1.0, 0.0]])
    assert float(space.stretch(near)) == pytest.approx(scale)
    assert float(space.stretch(far)) == pytest.approx(16 * scale)
    assert float(box.stretch(far)) == pytest.approx(scale)


def test_samples_are_even_and_then_even_in_disparity() -> None:
    spacing = Spacing(0.02, bend=2.0)
    edges = spacing.distance(torch.arange(199.0))
    torch.testing.assert_close(edges[:101], torch.arange(101) * 0.02)
    disparity = 1 / edges[100:]
    torch.testing.assert_close(disparity[:-1] - disparity[1:], torch.full((98,), 0.005), atol=1e-5, rtol=0)
    torch.testing.assert_close(spacing.steps(edges), torch.arange(199.0), atol=1e-2, rtol=0)
    middle = (edges[1:] + edges[:-1]) / 2
    torch.testing.assert_close(spacing.length(middle)[:150], edges.diff()[:150], atol=0, rtol=0.02)
    assert spacing.steps(torch.tensor(1000.0)) < 200


def test_march_through_contracted_space_reaches_what_is_far() -> None:
    """A small ball in the middle and a wall 30 away, of which the samples are few and long."""

    def visible(points: Tensor) -> Tensor:
        return (points.norm(dim=-1) < 0.3) | (points[:, 2] < -30)  # noqa: PLR2004

    grid, spacing = OccupancyGrid(AABB, 64, contracted=True), Spacing(0.01, bend=2.0)
    grid.fill(visible)
    assert grid.contains(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, -60.0], [1.0, 2.0, -500.0]])).all()
    assert not grid.contains(torch.tensor([[0.6, 0.0, 0.0], [0.0, 0.0, -8.0], [0.0, 0.0, 60.0]])).any()
    origins = torch.tensor([[0.0, 0.0, 1.0], [0.7, 0.0, 1.0], [0.0, 0.0, 1.0]])
    directions = torch.tensor([[0.0, 0.0, -1.0], [0.0, 0.0, -1.0], [0.0, 0.0, 1.0]])
    near, far = torch.full((3, 1), 0.05), torch.full((3, 1), 1000.0)
    samples = grid.march(origins, directions, near, far, spacing)
    assert (samples.ends > samples.starts).all() and (samples.starts[1:] >= samples.ends[:-1] - 1e-4)[
        samples.ray_indices.diff() == 0
    ].all()
    through, beside = (samples.starts[samples.ray_indices == ray] for ray in (0, 1))
    assert not (samples.ray_indices == 2).any()
    assert through.min() == pytest.approx(0.7, abs=0.1) and 15 < beside.min() < 32  # a cell begins at 16
    assert samples.ends.max() > 300
    grid.keep_seen(torch.tensor([[0.0, 0.0, 0.0]]))
    assert grid.contains(torch.zeros(1, 3)).all() and not grid.contains(torch.tensor([[0.0, 0.0, -60.0]])).any()


def test_weights_are_those_of_each_ray_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    counts = [5, 0, 1, 17, 3]
    index = torch.repeat_interleave(torch.arange(5), torch.tensor(counts))
    density = torch.rand(26, 1, generator=generator) * 30
    lengths = torch.rand(26, 1, generator=generator) * 0.2
    weights = render_weights(density, lengths, index, 5)
    for ray in range(5):
        mine = index == ray
        if mine.any():
            alpha = 1 - torch.exp(-density[mine] * lengths[mine])
            through = torch.cumprod(torch.cat([torch.ones(1, 1), 1 - alpha[:-1]]), dim=0)
            torch.testing.assert_close(weights[mine], through * alpha, atol=1e-6, rtol=1e-5)
    opacity = accumulate(weights, None, index, 5)
    assert opacity.shape == (5, 1) and opacity[1] == 0


def test_weights_stay_exact_behind_many_opaque_rays() -> None:
    index = torch.repeat_interleave(torch.arange(20000), 4)
    density = torch.full((80000, 1), 1000.0)
    density[-4:] = 1.0
    weights = render_weights(density, torch.full_like(density, 0.1), index, 20000)
    alpha = 1 - math.exp(-0.1)
    expected = torch.tensor([[alpha * (1 - alpha) ** number] for number in range(4)])
    torch.testing.assert_close(weights[-4:], expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("density", [0.5, 50.0, 5000.0])
def test_what_is_out_of_sight_is_not_asked_and_not_missed(density: float) -> None:
    """Solid cells all along the rays; then thin ones, through which all is seen."""
    full = OccupancyGrid(AABB, 32)
    full.fill(lambda points: points[:, 0] > -0.5)
    origins, directions, near, far = rays()
    samples = full.march(origins, directions, near, far, Spacing(0.02))
    index, lengths = samples.ray_indices, samples.ends - samples.starts
    positions = samples.positions(origins, directions)
    asked, colored = [], []

    def shallow(points: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(len(points))
        return torch.full_like(points[:, :1], density).log(), points

    def deep(points: Tensor, towards: Tensor) -> Tensor:
        colored.append(len(points))
        return (points + towards).sigmoid()

    log_density, rgb = answer_in_sight(shallow, deep, torch.exp, positions, directions, lengths, index)
    count = sum(asked)
    whole, colors = shallow(positions)[0], deep(positions, directions[index])
    images = []
    for logs, values in ((log_density, rgb), (whole, colors)):
        weights = render_weights(logs.exp(), lengths, index, len(origins))
        images.append(accumulate(weights, torch.cat([values, torch.ones_like(logs)], dim=1), index, len(origins)))
    torch.testing.assert_close(*images, atol=2e-4, rtol=0)
    assert count == len(index) if density == 0.5 else count < 0.4 * len(index)
    assert colored[0] < 0.2 * len(index) or density == 0.5


def test_gradient_of_the_weights() -> None:
    index = torch.tensor([0, 0, 0, 2, 2])
    lengths = torch.full((5, 1), 0.3, dtype=torch.float64)
    density = torch.rand(5, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: render_weights(value, lengths, index, 3), density)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_both_devices_make_the_same_image(grid: OccupancyGrid) -> None:
    images = []
    for device in ("cpu", "cuda"):
        on_device = OccupancyGrid(AABB, 32).to(device)
        on_device.load_state_dict(grid.state_dict())
        origins, directions, near, far = (value.to(device) for value in rays(2048))
        samples = on_device.march(origins, directions, near, far, Spacing(0.01))
        positions = samples.positions(origins, directions)
        weights = render_weights(ball(positions) / 10, samples.ends - samples.starts, samples.ray_indices, 2048)
        images.append(accumulate(weights, (positions * 3).sin() / 2 + 0.5, samples.ray_indices, 2048).cpu())
    torch.testing.assert_close(*images, atol=1e-4, rtol=0)
