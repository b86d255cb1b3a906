"""How far away lies what a teacher shows: it decides how large a scene is and how long its samples may be."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle
from torch import Generator, Tensor

from pvd_nerfstudio.rendering.compositing import render_weights
from pvd_nerfstudio.rendering.space import stretch
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.teacher.pixels import DrawViews, look

RAYS, SAMPLES = 512, 256
"""Rays that are asked, and samples of each, at distances that grow by a factor."""
NEAREST = 1e-5
"""Share of the far plane at which samples begin where the near plane does not say."""
VIEWS = 8
"""Views that are asked where only renderings can be had."""
BACKDROP = 16
"""What is as many times farther than cameras are apart looks flat, and says nothing about the size of a scene."""


@dataclass
class Shown:
    """Parts of pixels: where they lie, and how much they show."""

    positions: Float[Tensor, "parts 3"]
    distance: Float[Tensor, "parts"]
    """From the camera."""
    weight: Float[Tensor, "parts"]
    baseline: float
    """Root mean square of the cameras' distances from their middle."""

    @property
    def scale(self) -> float:
        """Half of what is shown is nearer to the middle of the scene: so cells are smallest, in the geometric mean.

        Contracted space of scale s has cells of s max(1, x/s)^2 at x. The mean of their logarithms is least where as
        much lies inside as outside.
        """
        near = self.weight * (self.distance < BACKDROP * self.baseline)
        found = _quantile(self.positions.abs().amax(dim=-1), near if near.sum() > 0 else self.weight, 1 / 2)
        return found if found > 0 else 1.0

    def bend(self, scale: float) -> float:
        """Distance up to which samples must be even to be no longer than cells are, for 19 in 20 parts of the pixels.

        Cells grow with the square of the distance from the middle of the scene, samples with that from the camera.
        Where a camera in the distance sees what lies in the middle, samples would be too long; where it sees what is
        as far out as itself, they would be needlessly short.
        """
        cells = stretch(self.positions / scale)[:, 0]
        return _quantile(self.distance / (2 * cells).sqrt(), self.weight, 0.95)


@torch.no_grad()
def shown_along_rays(teacher: FrozenTeacher, draw_rays: Callable[[int, Generator], RayBundle], seed: int) -> Shown:
    """What rays meet in a teacher's density.

    Args:
        teacher: who is asked.
        draw_rays: gives any number of rays into the scene.
        seed: of their choice.
    """
    rays = draw_rays(RAYS, Generator(device=teacher.device).manual_seed(seed))
    near, far = teacher.space.near or NEAREST * teacher.space.far, teacher.space.far
    edges = torch.logspace(math.log10(near), math.log10(far), SAMPLES + 1, device=teacher.device)
    middle, length = ((edges[1:] + edges[:-1]) / 2).repeat(len(rays)), edges.diff().repeat(len(rays))
    index = torch.arange(len(rays), device=teacher.device).repeat_interleave(SAMPLES)
    positions = rays.origins[index] + middle[:, None] * rays.directions[index]
    density = teacher.density(positions, near)
    if teacher.grid is not None:  # outside of it a teacher has learned nothing, and shows nothing
        density = density * teacher.grid.contains(positions)[:, None]
    weight = render_weights(density, length[:, None], index, len(rays))[:, 0]
    return Shown(positions, middle, weight, _baseline(rays.origins))


def shown_in_views(teacher: FrozenTeacher, draw_views: DrawViews, seed: int) -> Shown:
    """What the depth of some views says."""
    seen = [
        look(teacher, camera, contracted=True)
        for camera in draw_views(VIEWS, Generator(device=teacher.device).manual_seed(seed))
    ]
    points = torch.cat([view.points for view in seen])
    origins = torch.cat([view.origins[:1].expand_as(view.points) for view in seen])
    return Shown(
        positions=points,
        distance=(points - origins).norm(dim=-1),
        weight=torch.ones_like(points[:, 0]),
        baseline=_baseline(torch.cat([view.origins[:1] for view in seen])),
    )


def _baseline(origins: Float[Tensor, "cameras 3"]) -> float:
    return float((origins - origins.mean(dim=0)).square().sum(dim=-1).mean().sqrt())


def _quantile(values: Float[Tensor, "parts"], weight: Float[Tensor, "parts"], share: float) -> float:
    """The value under which a share of the weight lies; 0 where there is no weight."""
    order = values.argsort()
    sums = weight[order].cumsum(0)
    if not len(values) or sums[-1] <= 0:
        return 0.0
    return float(values[order][int(torch.searchsorted(sums, share * sums[-1]).clamp_max(len(order) - 1))])
