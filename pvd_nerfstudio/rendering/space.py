"""The space that a field lives in, its unit cube, and how long samples are; teacher and student share them."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from nerfstudio.field_components.spatial_distortions import SceneContraction
from torch import Tensor, nn

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

    def most(self, length: float) -> float:
        """How many samples a piece of a ray has at most, by its length."""
        return min(length, 2 * self.bend) / self.step_size

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


class Region(nn.Module):
    """A part of the world that is seen as the unit cube: the scene box or, contracted, all of space.

    Contracted space has a box in its middle that is as it is (Mip-NeRF 360, eq. 10, in the infinity norm).

    Args:
        aabb: the scene box, lower and upper corner, `[2, 3]`.
        contracted: whether the cube is all of space, contracted, and not the scene box.
    """

    aabb: Tensor
    scale: float = 1.0
    """World length that counts as one: densities are per it, and contracted space is as it is up to there."""

    def __init__(self, aabb: Float[Tensor, "2 3"], contracted: bool) -> None:
        super().__init__()
        self.contracted = contracted
        self.register_buffer("aabb", aabb.clone())

    def to_unit(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """World positions to the unit cube."""
        if self.contracted:
            return (_CONTRACT(positions / self.scale) + 2) / 4
        return (positions - self.aabb[0]) / (self.aabb[1] - self.aabb[0])

    def to_world(self, unit: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """`to_unit` backwards; the faces of contracted space lie 250 scales away, and not infinitely far."""
        if not self.contracted:
            return self.aabb[0] + unit * (self.aabb[1] - self.aabb[0])
        position = unit.clamp(FACE, 1 - FACE) * 4 - 2
        norm = position.abs().amax(dim=-1, keepdim=True)
        return self.scale * torch.where(norm <= 1, position, position / norm / (2 - norm))

    def stretch(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 1"]:
        """World length of what is one long in the middle of a scene of scale 1, measured away from the middle."""
        if not self.contracted:
            return torch.full_like(positions[..., :1], self.scale)
        return self.scale * stretch(positions / self.scale)


def stretch(positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 1"]:
    """How much longer than in the middle a cell of contracted space of scale 1 is, measured away from it."""
    return positions.abs().amax(dim=-1, keepdim=True).clamp_min(1.0).square()
