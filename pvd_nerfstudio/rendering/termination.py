"""Early ray termination: in images nothing is asked that nobody sees.

The samples of all rays are asked for their density in rounds, those in front first; a ray whose transmittance is used
up has none in the next round. What is left out had less than `NOTHING_BEHIND` of a pixel's light, all together. Then
those are asked for their colours that can be seen.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pvd_nerfstudio.rendering.compositing import accumulate, render_weights

NOTHING_BEHIND = 1e-4
"""Transmittance behind which nothing is seen."""
HARDLY_VISIBLE = 1e-4
"""Compositing weight up to which a sample has the mean colour of the others on its ray."""
FIRST_ROUND = 8
"""Samples of each ray in the first round; each further one has twice as many."""


def answer_in_sight(
    shallow: Callable[[Tensor], tuple[Tensor, Tensor]],
    deep: Callable[[Tensor, Tensor], Tensor],
    to_density: Callable[[Tensor], Tensor],
    positions: Float[Tensor, "samples 3"],
    directions: Float[Tensor, "rays 3"],
    lengths: Float[Tensor, "samples 1"],
    ray_indices: Int[Tensor, "samples"],
) -> tuple[Float[Tensor, "samples 1"], Float[Tensor, "samples 3"]]:
    """Log-density and colour of packed samples; minus infinity out of sight.

    Args:
        shallow: log-density and whatever the colour is made of, at positions.
        deep: colour of that from directions.
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
        log_density, feature = shallow(positions[chosen])
        asked.append(chosen)
        answers.append((log_density, feature))
        with torch.no_grad():
            optical = optical.index_add(0, ray_indices[chosen], to_density(log_density) * lengths[chosen])
        begin, size = begin + size, 2 * size
    log_densities, features = (torch.cat(values) for values in zip(*answers))
    place, count = torch.cat(asked), len(directions)
    unseen = log_densities.new_full((len(ray_indices), 1), -math.inf)
    log_density = unseen.index_copy(0, place, log_densities)
    weights = render_weights(to_density(log_density), lengths, ray_indices, count)
    visible = (weights[place] > HARDLY_VISIBLE)[:, 0].nonzero()[:, 0]
    if not len(visible):
        return log_density, torch.zeros_like(positions)
    shown = place[visible]
    rays, order = ray_indices[shown].sort(stable=True)  # the rounds mix the rays
    shown, visible = shown[order], visible[order]
    colors, weight = deep(features[visible], directions[rays]), weights[shown]
    mean = accumulate(weight, colors, rays, count) / accumulate(weight, None, rays, count).clamp_min(HARDLY_VISIBLE)
    return log_density, mean[ray_indices].index_copy(0, shown, colors.to(mean))
