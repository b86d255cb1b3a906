"""Parts of space that an edit acts on, in nerfstudio's words where it has them; each says how much of a point is in it.

An edge is soft over a width that lies half within the region's surface and half outside it: there a point belongs to
the region in part.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from viser.transforms import SO3

from pvd_nerfstudio.edits.place import EVERYWHERE
from pvd_nerfstudio.input.ranges import ANY, Ranges, above, at_least

Vector = tuple[float, float, float]
Numbers = Float[Tensor, "3"]
ROUNDING = 1e-5
"""Share of its coordinates by which a box around something is larger, so that nothing of it is lost."""


class Region:
    """Any part of space."""

    kind: ClassVar[str]

    def share(self, positions: Float[Tensor, "places 3"]) -> Float[Tensor, "places 1"]:
        """How much of each position belongs to the region: 0, 1 or, within its soft edge, something between."""
        raise NotImplementedError

    @property
    def middle(self) -> Numbers:
        """What is turned and scaled about where nothing else is said."""
        raise NotImplementedError

    @property
    def bounds(self) -> Float[Tensor, "2 3"]:
        """A box around it, its edge included; infinite where the region is."""
        return EVERYWHERE

    @property
    def parts(self) -> list[Float[Tensor, "2 3"]]:
        """Boxes around parts of it, as tight as they can be."""
        return [self.bounds]

    def within(self, box: Float[Tensor, "2 3"]) -> Float[Tensor, "2 3"]:
        """A box around the part of it that lies in a box; at least a point."""
        low, high = torch.maximum(box[0], self.bounds[0]), torch.minimum(box[1], self.bounds[1])
        return torch.stack([low, torch.maximum(low, high)])


def _softened(distance: Float[Tensor, "places 1"], edge: float) -> Float[Tensor, "places 1"]:
    """How much belongs to a region at a distance from its surface, negative within it."""
    return (0.5 - distance / edge).clamp(0, 1) if edge else (distance <= 0).to(distance)


@dataclass(frozen=True)
class Box(Region):
    """An oriented box, as nerfstudio's crop and its exporters have it (`obb_center`, `obb_rotation`, `obb_scale`)."""

    kind = "box"
    ranges: ClassVar[Ranges] = {"center": ANY, "rotation": ANY, "scale": above(0), "edge": at_least(0)}

    center: Vector
    """Its middle, in the coordinates that the viewer shows."""
    scale: Vector
    """Its whole length along each of its axes."""
    rotation: Vector = (0.0, 0.0, 0.0)
    """Roll, pitch and yaw, in radians."""
    edge: float = 0.0
    """Width of its soft edge."""

    @cached_property
    def _axes(self) -> Float[Tensor, "3 3"]:
        return rotation_of(self.rotation)

    def share(self, positions: Float[Tensor, "places 3"]) -> Float[Tensor, "places 1"]:
        """By the distance along the axis on which it is largest."""
        axes, center, size = (torch.as_tensor(value).to(positions) for value in (self._axes.T, self.center, self.scale))
        local = torch.addmm(-(axes @ center)[:, None], axes, positions.T)  # [3, places], which is three times as fast
        return _softened((local.abs_() - size[:, None] / 2).amax(dim=0)[:, None], self.edge)

    @property
    def middle(self) -> Numbers:
        return torch.tensor(self.center)

    @property
    def bounds(self) -> Float[Tensor, "2 3"]:
        reach = self._axes.abs() @ (torch.tensor(self.scale) / 2 + self.edge / 2)
        return torch.stack([self.middle - reach, self.middle + reach])


@dataclass(frozen=True)
class Sphere(Region):
    """A ball."""

    kind = "sphere"
    ranges: ClassVar[Ranges] = {"center": ANY, "radius": above(0), "edge": at_least(0)}

    center: Vector
    """Its middle, in the coordinates that the viewer shows."""
    radius: float
    """Of the ball."""
    edge: float = 0.0
    """Width of its soft edge."""

    def share(self, positions: Float[Tensor, "places 3"]) -> Float[Tensor, "places 1"]:
        """By the distance from the sphere."""
        distance = (positions - positions.new_tensor(self.center)).norm(dim=-1, keepdim=True) - self.radius
        return _softened(distance, self.edge)

    @property
    def middle(self) -> Numbers:
        return torch.tensor(self.center)

    @property
    def bounds(self) -> Float[Tensor, "2 3"]:
        reach = self.radius + self.edge / 2
        return torch.stack([self.middle - reach, self.middle + reach])


@dataclass(frozen=True)
class HalfSpace(Region):
    """All on that side of a plane which its normal points to."""

    kind = "halfspace"
    ranges: ClassVar[Ranges] = {"point": ANY, "normal": ANY, "edge": at_least(0)}

    point: Vector
    """On the plane, in the coordinates that the viewer shows."""
    normal: Vector
    """Of the plane, of any length but 0."""
    edge: float = 0.0
    """Width of its soft edge."""

    def problem(self) -> str | None:
        """What of its numbers makes no sense together."""
        return None if any(self.normal) else "normal is 0, 0, 0, which points nowhere"

    def share(self, positions: Float[Tensor, "places 3"]) -> Float[Tensor, "places 1"]:
        """By the distance from the plane."""
        normal = torch.nn.functional.normalize(positions.new_tensor(self.normal, dtype=torch.float64), dim=0)
        distance = (positions.new_tensor(self.point) - positions) @ normal.to(positions)
        return _softened(distance[:, None], self.edge)

    @property
    def middle(self) -> Numbers:
        return torch.tensor(self.point)

    def within(self, box: Float[Tensor, "2 3"]) -> Float[Tensor, "2 3"]:
        """Around the corners of the box that it holds, and where its plane cuts the box's edges."""
        corners = torch.cartesian_prod(*box.T)
        normal = torch.nn.functional.normalize(torch.tensor(self.normal), dim=0)
        depth = (corners - self.middle) @ normal + self.edge / 2
        starts, ends = torch.combinations(torch.arange(len(corners))).T
        cut = ((corners[starts] != corners[ends]).sum(dim=-1) == 1) & (depth[starts] * depth[ends] < 0)
        starts, ends = starts[cut], ends[cut]
        share = depth[starts] / (depth[starts] - depth[ends])
        points = torch.cat([corners[depth >= 0], torch.lerp(corners[starts], corners[ends], share[:, None])])
        points = points if len(points) else box[:1]
        return torch.stack([points.amin(dim=0), points.amax(dim=0)])


@dataclass(frozen=True)
class Union(Region):
    """All that lies in at least one of some regions."""

    kind = "union"

    of: tuple[Region, ...]
    """The regions, one or more."""

    def problem(self) -> str | None:
        """What of it makes no sense."""
        return None if self.of else "of is empty: a union needs a region"

    def share(self, positions: Float[Tensor, "places 3"]) -> Float[Tensor, "places 1"]:
        """That of the region that has most of the position; asked within a box around all alone."""
        low, high = self._around.to(positions)
        near = ((positions >= low) & (positions <= high)).all(dim=-1).nonzero()[:, 0]
        asked = positions[near]
        share = self.of[0].share(asked)
        for region in self.of[1:]:
            share = torch.maximum(share, region.share(asked))
        return torch.zeros_like(positions[:, :1]).index_copy(0, near, share)

    @cached_property
    def _around(self) -> Float[Tensor, "2 3"]:
        """The bounds, and what rounding may add to them."""
        low, high = self.bounds
        spare = ROUNDING * torch.maximum(low.abs(), high.abs())
        return torch.stack([low - spare, high + spare])

    @property
    def middle(self) -> Numbers:
        """The mean of the middles."""
        return torch.stack([region.middle for region in self.of]).mean(dim=0)

    @property
    def bounds(self) -> Float[Tensor, "2 3"]:
        lows, highs = torch.stack([region.bounds for region in self.of], dim=1)
        return torch.stack([lows.amin(dim=0), highs.amax(dim=0)])

    @property
    def parts(self) -> list[Float[Tensor, "2 3"]]:
        return [part for region in self.of for part in region.parts]


@dataclass(frozen=True)
class Complement(Region):
    """All that lies outside a region."""

    kind = "complement"

    of: Region
    """The region."""

    def share(self, positions: Float[Tensor, "places 3"]) -> Float[Tensor, "places 1"]:
        """What the region leaves."""
        return 1 - self.of.share(positions)

    @property
    def bounds(self) -> Float[Tensor, "2 3"]:
        """Infinite but for what lies in all of some regions, the complement of their complements."""
        inner = self.of.of if isinstance(self.of, Union) else (self.of,)
        known = [part.of.bounds for part in inner if isinstance(part, Complement)]
        lows, highs = torch.stack([super().bounds, *known], dim=1)
        return torch.stack([lows.amax(dim=0), highs.amin(dim=0)])

    @property
    def middle(self) -> Numbers:
        return self.of.middle


REGIONS: dict[str, Any] = {region.kind: region for region in (Box, Sphere, HalfSpace, Union, Complement)}
"""Every kind of region by the word for it in a file."""


def rotation_of(angles: Vector) -> Float[Tensor, "3 3"]:
    """Roll, pitch and yaw, in radians, as nerfstudio's boxes have them."""
    return torch.from_numpy(SO3.from_rpy_radians(*angles).as_matrix()).float()
