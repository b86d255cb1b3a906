"""Where a volume is asked, what it holds there, and how space is moved."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

EVERYWHERE = torch.tensor([[-torch.inf] * 3, [torch.inf] * 3])
"""The box that has no end."""


@dataclass(frozen=True)
class Motion:
    """Space turned and scaled about a point, then shifted: x to scale R (x - pivot) + pivot + translation."""

    rotation: Float[Tensor, "3 3"]
    scale: float
    pivot: Float[Tensor, "3"]
    translation: Float[Tensor, "3"]

    def __call__(self, positions: Float[Tensor, "places 3"]) -> Float[Tensor, "places 3"]:
        """Where positions go."""
        return _affine(positions, self.scale * self.rotation, self._shift).contiguous()

    def back(self, positions: Float[Tensor, "places 3"]) -> Float[Tensor, "places 3"]:
        """Where positions come from."""
        inverse = self.rotation.T / self.scale
        return _affine(positions, inverse, -inverse @ self._shift)

    def carried(self, poses: Float[Tensor, "views 3 4"]) -> Float[Tensor, "views 3 4"]:
        """Cameras to world, of cameras that move along."""
        rotation = self.rotation.to(poses) @ poses[:, :, :3]
        return torch.cat([rotation, self(poses[:, :, 3])[:, :, None]], dim=-1)

    def turned_back(self, directions: Float[Tensor, "places 3"]) -> Float[Tensor, "places 3"]:
        """Which directions those were."""
        return directions @ self.rotation.to(directions)

    def bounds(self, box: Float[Tensor, "2 3"]) -> Float[Tensor, "2 3"]:
        """A box around where a box goes."""
        if not box.isfinite().all():
            return EVERYWHERE
        corners = self(torch.cartesian_prod(*box.cpu().T))
        return torch.stack([corners.amin(dim=0), corners.amax(dim=0)])

    @property
    def _shift(self) -> Float[Tensor, "3"]:
        """Where the origin goes."""
        return self.pivot + self.translation - self.scale * self.rotation @ self.pivot


def _affine(
    positions: Float[Tensor, "places 3"], matrix: Float[Tensor, "3 3"], shift: Float[Tensor, "3"]
) -> Float[Tensor, "places 3"]:
    """By columns, which is several times as fast as by rows."""
    return torch.addmm(shift.to(positions)[:, None], matrix.to(positions), positions.T).T


@dataclass
class Places:
    """Intervals on rays, in cones; points are intervals of no length."""

    positions: Float[Tensor, "places 3"]
    """Their middles."""
    origins: Float[Tensor, "places 3"]
    directions: Float[Tensor, "places 3"]
    starts: Float[Tensor, "places 1"]
    ends: Float[Tensor, "places 1"]
    pixel_area: Float[Tensor, "places 1"]
    """Of the cones, at a distance of 1."""
    wants_color: bool = True
    """Whether more is asked for than the density."""

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, chosen: Int[Tensor, "some"]) -> "Places":
        return replace(self, **{name: value[chosen] for name, value in self._tensors.items()})

    def and_also(self, others: "Places") -> "Places":
        """These, and others behind them."""
        theirs = others._tensors
        return replace(self, **{name: torch.cat([value, theirs[name]]) for name, value in self._tensors.items()})

    def moved_back(self, motion: Motion) -> "Places":
        """Where they come from, in cones of the same angle."""
        return replace(
            self,
            positions=motion.back(self.positions),
            origins=motion.back(self.origins),
            directions=motion.turned_back(self.directions),
            starts=self.starts / motion.scale,
            ends=self.ends / motion.scale,
        )

    @property
    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}


@dataclass
class Matter:
    """What is at places."""

    density: Float[Tensor, "places 1"]
    rgb: Float[Tensor, "places 3"] | None = None
    """None where nobody asked for it."""
    feature: Float[Tensor, "places channels"] | None = None
    """None where there is none; NaN where an edit has made it meaningless."""

    def times(self, factor: Float[Tensor, "places 1"] | float) -> "Matter":
        """Denser by a factor."""
        return replace(self, density=self.density * factor)

    def parted(self, count: int) -> tuple["Matter", "Matter"]:
        """The first so many of the places, and the others."""
        values = (self.density, self.rgb, self.feature)
        first, others = ([None if value is None else value[part] for value in values] for part in _parts(count))
        return Matter(*first), Matter(*others)  # type: ignore[arg-type]

    def at(self, index: Int[Tensor, "places"], count: int) -> "Matter":
        """The same as some of so many places; at the others there is nothing, whose feature means nothing."""
        density, rgb, feature = (
            None if value is None else value.new_full((count, value.shape[1]), filling).index_copy(0, index, value)
            for value, filling in ((self.density, 0.0), (self.rgb, 0.0), (self.feature, torch.nan))
        )
        return Matter(density, rgb, feature)  # type: ignore[arg-type]

    def without_feature(self, changed: Bool[Tensor, "places"] | Int[Tensor, "some"]) -> "Matter":
        """The same, where the colour no longer follows from the feature at some of the places."""
        if self.feature is None:
            return self
        feature = self.feature.clone()
        feature[changed] = torch.nan
        return replace(self, feature=feature)

    def mixed_with(self, more: "Matter", index: Int[Tensor, "some"]) -> "Matter":
        """Both at once, where the other is at some of these places: densities add, colours mix by density.

        A feature is neither's then.
        """
        total = self.density.index_add(0, index, more.density)
        if self.rgb is None or more.rgb is None:
            return Matter(total)
        share = more.density / total[index].clamp_min(torch.finfo(total.dtype).tiny)
        rgb = self.rgb.index_copy(0, index, torch.lerp(self.rgb[index], more.rgb, share))
        return Matter(total, rgb, self.feature).without_feature(index[more.density[:, 0] > 0])


Ask = Callable[[Places], Matter]
"""Asks a volume."""


def _parts(count: int) -> tuple[slice, slice]:
    return slice(count), slice(count, None)
