"""Early ray termination: in images nothing is asked that lies behind what is opaque.

The samples of all rays are asked in rounds, those in front first; a ray whose transmittance is used up has none in
the next round. What is left out had less than `NOTHING_BEHIND` of a pixel's light, all together.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

NOTHING_BEHIND = 1e-4
"""Transmittance behind which nothing is seen."""
FIRST_ROUND = 8
"""Samples of each ray in the first round; each further one has twice as many."""


def answer_in_sight(
    answer: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    to_density: Callable[[Tensor], Tensor],
    positions: Float[Tensor, "samples 3"],
    directions: Float[Tensor, "rays 3"],
    lengths: Float[Tensor, "samples 1"],
    ray_indices: Int[Tensor, "samples"],
) -> tuple[Float[Tensor, "samples 1"], Float[Tensor, "samples 3"]]:
    """Log-density and colour of packed samples; minus infinity and black out of sight.

    Args:
        answer: log-density and colour of positions and directions.
        to_density: of a log-density.
        positions: of the samples.
        directions: of the rays.
        lengths: of the samples.
        ray_indices: whose the samples are, sorted.
    """
    number = torch.arange(len(ray_indices), device=ray_indices.device) - torch.searchsorted(ray_indices, ray_indices)
    optical = torch.zeros_like(directions[:, :1])
    asked: list[Tensor] = []
    answers: list[tuple[Tensor, Tensor]] = []
    begin, size = 0, FIRST_ROUND
    while True:
        is_open = (optical < -math.log(NOTHING_BEHIND))[:, 0]
        chosen = ((number >= begin) & (number < begin + size) & is_open[ray_indices]).nonzero()[:, 0]
        if not len(chosen):
            break
        rays = ray_indices[chosen]
        log_density, rgb = answer(positions[chosen], directions[rays])
        asked.append(chosen)
        answers.append((log_density, rgb))
        with torch.no_grad():
            optical = optical.index_add(0, rays, to_density(log_density) * lengths[chosen])
        begin, size = begin + size, 2 * size
    log_densities, colors = (torch.cat(values) for values in zip(*answers))
    place = torch.cat(asked)
    unseen = log_densities.new_full((len(ray_indices), 1), -math.inf)
    return unseen.index_copy(0, place, log_densities), torch.zeros_like(positions).index_copy(0, place, colors)
