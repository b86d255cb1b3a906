"""The space that a field lives in, its unit cube, and how long samples are; teacher and student share them."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from nerfstudio.field_components.spatial_distortions import SceneContraction
from torch import Tensor

Background = Literal["white", "black", "random", "last_sample"]


@dataclass(frozen=True)
class Space:
    """How rays meet a scene."""

    near: float
    """Distance at which rays start."""
    far: float
    """Distance at which rays end."""
    contracted: bool
    """Whether space outside the unit box is contracted (Mip-NeRF 360, eq. 10, in the infinity norm)."""
    background: Background
    """What shows where nothing is hit, in nerfstudio's words."""

    @property
    def has_sky(self) -> bool:
        """Whether what a field shows at the far plane is behind everything; in a scene box there is nothing there."""
        return self.contracted and self.background == "last_sample"


@dataclass(frozen=True)
class Spacing:
    """How long samples are: `step_size` up to the distance `bend`, behind it more with the square of the distance.

    Behind the bend they are even in disparity, as nerfacto's are, and grow as the cells of contracted space do. Any
    sample can be found without those before it: a ray has bend / step_size of them up to the bend, and as many behind.
    """

    step_size: float
    bend: float = math.inf

    def scaled(self, factor: float) -> "Spacing":
        """All samples longer by a factor."""
        return Spacing(factor * self.step_size, self.bend)

    def length(self, distance: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Length of a sample at a distance."""
        return self.step_size * (distance / self.bend).clamp_min(1.0).square()

    def steps(self, distance: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """How many samples lie between the camera and a distance."""
        if math.isinf(self.bend):
            return distance / self.step_size
        behind = 1 - self.bend / distance.clamp_min(self.bend)
        return (distance.clamp_max(self.bend) + self.bend * behind) / self.step_size

    def distance(self, steps: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The distance after so many samples: `steps` backwards."""
        even = steps * self.step_size
        if math.isinf(self.bend):
            return even
        behind = (even / self.bend - 1).clamp(0.0, 1 - 1e-6)
        return even.clamp_max(self.bend) / (1 - behind)


_CONTRACT = SceneContraction(order=float("inf"))
FACE = 1e-3
"""How far from its faces the cube of contracted space ends where it is mapped to the world."""


def to_unit(
    positions: Float[Tensor, "*batch 3"], aabb: Float[Tensor, "2 3"], contracted: bool
) -> Float[Tensor, "*batch 3"]:
    """World positions to the unit cube: the scene box or, contracted, all of space (the unit box in its middle)."""
    if contracted:
        return (_CONTRACT(positions) + 2) / 4
    return (positions - aabb[0]) / (aabb[1] - aabb[0])


def to_world(
    unit: Float[Tensor, "*batch 3"], aabb: Float[Tensor, "2 3"], contracted: bool
) -> Float[Tensor, "*batch 3"]:
    """`to_unit` backwards; the faces of contracted space lie at a distance of 250, and not infinitely far."""
    if not contracted:
        return aabb[0] + unit * (aabb[1] - aabb[0])
    position = unit.clamp(FACE, 1 - FACE) * 4 - 2
    norm = position.abs().amax(dim=-1, keepdim=True)
    return torch.where(norm <= 1, position, position / norm / (2 - norm))


def stretch(positions: Float[Tensor, "*batch 3"], contracted: bool) -> Float[Tensor, "*batch 1"]:
    """How much longer than in the middle a cell of the unit cube is at world positions, measured away from it."""
    if not contracted:
        return torch.ones_like(positions[..., :1])
    return positions.abs().amax(dim=-1, keepdim=True).clamp_min(1.0).square()
