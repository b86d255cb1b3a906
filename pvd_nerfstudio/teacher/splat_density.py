"""Gaussians asked at points: a density whose volume rendering is what their rasteriser draws.

A Gaussian of opacity α lets 1 - α exp(-q / 2) of a ray's light through that passes its middle at q squared standard
deviations (Kerbl et al., 2023, eq. 2). Minus the logarithm of that is an optical depth; it is spread along the ray as a
normal distribution, about where the ray comes closest. So the density depends on the direction one looks in, and what a
ray has in all of one Gaussian, or of several in whatever order, is what is drawn. Colours differ where Gaussians
pervade each other: the rasteriser sorts them by their middles, a volume mixes them.

Gaussians are found by cells: each is entered in those that it reaches into, of a size that suits it.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pvd_nerfstudio.rendering.harmonics import MIDDLE, SH_OF_ONE, degree_of, harmonics
from pvd_nerfstudio.rendering.splatting import BLUR, LARGEST_ALPHA, LEAST_ALPHA, rotations

SMEARED = 0.5
"""Standard deviation along the ray that is added, as a share of a sample's length: what is thinner would fall between
samples, and so wide a normal distribution is summed up right to 1.5 %."""
FAR_ALONG = 3.3
"""Standard deviations up to which a Gaussian is spread along a ray, at least; a thousandth of it lies beyond."""
WIDE = 1.5
"""How far a Gaussian reaches from its middle, in cells, at most."""
SMALL = 0.2
"""Share of the Gaussians that may lie in cells larger than needed."""
CELLS = 1 << 21
"""Cells along an axis, at most."""
ASIDE = 4
"""Cells that are left free below the lowest middle, for what reaches beyond it."""
AT_ONCE = 1 << 14
"""Gaussians that are entered in cells at once."""
PAIRS_AT_ONCE = 1 << 22
"""Pairs of points and Gaussians that are looked at together."""
CELLS_AT_ONCE = 1 << 21
"""Gaussians by cells that are tested together where a grid is filled."""
SETS = 3
"""Sets of cells that are kept, each for blurs up to another power of two."""
TINY, HUGE = 1e-20, 1e12
"""Variances that count as none, and as endless."""


@dataclass
class _Level:
    """Cells of one size, and which Gaussians reach into them."""

    size: float
    keys: Int[Tensor, "cells"]
    """Of the cells that are not empty, sorted."""
    starts: Int[Tensor, "cells"]
    counts: Int[Tensor, "cells"]
    gaussians: Int[Tensor, "entries"]


class SplatDensity:
    """Gaussians that answer at points.

    Args:
        stored: the Gaussians, by the names in `rendering.harmonics.PARAMETERS`.
    """

    def __init__(self, stored: Mapping[str, Tensor]) -> None:
        opacities = stored["opacities"].sigmoid()[:, 0].clamp_max(LARGEST_ALPHA)
        seen = opacities > LEAST_ALPHA
        self._opacities, self._means = opacities[seen], stored["means"][seen]
        self._variances = (2 * stored["scales"][seen]).exp().clamp(TINY, HUGE)
        self._axes = rotations(stored["quats"][seen])
        self._colors = torch.cat([stored["features_dc"][seen][:, None], stored["features_rest"][seen]], dim=1)
        self._reach = (2 * (self._opacities / LEAST_ALPHA).log()).sqrt().clamp_min(FAR_ALONG)
        self._low = self._means.amin(dim=0) if len(self._means) else self._means.new_zeros(3)
        self._cells: dict[int, tuple[list[_Level], Tensor]] = {}

    def density(
        self, positions: Float[Tensor, "points 3"], length: Float[Tensor, "points 1"], width: Float[Tensor, "points 1"]
    ) -> Float[Tensor, "points 1"]:
        """Density at points as it is for one who sees each Gaussian where it is thinnest.

        Args:
            positions: in the world.
            length: of the samples that these are the middles of, along their rays.
            width: distance between neighbouring pixels there.
        """
        total = torch.zeros_like(positions[:, :1])
        blur, smear = BLUR * width.square(), (SMEARED * length).square()
        for points, gaussians in self._near(positions, blur + smear):
            away, variances = self._local(positions, blur, points, gaussians)
            depth = self._depth(gaussians, (away.square() / variances).sum(dim=-1))
            along = variances.amin(dim=-1) + smear[points, 0]
            total.index_add_(0, points, (depth / (2 * math.pi * along).sqrt())[:, None])
        return total

    def query(
        self,
        positions: Float[Tensor, "points 3"],
        directions: Float[Tensor, "points 3"],
        length: Float[Tensor, "points 1"],
        width: Float[Tensor, "points 1"],
    ) -> tuple[Float[Tensor, "points 1"], Float[Tensor, "points 3"]]:
        """Density and colour at points, as they are seen along directions of unit length, from above where one is zero;
        sizes as in `density`.
        """
        is_none = (directions == 0).all(dim=-1, keepdim=True)
        directions = torch.where(is_none, directions.new_tensor([0.0, 0.0, -1.0]), directions)
        total = positions.new_zeros(len(positions), 4)
        blur, smear = BLUR * width.square(), (SMEARED * length).square()
        one = torch.full_like(positions[:, :1], SH_OF_ONE)
        bases = torch.cat([one, harmonics(degree_of(self._colors[:, 1:]), directions)], dim=-1)
        for points, gaussians in self._near(positions, blur + smear):
            away, variances = self._local(positions, blur, points, gaussians)
            towards = (directions[points][:, None] @ self._axes[gaussians])[:, 0]
            # Along the ray the exponent is a parabola.
            curvature = (towards.square() / variances).sum(dim=-1)
            behind = (towards * away / variances).sum(dim=-1) / curvature
            closest = (away.square() / variances).sum(dim=-1) - behind.square() * curvature
            along = 1 / curvature + smear[points, 0]
            spread = (-0.5 * behind.square() / along).exp() / (2 * math.pi * along).sqrt()
            density = self._depth(gaussians, closest) * spread
            there = density.nonzero()[:, 0]
            seen, density = points[there], density[there, None]
            rgb = (MIDDLE + (bases[seen][:, None] @ self._colors[gaussians[there]])[:, 0]).clamp_min(0)
            total.index_add_(0, seen, torch.cat([density, density * rgb], dim=-1))
        density, painted = total.split([1, 3], dim=-1)
        return density, painted / density.clamp_min(torch.finfo(density.dtype).tiny)

    def crowd(
        self, positions: Float[Tensor, "points 3"], length: Float[Tensor, "points 1"], width: Float[Tensor, "points 1"]
    ) -> float:
        """How many Gaussians reach a point, on average; sizes as in `density`."""
        blur = BLUR * width.square() + (SMEARED * length).square()
        return sum(len(points) for points, _ in self._near(positions, blur)) / max(1, len(positions))

    def occupied(
        self, box: Float[Tensor, "2 3"], resolution: int, least: float
    ) -> Bool[Tensor, "resolution resolution resolution"]:
        """Cells of a box in which some Gaussian, or a part of it, is at least so opaque."""
        cells = torch.zeros((resolution,) * 3, dtype=torch.bool, device=self._means.device)
        size = (box[1] - box[0]) / resolution
        radii = (2 * (self._opacities / least).log().clamp_min(0)).sqrt()[:, None] * self._variances.sqrt()
        half = self._half(radii)
        first, last = (((self._means + sign * half - box[0]) / size).floor() for sign in (-1, 1))
        seen = (self._opacities > least) & (last >= 0).all(dim=-1) & (first < resolution).all(dim=-1)
        first, last = (value.clamp(0, resolution - 1).long() for value in (first, last))
        chosen = seen.nonzero()[:, 0]
        count = (last + 1 - first)[chosen].prod(dim=-1)
        for some in chosen.split(_portions(count, CELLS_AT_ONCE)):
            met = self._met(some, radii[some], first[some], last[some], box[0], size)[1]
            cells[tuple(met.T)] = True
        return cells

    def _local(self, positions: Tensor, blur: Tensor, points: Tensor, gaussians: Tensor) -> tuple[Tensor, Tensor]:
        """Where points lie from the middles of Gaussians, along their axes; and the variances along these, blurred as
        the rasteriser does."""
        away = positions.index_select(0, points) - self._means.index_select(0, gaussians)
        variances = self._variances.index_select(0, gaussians) + blur.index_select(0, points)
        return (away[:, None] @ self._axes.index_select(0, gaussians))[:, 0], variances

    def _depth(self, gaussians: Tensor, distance: Float[Tensor, "pairs"]) -> Float[Tensor, "pairs"]:
        """Optical depth of whole Gaussians at so many squared standard deviations."""
        alpha = self._opacities.index_select(0, gaussians) * (-0.5 * distance).exp()
        return -torch.log1p(-alpha.masked_fill(alpha < LEAST_ALPHA, 0.0))

    def _near(self, positions: Tensor, blur: Float[Tensor, "points 1"]) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of points and Gaussians that reach them, cells of one size at a time."""
        if not len(positions) or not len(self._means):
            return
        # One set of cells for all blurs up to a power of two, lest an answer depends on what was asked before.
        power = math.ceil(math.log2(max(float(blur.amax()), TINY)))
        if power not in self._cells:
            while len(self._cells) >= SETS:
                self._cells.pop(next(iter(self._cells)))
            self._cells[power] = self._entered(2.0**power)
        levels, rows = self._cells[power]
        for level in levels:
            cell = ((positions - self._low) / level.size).floor() + ASIDE
            inside = ((cell >= 0) & (cell < CELLS)).all(dim=-1)
            key = torch.where(inside, _key(cell.clamp(0, CELLS - 1).long()), -1)
            place = torch.searchsorted(level.keys, key).clamp_max(len(level.keys) - 1)
            count = level.counts[place].masked_fill_(level.keys[place] != key, 0)
            first = 0
            for size in _portions(count, PAIRS_AT_ONCE):
                points, number = _counted(count[first : first + size])
                points += first
                first += size
                gaussians = level.gaussians[level.starts[place[points]] + number]
                means, scaled = rows.index_select(0, gaussians).split([3, 9], dim=-1)
                away = (positions.index_select(0, points) - means)[:, None]
                reached = ((away @ scaled.view(-1, 3, 3)).square().sum(dim=-1) <= 1)[:, 0].nonzero()[:, 0]
                yield points[reached], gaussians[reached]

    def _entered(self, blur: float) -> tuple[list[_Level], Float[Tensor, "gaussians 12"]]:
        """Cells of all sizes that are needed where so much variance is added; and the Gaussians' middles, and axes
        divided by how far they reach then."""
        radii = self._reach[:, None] * (self._variances + blur).sqrt()
        half = self._half(radii)
        widest = half.amax(dim=-1)
        span = float((self._means.amax(dim=0) - self._low).amax())
        small = float(widest.kthvalue(max(1, int(SMALL * len(widest)))).values)
        smallest = max(small / WIDE, span / (CELLS - 2 * ASIDE))
        numbers = (widest / (WIDE * smallest)).log2().ceil().clamp_min(0)
        levels = []
        for number in numbers.unique().tolist():
            size = smallest * 2.0**number
            parts = (numbers == number).nonzero()[:, 0].split(AT_ONCE)
            entries = [self._enter(some, half[some], radii[some], size) for some in parts]
            keys, gaussians = (torch.cat(values) for values in zip(*entries))
            keys, order = keys.sort(stable=True)
            keys, counts = keys.unique_consecutive(return_counts=True)
            levels.append(_Level(size, keys, counts.cumsum(0) - counts, counts, gaussians[order]))
        return levels, torch.cat([self._means, (self._axes / radii[:, None]).flatten(1)], dim=-1)

    def _half(self, radii: Float[Tensor, "gaussians 3"]) -> Float[Tensor, "gaussians 3"]:
        """Half the sides of the bounding boxes of ellipsoids that reach so far along the Gaussians' axes."""
        return (self._axes.square() @ radii.square()[..., None])[..., 0].sqrt()

    def _enter(self, chosen: Tensor, half: Tensor, radii: Tensor, size: float) -> tuple[Tensor, Tensor]:
        """Keys of the cells that some Gaussians reach into, and the Gaussians."""
        first = ((self._means[chosen] - half - self._low) / size).floor().long()
        last = ((self._means[chosen] + half - self._low) / size).floor().long()
        of, cells = self._met(chosen, radii, first, last, self._low, self._low.new_full((3,), size))
        return _key(cells + ASIDE), chosen[of]

    def _met(
        self, chosen: Tensor, radii: Tensor, first: Tensor, last: Tensor, low: Tensor, size: Tensor
    ) -> tuple[Int[Tensor, "met"], Int[Tensor, "met 3"]]:
        """Of the cells from `first` to `last` those that the box about a Gaussian's axes meets; and whose they are."""
        axes, spans = self._axes[chosen], (last + 1 - first).clamp_min(0)
        of, local = _counted(spans.prod(dim=-1))
        _, y, z = spans[of].unbind(dim=-1)
        cells = first[of] + torch.stack([local // (y * z), local // z % y, local % z], dim=-1)
        middle = low + size * (cells + 0.5) - self._means[chosen][of]
        away = (middle[:, None] @ axes[of])[:, 0].abs()
        reach = radii + (axes.abs() * size[:, None] / 2).sum(dim=1)
        meets = (away <= reach[of]).all(dim=-1)
        return of[meets], cells[meets]


def _key(cells: Int[Tensor, "cells 3"]) -> Int[Tensor, "cells"]:
    x, y, z = cells.unbind(dim=-1)
    return (x * CELLS + y) * CELLS + z


def _portions(counts: Int[Tensor, "groups"], most: int) -> list[int]:
    """How many groups at a time have about so many members together, or are a single one that has more."""
    return (counts.cumsum(0) // most).unique_consecutive(return_counts=True)[1].tolist()


def _counted(counts: Int[Tensor, "groups"]) -> tuple[Int[Tensor, "all"], Int[Tensor, "all"]]:
    """Group, and number within it, of each member of groups of these sizes."""
    groups = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    return groups, torch.arange(len(groups), device=counts.device) - (counts.cumsum(0) - counts)[groups]
