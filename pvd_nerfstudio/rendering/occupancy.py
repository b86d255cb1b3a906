"""Where there is anything to see: a grid filled from a density, and the march of rays through it."""

from collections.abc import Callable
from dataclasses import dataclass

import nerfacc
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pvd_nerfstudio.rendering.compositing import nerfacc_runs

DensityFn = Callable[[Float[Tensor, "points 3"]], Float[Tensor, "points 1"]]


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


class OccupancyGrid(nn.Module):
    """One bit a cell over a box: does it hold density worth a sample?

    Args:
        aabb: the box, lower and upper corner, `[2, 3]`.
        resolution: cells along each side.
    """

    aabb: Tensor
    bounds: Tensor
    occupied: Tensor

    def __init__(self, aabb: Float[Tensor, "2 3"], resolution: int) -> None:
        super().__init__()
        self.register_buffer("aabb", aabb.clone())
        self.register_buffer("bounds", aabb.clone())
        occupied = torch.ones(resolution, resolution, resolution, dtype=torch.bool)
        self.register_buffer("occupied", occupied, persistent=False)

    def get_extra_state(self) -> Tensor:
        """The cells as a checkpoint holds them, eight in a byte."""
        return torch.from_numpy(np.packbits(self.occupied.cpu().numpy()))

    def set_extra_state(self, state: Tensor) -> None:
        """The cells from a checkpoint."""
        cells = np.unpackbits(state.cpu().numpy(), count=self.occupied.numel())
        self.occupied.copy_(torch.from_numpy(cells).view_as(self.occupied).bool())

    @property
    def resolution(self) -> int:
        return self.occupied.shape[0]

    @property
    def share(self) -> float:
        """Share of the cells that are occupied."""
        return self.occupied.float().mean().item()

    @torch.no_grad()
    def fill(self, density: DensityFn, threshold: float, chunk: int = 1 << 17) -> None:
        """Mark each cell with density above `threshold` at one of its corners.

        A grid of half the resolution comes first, grown by a cell; the full one is asked only inside it.
        """
        coarse = _corner_density(density, self.aabb, self.resolution // 2, None, chunk) > threshold
        near = functional.max_pool3d(_cells(coarse)[None].float(), 3, stride=1, padding=1)
        wanted = functional.interpolate(near[None], size=(self.resolution,) * 3, mode="nearest")[0, 0] > 0
        corners = functional.max_pool3d(functional.pad(wanted[None].float(), (1,) * 6), 2, stride=1)[0] > 0
        fine = _corner_density(density, self.aabb, self.resolution, corners, chunk) > threshold
        self.occupy(_cells(fine))

    def occupy(self, cells: Bool[Tensor, "x y z"]) -> None:
        """Mark these cells and no others."""
        self.occupied.copy_(cells)
        self.bounds.copy_(self._occupied_bounds())

    def restrict(self, other: "OccupancyGrid") -> None:
        """Drop the cells that lie outside another grid, looked up at the middles of their eight octants."""
        cells = self.occupied.nonzero()
        octants = torch.cartesian_prod(*[torch.tensor([0.25, 0.75], device=cells.device)] * 3)
        unit = (cells[:, None] + octants) / self.resolution
        positions = self.aabb[0] + unit * (self.aabb[1] - self.aabb[0])
        kept = cells[other.contains(positions).any(dim=1)]
        occupied = torch.zeros_like(self.occupied)
        occupied[tuple(kept.T)] = True
        self.occupy(occupied)

    def contains(self, positions: Float[Tensor, "*batch 3"]) -> Bool[Tensor, "*batch"]:
        """Whether each position lies in an occupied cell; outside the box never."""
        unit = (positions - self.aabb[0]) * (self.resolution / (self.aabb[1] - self.aabb[0]))
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
        step_size: float,
    ) -> PackedSamples:
        """Intervals of `step_size`, counted from `near`, whose midpoint lies in an occupied cell and before `far`.

        nerfacc marches on CUDA where it runs; elsewhere every candidate inside the occupied box is looked up at once.
        """
        if origins.is_cuda and nerfacc_runs():
            intervals, samples = nerfacc.traverse_grids(
                origins,
                directions,
                self.occupied[None],
                self.aabb.reshape(1, 6),
                near_planes=near[:, 0],
                far_planes=far[:, 0],
                step_size=step_size,
            )
            assert samples.ray_indices is not None
            starts = intervals.vals[intervals.is_left][:, None]
            ends = intervals.vals[intervals.is_right][:, None]
            return PackedSamples(samples.ray_indices, starts, ends)
        enter, leave = _box_span(origins, directions, self.bounds)
        enter, leave = torch.maximum(enter, near), torch.minimum(leave, far)
        first = torch.floor((enter - near) / step_size)
        crossing = (leave > enter)[:, 0].nonzero()[:, 0]
        if not len(crossing):
            empty = origins.new_zeros(0, 1)
            return PackedSamples(crossing, empty, empty)
        count = int(((leave - enter)[crossing].max() / step_size).ceil().item()) + 1
        starts = near[crossing] + (first[crossing] + torch.arange(count, device=origins.device)) * step_size
        middle = starts + step_size / 2
        keep = (middle < leave[crossing]) & self.contains(
            origins[crossing, None] + middle[..., None] * directions[crossing, None]
        )
        rays, steps = keep.nonzero(as_tuple=True)
        starts = starts[rays, steps][:, None]
        return PackedSamples(crossing[rays], starts, starts + step_size)

    def _occupied_bounds(self) -> Float[Tensor, "2 3"]:
        """Smallest box around the occupied cells; the whole box when there are none."""
        cells = self.occupied.nonzero()
        if not len(cells):
            return self.aabb
        corners = torch.stack([cells.amin(dim=0), cells.amax(dim=0) + 1]).to(self.aabb)
        return self.aabb[0] + corners * ((self.aabb[1] - self.aabb[0]) / self.resolution)


def _box_span(origins: Tensor, directions: Tensor, aabb: Tensor) -> tuple[Tensor, Tensor]:
    """Distances at which rays enter and leave a box, `[rays, 1]` each; they leave before they enter when they miss."""
    tiny = torch.finfo(directions.dtype).eps
    safe = torch.where(directions.abs() < tiny, torch.full_like(directions, tiny), directions)
    planes = torch.stack([(aabb[0] - origins) / safe, (aabb[1] - origins) / safe])
    return planes.amin(dim=0).amax(dim=-1, keepdim=True), planes.amax(dim=0).amin(dim=-1, keepdim=True)


def _corner_density(density: DensityFn, aabb: Tensor, resolution: int, mask: Tensor | None, chunk: int) -> Tensor:
    """Density at the corners of the cells, `[resolution + 1] * 3`; zero where `mask` is false."""
    steps = [
        torch.linspace(float(low), float(high), resolution + 1, device=aabb.device) for low, high in aabb.T.tolist()
    ]
    corners = torch.stack(torch.meshgrid(*steps, indexing="ij"), dim=-1)
    out = corners.new_zeros(corners.shape[:3])
    wanted = torch.ones_like(out, dtype=torch.bool) if mask is None else mask
    points = corners[wanted]
    # The outermost corners lie on the box itself, where fields that clip to it answer zero.
    points = torch.maximum(torch.minimum(points, aabb[1] - 1e-4), aabb[0] + 1e-4)
    if len(points):
        out[wanted] = torch.cat([density(part)[:, 0] for part in points.split(chunk)])
    return out


def _cells(corners: Bool[Tensor, "x y z"]) -> Bool[Tensor, "x-1 y-1 z-1"]:
    """A cell holds what any of its eight corners holds."""
    return functional.max_pool3d(corners[None].float(), 2, stride=1)[0] > 0
