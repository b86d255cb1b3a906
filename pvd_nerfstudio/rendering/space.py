"""The space that a field lives in, its unit cube, and how long samples are; teacher and student share them."""

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


@dataclass(frozen=True)
class Spacing:
    """How long samples are: `step_size` close by, `cone_angle` times the distance from where that is more.

    The edges of the samples of a ray are those of equal steps of a number that grows with the distance d: d / step_size
    up to the bend at step_size / cone_angle, (1 + log(d / bend)) / cone_angle behind it. Instant-NGP (section E) has
    such lengths too, step by step; in closed form any sample can be found without those before it.
    """

    step_size: float
    cone_angle: float = 0.0

    def scaled(self, factor: float) -> "Spacing":
        """All samples longer by a factor."""
        return Spacing(factor * self.step_size, factor * self.cone_angle)

    def length(self, distance: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Length of a sample at a distance."""
        return (self.cone_angle * distance).clamp_min(self.step_size)

    def steps(self, distance: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """How many samples lie between the camera and a distance."""
        if not self.cone_angle:
            return distance / self.step_size
        bend = self.step_size / self.cone_angle
        return distance.clamp_max(bend) / self.step_size + (distance / bend).clamp_min(1.0).log() / self.cone_angle

    def distance(self, steps: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The distance after so many samples: `steps` backwards."""
        if not self.cone_angle:
            return steps * self.step_size
        straight = 1 / self.cone_angle
        return steps.clamp_max(straight) * self.step_size * (self.cone_angle * (steps - straight).clamp_min(0.0)).exp()


_CONTRACT = SceneContraction(order=float("inf"))


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
    """`to_unit` backwards; the faces of contracted space are far away."""
    if not contracted:
        return aabb[0] + unit * (aabb[1] - aabb[0])
    position = unit * 4 - 2
    norm = position.abs().amax(dim=-1, keepdim=True)
    return torch.where(norm <= 1, position, position / norm / (2 - norm).clamp_min(1e-6))
