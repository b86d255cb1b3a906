"""Points, and balls around them, as nerfstudio's samples."""

import math

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import Frustums, RaySamples
from torch import Tensor


def point_samples(positions: Float[Tensor, "points 3"], directions: Float[Tensor, "points 3"]) -> RaySamples:
    """Points in nerfstudio's words: rays that start there, with samples of no length."""
    zero = torch.zeros_like(positions[:, :1])
    frustums = Frustums(origins=positions, directions=directions, starts=zero, ends=zero, pixel_area=zero)
    return RaySamples(frustums=frustums, camera_indices=zero.long())


def ball_samples(
    positions: Float[Tensor, "points 3"], directions: Float[Tensor, "points 3"], extent: float
) -> RaySamples:
    """Intervals of length `extent` around points, in cones about as wide as that, seen from 1 away.

    Source of the width: Barron et al., mip-NeRF, eq. 8; the variances along and across the ray are equal.
    """
    towards = torch.nn.functional.normalize(directions, dim=-1)
    one = torch.ones_like(positions[:, :1])
    frustums = Frustums(
        origins=positions - towards,
        directions=towards,
        starts=one - extent / 2,
        ends=one + extent / 2,
        pixel_area=one * (math.pi * extent**2 / 3),
    )
    return RaySamples(frustums=frustums, camera_indices=one.long() * 0, deltas=one * extent)
