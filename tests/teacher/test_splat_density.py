"""Gaussians asked at points: what a ray has of them is what is drawn, and no one is overlooked."""

import math

import pytest
import torch
from torch import Tensor

from pvd_nerfstudio.rendering.compositing import accumulate, render_weights
from pvd_nerfstudio.rendering.harmonics import draw
from pvd_nerfstudio.rendering.splatting import View, rotations
from pvd_nerfstudio.teacher.splat_density import SplatDensity

VIEW = View(torch.eye(3), torch.tensor([0.0, 0.0, 4.0]), focal=(60.0, 60.0), centre=(24.0, 20.0), width=48, height=40)
STEP = 0.02


def stored(count: int, size: float, spread: float = 1.0, sizes: float = 0.7) -> dict[str, Tensor]:
    """Gaussians of all shapes and opacities in a ball, with harmonics of degree 1."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "means": spread * 0.5 * normal(count, 3),
        "scales": math.log(size) + sizes * normal(count, 3),
        "quats": normal(count, 4),
        "opacities": 2 * normal(count, 1),
        "features_dc": normal(count, 3),
        "features_rest": 0.3 * normal(count, 3, 3),
    }


def rays() -> tuple[Tensor, Tensor, Tensor]:
    """Origins and directions of all pixels, and how far apart neighbouring pixels are a unit away."""
    down, right = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(48) + 0.5, indexing="ij")
    towards = torch.stack([(right - 24) / 60, (down - 20) / 60, torch.ones_like(down)], dim=-1).view(-1, 3)
    directions = torch.nn.functional.normalize(towards, dim=-1)
    return VIEW.position.expand_as(directions), directions, 1 / 60 / towards.norm(dim=-1, keepdim=True)


def volume_rendered(gaussians: SplatDensity) -> Tensor:
    """Colour and opacity of all pixels, by samples that are as even as a student's."""
    origins, directions, width = rays()
    starts = torch.arange(2.0, 6.0, STEP)
    middle = (starts + STEP / 2)[None, :, None]
    positions = (origins[:, None] + middle * directions[:, None]).flatten(0, 1)
    length = torch.full_like(positions[:, :1], STEP)
    index = torch.arange(len(directions)).repeat_interleave(len(starts))
    width = (width[:, None] * middle).flatten(0, 1)
    density, rgb = gaussians.query(positions, directions[index], length, width)
    weights = render_weights(density, length, index, len(directions))
    parts = (accumulate(weights, value, index, len(directions)) for value in (rgb, None))
    return torch.cat(list(parts), dim=-1).view(40, 48, 4)


def psnr(one: Tensor, other: Tensor) -> float:
    return float(-10 * (one - other).square().mean().log10())


@pytest.mark.parametrize(("count", "least"), [(1, 50.0), (40, 40.0), (2000, 33.0)])
def test_volume_rendering_shows_what_is_drawn(count: int, least: float) -> None:
    """Many Gaussians pervade each other, and then colours are mixed otherwise than they are drawn."""
    values = stored(count, size=0.03)
    if count == 1:
        values["means"], values["opacities"] = torch.tensor([[0.1, 0.05, 0.0]]), torch.tensor([[4.0]])
    image = draw(values, VIEW)
    own = volume_rendered(SplatDensity(values))
    assert image[..., 4].max() > 0.5
    assert psnr(own[..., 3], image[..., 4]) > least + 5
    assert psnr(own[..., :3], image[..., :3]) > least


def test_none_is_overlooked_whatever_its_size() -> None:
    """Sizes of five orders of magnitude, against the sum over all of them, in double precision."""
    values = stored(300, size=0.05, spread=3.0, sizes=2.0)
    values["means"][::2] *= 0.1
    generator = torch.Generator().manual_seed(1)
    positions = torch.cat([values["means"], 2 * torch.randn(2000, 3, generator=generator)])
    directions = torch.nn.functional.normalize(torch.randn(len(positions), 3, generator=generator), dim=-1)
    length, width = torch.full_like(positions[:, :1], 0.01), torch.full_like(positions[:, :1], 0.02)
    density, rgb = SplatDensity(values).query(positions, directions, length, width)
    exact = {name: value.double() for name, value in values.items()}
    axes = rotations(exact["quats"]) * (exact["scales"].exp().square() + 0.3 * 0.02**2).sqrt()[:, None]
    covariance = axes @ axes.transpose(1, 2)
    inverse = torch.linalg.inv(covariance)
    away = positions.double()[:, None] - exact["means"]
    u = directions.double()
    curvature = torch.einsum("pi,gij,pj->pg", u, inverse, u)
    along = torch.einsum("pi,gij,pgj->pg", u, inverse, away) / curvature
    distance = torch.einsum("pgi,gij,pgj->pg", away, inverse, away) - along.square() * curvature
    alpha = exact["opacities"][:, 0].sigmoid() * (-distance / 2).exp()
    depth = -torch.log1p(-alpha.where(alpha >= 1 / 255, 0.0))
    wider = torch.linalg.inv(covariance + 0.005**2 * torch.eye(3))
    whole = torch.einsum("pgi,gij,pgj->pg", away, wider, away)
    reach = (2 * (255 * exact["opacities"][:, 0].sigmoid()).log()).clamp_min(3.3**2)
    variance = 1 / curvature + 0.005**2
    parts = depth * (-along.square() / variance / 2).exp() / (2 * math.pi * variance).sqrt()
    # Of the distribution along a ray a thousandth may be cut off.
    least, most = parts.where(whole <= reach, 0.0).sum(dim=1), parts.sum(dim=1)
    assert (least > 0.1).sum() > 300
    # Where an opacity is at the bound under which nothing is drawn, rounding decides.
    wrong = (density[:, 0] < 0.999 * least - 1e-3) | (density[:, 0] > 1.001 * most + 1e-3)
    assert wrong.float().mean() < 0.002
    assert rgb.isfinite().all() and (rgb[density[:, 0] == 0] == 0).all()


def test_an_answer_does_not_depend_on_what_was_asked_before() -> None:
    values = stored(500, size=0.1)
    positions = values["means"] + 0.05
    directions = torch.nn.functional.normalize(positions, dim=-1)
    one = torch.ones_like(positions[:, :1])
    fresh = SplatDensity(values).query(positions, directions, 0.01 * one, 0.01 * one)
    used = SplatDensity(values)
    used.query(positions, directions, 0.1 * one, 0.3 * one)
    used.density(positions, 0.001 * one, 0.001 * one)
    for again, before in zip(used.query(positions, directions, 0.01 * one, 0.01 * one), fresh):
        assert torch.equal(again, before)


def test_nothing_that_is_seen_has_no_density() -> None:
    """Seen from where it is thinnest, a Gaussian has at least the density that it has along any direction."""
    values = stored(1, size=0.1)
    values["opacities"][:] = 2.0
    gaussians = SplatDensity(values)
    positions = values["means"] + 0.1 * torch.randn(200, 3, generator=torch.Generator().manual_seed(2))
    length = torch.full_like(positions[:, :1], 0.01)
    for number in range(10):
        u = torch.nn.functional.normalize(torch.randn(3, generator=torch.Generator().manual_seed(number)), dim=0)
        seen, _ = gaussians.query(positions[:1] * 0 + values["means"], u[None], length[:1], length[:1])
        assert gaussians.density(values["means"], length[:1], length[:1]) >= seen - 1e-4


def test_one_that_is_endless_or_far_away_does_not_blur_the_others() -> None:
    """Files of other tools have such Gaussians."""
    values = stored(200, size=0.02)
    alone = SplatDensity(values)
    positions = values["means"][:50] + 0.01
    one = torch.ones_like(positions[:, :1])
    before = alone.density(positions, 0.01 * one, 0.01 * one)
    values["means"][199] = torch.tensor([3e4, 0.0, 0.0])
    values["scales"][198] = torch.tensor([200.0, -200.0, -200.0])
    values["opacities"][198] = -5.5
    gaussians = SplatDensity(values)
    after = gaussians.density(positions, 0.01 * one, 0.01 * one)
    assert after.isfinite().all()
    assert (after - before).abs().median() < 1e-3 * before.median()
    pairs = sum(len(points) for points, _ in gaussians._near(positions, 1e-4 * one))
    assert pairs < 50 * 60
    directions, nothing = torch.nn.functional.normalize(values["means"], dim=-1), 0 * values["opacities"]
    answers = gaussians.query(values["means"], directions, nothing, nothing)
    assert all(value.isfinite().all() for value in answers)


def test_a_grid_has_every_cell_in_which_something_is_seen() -> None:
    """Walls thinner than a sample among them; and few others."""
    values = stored(60, size=0.05)
    values["scales"][:, 2] -= 5.0
    values["opacities"][:] = 1.0
    box = torch.tensor([[-1.0, -0.8, -0.5], [1.0, 0.8, 0.7]])
    cells = SplatDensity(values).occupied(box, 32, 0.02)
    axes = rotations(values["quats"])
    generator = torch.Generator().manual_seed(4)
    inside = torch.nn.functional.normalize(torch.randn(200, 60, 3, generator=generator), dim=-1)
    inside = inside * torch.rand(200, 60, 1, generator=generator) * math.sqrt(2 * math.log(0.73 / 0.02))
    points = values["means"] + ((inside * values["scales"].exp())[..., None, :] @ axes.transpose(1, 2))[..., 0, :]
    place = ((points - box[0]) / (box[1] - box[0]) * 32).floor().long().view(-1, 3)
    place = place[((place >= 0) & (place < 32)).all(dim=-1)]
    hit = torch.zeros_like(cells)
    hit[tuple(place.T)] = True
    assert (hit & ~cells).sum() == 0
    assert cells.sum() < 3 * hit.sum()


def test_a_point_that_nobody_looks_at_is_seen_from_above() -> None:
    """Directions out of the middle of a scene are zero in its middle."""
    values = stored(50, size=0.2)
    positions, one = torch.zeros(2, 3), torch.full((2, 1), 0.01)
    directions = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    density, rgb = SplatDensity(values).query(positions, directions, one, one)
    assert density[0] > 0 and torch.equal(density[0], density[1]) and torch.equal(rgb[0], rgb[1])


def test_faint_gaussians_and_no_points_are_no_matter() -> None:
    values = stored(20, size=0.1)
    values["opacities"][:] = -9.0
    gaussians = SplatDensity(values)
    positions = torch.zeros(3, 3)
    one = torch.ones(3, 1)
    assert (gaussians.density(positions, one, one) == 0).all()
    density, rgb = gaussians.query(positions[:0], positions[:0], one[:0], one[:0])
    assert density.shape == (0, 1) and rgb.shape == (0, 3)
