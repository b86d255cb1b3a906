"""Normals of a density: where it falls fastest."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def normals_of(
    log_density: Callable[[Tensor], Tensor],
    positions: Float[Tensor, "points 3"],
    reach: Float[Tensor, "points 1"],
) -> Float[Tensor, "points 3"]:
    """Unit vectors against the gradient of a density, by central differences; zero where there is none.

    Args:
        log_density: of positions `[points, 3]`, `[points, 1]`.
        positions: in world units.
        reach: how far from each the density is asked.
    """
    steps = torch.eye(3, device=positions.device)[:, None] * reach
    ahead, behind = (log_density(asked.flatten(0, 1)).view(3, -1) for asked in (positions + steps, positions - steps))
    return torch.nn.functional.normalize((behind - ahead).T, dim=-1)
