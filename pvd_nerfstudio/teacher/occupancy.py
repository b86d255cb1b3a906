"""Where a teacher shows something: an occupancy grid filled from its density, or from the depth of its renderings."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from nerfstudio.cameras.rays import RayBundle
from torch import Generator, Tensor
from torch.nn import functional

from pvd_nerfstudio.data.orbit import Box
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.progress import with_bar
from pvd_nerfstudio.input.text import say
from pvd_nerfstudio.rendering.compositing import render_weights
from pvd_nerfstudio.rendering.occupancy import OccupancyGrid, VisibleFn
from pvd_nerfstudio.rendering.space import Spacing
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.teacher.pixels import DrawViews, look
from pvd_nerfstudio.teacher.targets import SharedSamples

THINNER = (1.0, 0.1, 0.01)
"""What the threshold is multiplied with, one after another, until something is above it."""
SEEN_RAYS = 1 << 14
"""Rays by which cells are found that can be seen."""
RAYS_AT_ONCE = 1 << 10
SEEN = 1e-3
"""Compositing weight from which on a cell is seen."""
REGION_CELLS = 48
"""Cells along each side of the grid that tells roughly where something is."""
GRID_VIEWS = 64
"""Views whose depth fills the grid of a teacher without density."""
GRID_SIZE = 200
"""Longer side of those views in pixels; larger ones are scaled down."""


def fill_grid(grid: OccupancyGrid, teacher: FrozenTeacher, spacing: Spacing, threshold: float) -> None:
    """Mark the cells in which one sample of the teacher would have an opacity above `threshold`.

    A sample is as much longer in contracted space as the cells there are. Where all is thinner than that, as the fog of
    a teacher that has hardly been trained, the threshold is lower.

    Raises:
        InputError: there are none.
    """
    for share in THINNER:
        cells = teacher.occupied(grid.aabb, grid.resolution, share * threshold)
        if cells is None:
            grid.fill(_visible_to(teacher, grid, spacing, share * threshold))
        else:
            grid.occupy(cells)
        if teacher.grid is not None:
            grid.restrict(teacher.grid)
        if grid.occupied.any():
            break
    else:
        raise InputError(
            f"The teacher {teacher.run.checkpoint_path} has no density anywhere in its scene box "
            f"{teacher.box.cpu().numpy().round(4).tolist()}: its renderings are background. Look at it with "
            "ns-viewer; its training has probably collapsed."
        )
    if share < 1:
        say(
            f"The teacher is thin fog: no sample has an opacity of {threshold:g}, so {share * threshold:g} counts.",
            "yellow",
        )
    say(f"Occupancy grid: {grid.resolution}^3 cells, {grid.share:.1%} occupied.")


def _visible_to(teacher: FrozenTeacher, grid: OccupancyGrid, spacing: Spacing, threshold: float) -> VisibleFn:
    """Whether one sample of the teacher at a position would have an opacity above the threshold."""

    def visible(positions: Tensor) -> Tensor:
        length = spacing.step_size * grid.stretch(positions) / grid.scale
        return (teacher.density(positions, spacing.step_size) * length)[:, 0] > -math.log1p(-threshold)

    return visible


def occupied_region(teacher: FrozenTeacher) -> Box | None:
    """Smallest box around what a teacher shows in its scene box; None where it cannot be queried."""
    if teacher.shows_views:
        return None
    box = teacher.box
    diagonal = float((box[1] - box[0]).norm())
    grid = OccupancyGrid(box, REGION_CELLS).to(teacher.device)
    grid.fill(_visible_to(teacher, grid, Spacing(diagonal / REGION_CELLS), 1 / 2))
    if teacher.grid is not None:
        grid.restrict(teacher.grid)
    x, y, z, to_x, to_y, to_z = grid.bounds.flatten().tolist()
    return x, y, z, to_x, to_y, to_z


@torch.no_grad()
def drop_unseen(
    teacher: FrozenTeacher, shared: SharedSamples, draw_rays: Callable[[int, Generator], RayBundle], seed: int
) -> None:
    """Drop the cells that no ray shows: most of contracted space is filled with what nobody ever sees.

    Args:
        teacher: who is queried.
        shared: whose grid it is.
        draw_rays: gives any number of rays into the scene.
        seed: of their choice.

    Raises:
        InputError: nothing at all is seen.
    """
    grid, generator = shared.grid, Generator(device=teacher.device).manual_seed(seed)
    seen, sky = [torch.zeros(0, 3, device=teacher.device)], []
    coarse = replace(shared, spacing=shared.spacing.scaled(2))
    for _ in with_bar(range(SEEN_RAYS // RAYS_AT_ONCE), "Looking for what can be seen"):
        rays = draw_rays(RAYS_AT_ONCE, generator)
        samples = coarse.march(rays.origins, rays.directions)
        if len(samples):
            positions = samples.positions(rays.origins, rays.directions)
            density = teacher.density(positions, coarse.spacing.step_size)
            weights = render_weights(density, samples.ends - samples.starts, samples.ray_indices, len(rays))
            seen.append(positions[weights[:, 0] > SEEN])
        if shared.has_sky:
            sky.append(rays.origins + shared.far * rays.directions)
    before = grid.share
    if not any(map(len, seen)) and not sky:
        raise InputError("No camera sees the teacher's occupied space. Does --data belong to the teacher's scene?")
    grid.keep_seen(torch.cat(seen), torch.cat(sky) if sky else None)
    say(f"Of them {grid.share / before:.1%} are seen: {grid.share:.1%} of all.")


def fill_grid_from_views(grid: OccupancyGrid, teacher: FrozenTeacher, draw_views: DrawViews) -> None:
    """Mark the cells in which the depth of many views lies, and two cells about each.

    Raises:
        InputError: there are none.
    """
    generator = Generator(device=teacher.device).manual_seed(0)
    hit = torch.zeros_like(grid.occupied).view(-1)
    for drawn in draw_views(GRID_VIEWS, generator):
        camera = copy.deepcopy(drawn)
        longer = max(int(camera.height), int(camera.width))
        if longer > GRID_SIZE:
            camera.rescale_output_resolution(GRID_SIZE / longer)
        seen = look(teacher, camera, grid.contracted)
        cells = (grid.to_unit(seen.points) * grid.resolution).long()
        x, y, z = cells.clamp(0, grid.resolution - 1).unbind(-1)
        hit[(x * grid.resolution + y) * grid.resolution + z] = True
    cells = functional.max_pool3d(hit.view(1, *grid.occupied.shape).float(), 5, stride=1, padding=2)[0] > 0
    if not cells.any():
        raise InputError(
            f"The teacher {teacher.run.checkpoint_path} shows nothing in its scene box in any of {GRID_VIEWS} views. "
            "Look at it with ns-viewer; does --data belong to its scene?"
        )
    grid.occupy(cells)
    say(f"Occupancy grid from the depth of {GRID_VIEWS} views: {grid.share:.1%} occupied.")
