"""Rays in, a chunk of the bank out: march through the grid, query the teacher, composite, keep what matters."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.rays import Frustums, RayBundle, RaySamples
from nerfstudio.model_components.renderers import RGBRenderer
from torch import Generator, Tensor

from pvd_nerfstudio.data.views import concatenate
from pvd_nerfstudio.distillation.bank import BankChunk, PointTargets, RayTargets
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.rendering.compositing import accumulate, render_weights
from pvd_nerfstudio.rendering.occupancy import OccupancyGrid, PackedSamples
from pvd_nerfstudio.rendering.space import Spacing
from pvd_nerfstudio.rendering.termination import answer_in_sight
from pvd_nerfstudio.teacher.adapters import Answer
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.teacher.samples import point_samples

NOTHING = 1e-6
"""Added to compositing weights, so that there is a mean of them."""
VISIBLE = 3e-3
"""Compositing weight from which on a sample can be seen."""


@dataclass
class SharedSamples:
    """How rays become the samples that teacher and student share."""

    grid: OccupancyGrid
    near: float
    far: float
    spacing: Spacing
    has_sky: bool = False
    """Whether what a field shows at the far plane is behind everything (nerfstudio's background "last_sample")."""

    def march(self, origins: Tensor, directions: Tensor, shift: Tensor | float = 0.0) -> PackedSamples:
        """Samples of rays, `shift` (a share of a step, `[rays, 1]`) behind the near plane."""
        near = torch.full_like(origins[:, :1], self.near)
        near = near + shift * self.spacing.length(near)
        return self.grid.march(origins, directions, near, torch.full_like(near, self.far), self.spacing)


@dataclass
class Rendered:
    """The teacher on a batch of rays."""

    samples: PackedSamples
    positions: Float[Tensor, "samples 3"]
    directions: Float[Tensor, "samples 3"]
    answer: Answer
    weights: Float[Tensor, "samples 1"]
    rgb: Float[Tensor, "rays 3"]
    """Premultiplied with the opacity."""
    opacity: Float[Tensor, "rays 1"]

    def over(self, renderer: RGBRenderer) -> Float[Tensor, "rays 3"]:
        """The pixels, over the background that a renderer shows in evaluation."""
        return blend(self.rgb, self.opacity, renderer)


def blend(
    premultiplied: Float[Tensor, "rays 3"], opacity: Float[Tensor, "rays 1"], renderer: RGBRenderer
) -> Float[Tensor, "rays 3"]:
    """Colours that are multiplied with their opacity, over the background that a renderer shows in evaluation."""
    return renderer.blend_background(torch.cat([premultiplied / opacity.clamp_min(1e-6), opacity], dim=-1))


def render_teacher(teacher: FrozenTeacher, shared: SharedSamples, rays: RayBundle, shift: Tensor | float) -> Rendered:
    """The teacher's rendering of rays through the shared samples."""
    origins, directions, count = rays.origins, rays.directions, len(rays)
    samples = shared.march(origins, directions, shift)
    rgb, opacity = torch.zeros_like(origins), torch.zeros_like(origins[:, :1])
    if shared.has_sky:
        rgb, opacity = _sky(teacher, origins + shared.far * directions, directions), torch.ones_like(opacity)
    if not len(samples):
        nothing = origins.new_zeros(0, 1)
        answer = Answer(nothing, origins.new_zeros(0, 3), None)
        return Rendered(samples, origins[:0], origins[:0], answer, nothing, rgb, opacity)
    positions = samples.positions(origins, directions)
    ray_samples = _ray_samples(samples, rays)
    answer = teacher.query(ray_samples)
    lengths = samples.ends - samples.starts
    weights = render_weights(answer.log_density.exp(), lengths, samples.ray_indices, count)
    covered = accumulate(weights, None, samples.ray_indices, count)
    rgb = (1 - covered) * rgb + accumulate(weights, answer.rgb, samples.ray_indices, count)
    opacity = covered + (1 - covered) * opacity
    return Rendered(samples, positions, ray_samples.frustums.directions, answer, weights, rgb, opacity)


def render_in_sight(
    teacher: FrozenTeacher, shared: SharedSamples, rays: RayBundle, shift: Tensor | float
) -> tuple[Float[Tensor, "rays 3"], Float[Tensor, "rays 1"]]:
    """The same pixels, of a teacher that is not asked for what lies behind surfaces, nor for colours that nobody sees.

    Returns:
        The colours, premultiplied with the opacity, and the opacity.
    """
    origins, directions, count = rays.origins, rays.directions, len(rays)
    samples, extent = shared.march(origins, directions, shift), shared.spacing.step_size
    index, lengths = samples.ray_indices, samples.ends - samples.starts

    def density_at(positions: Tensor) -> tuple[Tensor, Tensor]:
        return teacher.densities(positions, extent).log(), positions

    def color_at(positions: Tensor, towards: Tensor) -> Tensor:
        return teacher.query_points(positions, towards, extent)[1]

    rgb, opacity = torch.zeros_like(origins), torch.zeros_like(origins[:, :1])
    if len(samples):
        positions = samples.positions(origins, directions)
        log_density, colors = answer_in_sight(density_at, color_at, torch.exp, positions, directions, lengths, index)
        weights = render_weights(log_density.exp(), lengths, index, count)
        rgb, opacity = accumulate(weights, colors, index, count), accumulate(weights, None, index, count)
    if shared.has_sky:
        sky = _sky(teacher, origins + shared.far * directions, directions)
        rgb, opacity = rgb + (1 - opacity) * sky, torch.ones_like(opacity)
    return rgb, opacity


def _sky(
    teacher: FrozenTeacher, positions: Float[Tensor, "rays 3"], directions: Float[Tensor, "rays 3"]
) -> Float[Tensor, "rays 3"]:
    """What is behind everything, at the far plane."""
    return teacher.query(point_samples(positions, directions)).rgb * teacher.sky_left(positions)


def crowd_along(
    teacher: FrozenTeacher,
    shared: SharedSamples,
    draw_rays: Callable[[int, Generator], RayBundle],
    count: int,
    generator: Generator,
) -> float:
    """How many parts of the teacher reach a sample, on average over `count` rays; the rest as in `query_rays`."""
    rays, shift = rays_that_meet_something(shared, draw_rays, count, generator)
    return teacher.crowd(_ray_samples(shared.march(rays.origins, rays.directions, shift), rays))


def _ray_samples(samples: PackedSamples, rays: RayBundle) -> RaySamples:
    """Packed samples in nerfstudio's words, with the cones of their rays."""
    index, starts, ends = samples.ray_indices, samples.starts, samples.ends
    origins, directions, area = (
        value.index_select(0, index) for value in (rays.origins, rays.directions, rays.pixel_area)
    )
    frustums = Frustums(origins=origins, directions=directions, starts=starts, ends=ends, pixel_area=area)
    return RaySamples(frustums=frustums, camera_indices=torch.zeros_like(index)[:, None], deltas=ends - starts)


def query_rays(
    teacher: FrozenTeacher,
    shared: SharedSamples,
    draw_rays: Callable[[int, Generator], RayBundle],
    count: int,
    generator: Generator,
) -> tuple[RayBundle, Rendered]:
    """The teacher on `count` rays that meet something.

    Args:
        teacher: who is queried.
        shared: the samples; they are shifted by a random share of a step.
        draw_rays: gives any number of rays into the scene. Rays through empty space say nothing (the student has the
            same grid) and are drawn again.
        count: of rays.
        generator: of all randomness.
    """
    rays, shift = rays_that_meet_something(shared, draw_rays, count, generator)
    return rays, render_teacher(teacher, shared, rays, shift)


def keep(
    rays: RayBundle, rendered: Rendered, chosen: Int[Tensor, "points"], spacing: Spacing, features: bool
) -> BankChunk:
    """One chunk of the bank: the rays, and some of their samples as points.

    Args:
        rays: as they were drawn.
        rendered: the teacher's answer.
        chosen: which samples become points.
        spacing: of the samples.
        features: whether the points keep their features, for the feature loss.
    """
    answer = rendered.answer
    points = PointTargets(
        positions=rendered.positions[chosen],
        directions=rendered.directions[chosen],
        log_density=answer.log_density[chosen],
        rgb=answer.rgb[chosen],
        weight=rendered.weights[chosen],
        feature=answer.feature[chosen] if features and answer.feature is not None else None,
    )
    start, end = _visible_span(rendered.samples, rendered.weights, spacing, len(rays))
    targets = RayTargets(rays.origins, rays.directions, rendered.rgb, rendered.opacity, start, end)
    return BankChunk(rays=targets, points=points)


def mean_positions(rendered: Rendered, rays: RayBundle) -> Float[Tensor, "rays 3"]:
    """Where each ray ends, on average over the compositing weights; the middle of its samples where it shows nothing.

    Every ray must have a sample.
    """
    index, weights = rendered.samples.ray_indices, rendered.weights + NOTHING
    total = accumulate(weights, None, index, len(rays))
    return accumulate(weights, rendered.positions, index, len(rays)) / total


def _visible_span(
    samples: PackedSamples, weights: Float[Tensor, "samples 1"], spacing: Spacing, count: int
) -> tuple[Float[Tensor, "rays 1"], Float[Tensor, "rays 1"]]:
    """Where the samples of each of so many rays that can be seen begin and end, two samples added; the whole ray where
    none can.
    """
    index = samples.ray_indices[:, None]
    seen = weights > VISIBLE
    nothing = samples.starts.new_zeros(count, 1)
    start = torch.full_like(nothing, torch.inf).scatter_reduce(
        0, index, samples.starts.masked_fill(~seen, torch.inf), "amin"
    )
    end = nothing.scatter_reduce(0, index, samples.ends.masked_fill(~seen, 0.0), "amax")
    empty = end == 0
    start, end = start - 2 * spacing.length(start), end + 2 * spacing.length(end)
    return start.masked_fill(empty, 0.0), end.masked_fill(empty, torch.inf)


def rays_that_meet_something(
    shared: SharedSamples, draw_rays: Callable[[int, Generator], RayBundle], count: int, generator: Generator
) -> tuple[RayBundle, Tensor]:
    """Rays with at least one sample, and the random shift of their samples, `[count, 1]`."""
    kept_rays, kept_shift, found = [], [], 0
    for _ in range(50):
        rays = draw_rays(count, generator)
        shift = torch.rand(count, 1, generator=generator, device=generator.device)
        index = shared.march(rays.origins, rays.directions, shift).ray_indices.unique()
        mixed = torch.randperm(len(index), generator=generator, device=index.device)
        index = index[mixed[: count - found]]
        kept_rays.append(rays[index])
        kept_shift.append(shift[index])
        found += len(index)
        if found == count:
            return concatenate(kept_rays), torch.cat(kept_shift)
    raise InputError(
        "The cameras hardly see the teacher's occupied space. Does --data belong to the teacher's scene, and do "
        "--pipeline.model.near-plane and --pipeline.model.far-plane enclose it?"
    )
