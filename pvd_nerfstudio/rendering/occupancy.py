"""Where there is anything to see: a grid filled from a density, and the march of rays through it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import nerfacc
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from pvd_nerfstudio.input.progress import with_bar
from pvd_nerfstudio.rendering.kernels import kernels_run
from pvd_nerfstudio.rendering.space import Region, Spacing

FEW_PARTS = 4
"""Of a grid's corners, up to which they are asked without a bar."""
CANDIDATES = 1 << 22
"""Samples of all rays up to which a GPU looks at them all, rather than wait until the CPU knows how many count."""
VisibleFn = Callable[[Float[Tensor, "points 3"]], Bool[Tensor, "points"]]


@dataclass
class PackedSamples:
    """Intervals on rays, sorted by ray and by distance."""

    ray_indices: Int[Tensor, "samples"]
    starts: Float[Tensor, "samples 1"]
    ends: Float[Tensor, "samples 1"]

    def __len__(self) -> int:
        return len(self.ray_indices)

    def positions(self, origins: Float[Tensor, "rays 3"], directions: Float[Tensor, "rays 3"]) -> Tensor:
        """Midpoint of each interval, `[samples, 3]`."""
        middle = (self.starts + self.ends) / 2
        return origins.index_select(0, self.ray_indices) + middle * directions.index_select(0, self.ray_indices)


def unpacked(bits: Tensor, shape: tuple[int, ...]) -> Bool[Tensor, "*shape"]:
    """Cells that a checkpoint holds, eight in a byte.

    Raises:
        ValueError: it holds another number of them.
    """
    count = math.prod(shape)
    if not isinstance(bits, Tensor) or bits.dtype != torch.uint8 or bits.shape != ((count + 7) // 8,):
        raise ValueError(f"{count} cells are not what is saved")
    return torch.from_numpy(np.unpackbits(bits.cpu().numpy(), count=count)).view(shape).bool()


class OccupancyGrid(Region):
    """One bit a cell over the unit cube: does it hold density worth a sample?

    Args:
        aabb: the scene box, lower and upper corner, `[2, 3]`.
        resolution: cells along each side.
        contracted: whether the cube is all of space, contracted, and not the scene box.
    """

    bounds: Tensor
    occupied: Tensor
    longest: float
    """How long a ray may be on its way through the grid."""

    def __init__(self, aabb: Float[Tensor, "2 3"], resolution: int, contracted: bool = False) -> None:
        super().__init__(aabb, contracted)
        self.register_buffer("bounds", aabb.clone())
        occupied = torch.ones(resolution, resolution, resolution, dtype=torch.bool)
        self.register_buffer("occupied", occupied, persistent=False)
        self._measure()

    def get_extra_state(self) -> dict[str, Any]:
        """The cells as a checkpoint holds them, eight in a byte."""
        return {"contracted": self.contracted, "cells": torch.from_numpy(np.packbits(self.occupied.cpu().numpy()))}

    def set_extra_state(self, state: dict[str, Any] | Tensor) -> None:
        """The cells from a checkpoint; an older one has those of the scene box, also in contracted space."""
        self._measure()
        saved = state if isinstance(state, dict) else {"contracted": False, "cells": state}
        self.occupied.copy_(unpacked(saved["cells"], self.occupied.shape))
        if saved["contracted"] != self.contracted:
            box = OccupancyGrid(self.aabb, self.resolution)
            box.occupied = self.occupied.clone()
            self.occupied.fill_(True)
            self.restrict(box)

    @property
    def resolution(self) -> int:
        return self.occupied.shape[0]

    @property
    def share(self) -> float:
        """Share of the cells that are occupied."""
        return self.occupied.float().mean().item()

    @torch.no_grad()
    def fill(self, visible: VisibleFn, chunk: int = 1 << 17) -> None:
        """Mark each cell with something visible at one of its corners.

        In a box, a grid of half the resolution comes first, grown by a cell; the full one is queried only inside it.
        """
        corners = None
        if not self.contracted:
            coarse = _cells(self._corners(visible, self.resolution // 2, None, chunk))
            wanted = _finer(_grown(coarse), self.resolution)
            corners = functional.max_pool3d(functional.pad(wanted[None].float(), (1,) * 6), 2, stride=1)[0] > 0
        self.occupy(_cells(self._corners(visible, self.resolution, corners, chunk)))

    def keep_seen(self, positions: Float[Tensor, "points 3"], sky: Float[Tensor, "points 3"] | None = None) -> None:
        """Drop the cells that are far from all of these points, by one to two cells of half the resolution.

        Args:
            positions: where something is seen.
            sky: where rays end that see the sky: the outermost cells there are occupied, so that it is learned.
        """
        seen = self.occupied & self._about(positions)
        if sky is not None:
            inside = self.occupied.new_ones((self.resolution - 2,) * 3)
            seen |= self._about(sky) & ~functional.pad(inside, (1,) * 6)
        self.occupy(seen)

    def _about(self, positions: Float[Tensor, "points 3"]) -> Bool[Tensor, "x y z"]:
        """The cells about points."""
        coarse = self.resolution // 2
        hit = self.occupied.new_zeros(coarse, coarse, coarse)
        unit = self.to_unit(positions)
        hit[tuple((unit * coarse).long().clamp(0, coarse - 1).T)] = True
        return _finer(_grown(hit), self.resolution)

    def occupy(self, cells: Bool[Tensor, "x y z"]) -> None:
        """Mark these cells and no others."""
        self.occupied.copy_(cells)
        self.bounds.copy_(self._occupied_bounds())
        self._measure()

    def _measure(self) -> None:
        """Note how long a ray may be on its way through the grid."""
        self.longest = math.inf if self.contracted else float((self.bounds[1] - self.bounds[0]).norm())

    def restrict(self, other: "OccupancyGrid | NestedGrid") -> None:
        """Drop the cells that lie outside another grid, looked up at the middles of their eight octants."""
        cells = self.occupied.nonzero()
        octants = torch.cartesian_prod(*[torch.tensor([0.25, 0.75], device=cells.device)] * 3)
        unit = (cells[:, None] + octants) / self.resolution
        positions = self.to_world(unit)
        kept = cells[other.contains(positions).any(dim=1)]
        occupied = torch.zeros_like(self.occupied)
        occupied[tuple(kept.T)] = True
        self.occupy(occupied)

    def contains(self, positions: Float[Tensor, "*batch 3"]) -> Bool[Tensor, "*batch"]:
        """Whether each position lies in an occupied cell; outside the cube never."""
        unit = self.to_unit(positions) * self.resolution
        inside = ((unit >= 0) & (unit < self.resolution)).all(dim=-1)
        x, y, z = unit.clamp(0, self.resolution - 1).int().unbind(-1)
        return inside & self.occupied.view(-1)[(x * self.resolution + y) * self.resolution + z]

    @torch.no_grad()
    def march(
        self,
        origins: Float[Tensor, "rays 3"],
        directions: Float[Tensor, "rays 3"],
        near: Float[Tensor, "rays 1"],
        far: Float[Tensor, "rays 1"],
        spacing: Spacing,
    ) -> PackedSamples:
        """Intervals, counted from `near`, whose midpoint lies in an occupied cell and before `far`.

        nerfacc marches through a box in even steps, on CUDA where it runs; else every candidate is looked up at once,
        and the CPU waits for a GPU once: for the number of those that count.
        """
        if origins.is_cuda and kernels_run("nerfacc") and not self.contracted and math.isinf(spacing.bend):
            intervals, samples, *_ = nerfacc.traverse_grids(
                origins,
                directions,
                self.occupied[None],
                self.aabb.reshape(1, 6),
                near_planes=near[:, 0].nan_to_num(),  # at NaN the kernel would march for ever
                far_planes=far[:, 0],
                step_size=spacing.step_size,
            )
            assert samples.ray_indices is not None
            starts = intervals.vals[intervals.is_left][:, None]
            ends = intervals.vals[intervals.is_right][:, None]
            return PackedSamples(samples.ray_indices, starts, ends)
        enter, leave = near, far
        if not self.contracted:
            enter, leave = box_span(origins, directions, self.bounds)
            enter, leave = torch.maximum(enter, near), torch.minimum(leave, far)
        most, crosses = spacing.most(self.longest), leave > enter
        if origins.is_cuda and len(origins) * most < CANDIDATES:
            crossing, count = torch.arange(len(origins), device=origins.device), math.ceil(most) + 1
            enter, leave = torch.where(crosses, enter, near), torch.where(crosses, leave, near)
        else:
            crossing = crosses[:, 0].nonzero()[:, 0]
            if not len(crossing):
                empty = origins.new_zeros(0, 1)
                return PackedSamples(crossing, empty, empty)
            span = spacing.steps(leave[crossing]) - spacing.steps(enter[crossing])
            count = int(span.max().ceil().item()) + 1
        begin = spacing.steps(near)
        first = torch.floor(spacing.steps(torch.maximum(enter, near)) - begin)
        edges = spacing.distance(
            (begin + first)[crossing] + torch.arange(count + 1, device=origins.device, dtype=near.dtype)
        )
        middle = (edges[:, :-1] + edges[:, 1:]) / 2
        keep = (middle < leave[crossing]) & self.contains(
            origins[crossing, None] + middle[..., None] * directions[crossing, None]
        )
        rays, steps = keep.nonzero(as_tuple=True)
        return PackedSamples(crossing[rays], edges[rays, steps][:, None], edges[rays, steps + 1][:, None])

    def _corners(self, visible: VisibleFn, resolution: int, mask: Tensor | None, chunk: int) -> Tensor:
        """Whether anything is visible at the corners of cells, `[resolution + 1] * 3`; not where `mask` is false."""
        steps = torch.linspace(0, 1, resolution + 1, device=self.aabb.device)
        corners = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), dim=-1)
        out = torch.zeros(corners.shape[:3], dtype=torch.bool, device=self.aabb.device)
        wanted = torch.ones_like(out) if mask is None else mask
        # The outermost corners lie on the box itself, where fields that clip to it answer zero.
        points = self.to_world(corners[wanted].clamp(3e-5, 1 - 3e-5))
        if len(points):
            parts = points.split(chunk)
            shown = with_bar(parts, "Filling the occupancy grid") if len(parts) > FEW_PARTS else parts
            out[wanted] = torch.cat([visible(part) for part in shown])
        return out

    def _occupied_bounds(self) -> Float[Tensor, "2 3"]:
        """Smallest box around the occupied cells; the whole box when there are none."""
        cells = self.occupied.nonzero()
        if not len(cells):
            return self.aabb
        corners = torch.stack([cells.amin(dim=0), cells.amax(dim=0) + 1]).to(self.aabb)
        return self.aabb[0] + corners * ((self.aabb[1] - self.aabb[0]) / self.resolution)


class NestedGrid:
    """Instant-NGP's grid: boxes around one another, all with as many cells; the innermost that holds a point counts.

    Source: Mueller et al., Instant-NGP, section E.

    Args:
        occupied: cells of each box, the innermost first, `[levels, x, y, z]`.
        boxes: lower and upper corners, `[levels, 6]`.
    """

    def __init__(self, occupied: Bool[Tensor, "levels x y z"], boxes: Float[Tensor, "levels 6"]) -> None:
        self._occupied, self._boxes = occupied, boxes

    def contains(self, positions: Float[Tensor, "*batch 3"]) -> Bool[Tensor, "*batch"]:
        """Whether each position lies in an occupied cell."""
        hit = torch.zeros_like(positions[..., 0], dtype=torch.bool)
        found = hit.clone()
        for cells, box in zip(self._occupied, self._boxes.view(-1, 2, 3)):
            share = (positions - box[0]) / (box[1] - box[0])
            inside = ((share >= 0) & (share < 1)).all(dim=-1) & ~found
            x, y, z = (share[inside] * len(cells)).long().unbind(-1)
            hit[inside] = cells[x, y, z]
            found |= inside
        return hit


def box_span(origins: Tensor, directions: Tensor, aabb: Tensor) -> tuple[Tensor, Tensor]:
    """Distances at which rays enter and leave a box, `[rays, 1]` each; they leave before they enter when they miss."""
    tiny = torch.finfo(directions.dtype).eps
    safe = torch.where(directions.abs() < tiny, torch.full_like(directions, tiny), directions)
    planes = torch.stack([(aabb[0] - origins) / safe, (aabb[1] - origins) / safe])
    return planes.amin(dim=0).amax(dim=-1, keepdim=True), planes.amax(dim=0).amin(dim=-1, keepdim=True)


def _grown(cells: Bool[Tensor, "x y z"]) -> Bool[Tensor, "x y z"]:
    """Cells and all their neighbours."""
    return functional.max_pool3d(cells[None].float(), 3, stride=1, padding=1)[0] > 0


def _finer(cells: Bool[Tensor, "x y z"], resolution: int) -> Bool[Tensor, "r r r"]:
    """The same cells at a higher resolution."""
    return functional.interpolate(cells[None, None].float(), size=(resolution,) * 3, mode="nearest")[0, 0] > 0


def _cells(corners: Bool[Tensor, "x y z"]) -> Bool[Tensor, "x-1 y-1 z-1"]:
    """A cell holds what any of its eight corners holds."""
    return functional.max_pool3d(corners[None].float(), 2, stride=1)[0] > 0
