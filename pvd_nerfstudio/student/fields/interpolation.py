"""Linear interpolation in tables: what `grid_sample` computes, as a weighted sum of rows.

A table holds one row of channels a grid vertex. The gradient of `embedding_bag` touches the rows that were read and
is several times as fast on the CPU as that of `grid_sample`, whose channels lie far apart.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional


def cell_corners(
    unit: Float[Tensor, "points axes"], vertices: int
) -> tuple[Int[Tensor, "points corners"], Float[Tensor, "points corners"]]:
    """Corners of the grid cell around each point, and their weights in linear interpolation.

    Args:
        unit: positions in [0, 1]; 0 and 1 lie on the outermost vertices.
        vertices: of the grid along each axis.

    Returns:
        Number of each corner (the last axis counts fastest), and weights, which add up to one.
    """
    scaled = unit * (vertices - 1)
    lower = scaled.detach().floor().clamp(0, max(0, vertices - 2))
    share = scaled - lower
    side = torch.arange(2, device=unit.device).clamp_max(vertices - 1)
    number = torch.zeros_like(unit[:, :1], dtype=torch.long)
    weight = torch.ones_like(unit[:, :1])
    for axis in range(unit.shape[1]):
        along = lower[:, axis, None].long() + side
        number = (number[:, :, None] * vertices + along[:, None]).flatten(1)
        linear = torch.stack([1 - share[:, axis], share[:, axis]], dim=-1)
        weight = (weight[:, :, None] * linear[:, None]).flatten(1)
    return number, weight


def weighted_rows(
    table: Float[Tensor, "rows channels"],
    index: Int[Tensor, "points corners"],
    weights: Float[Tensor, "points corners"],
    nothing: int | None = None,
) -> Float[Tensor, "points channels"]:
    """Weighted sum of rows; the row `nothing` counts as zero and learns nothing."""
    return functional.embedding_bag(
        index, table, per_sample_weights=weights.to(table.dtype), mode="sum", padding_idx=nothing
    )
