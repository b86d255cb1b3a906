"""nerfstudio's hash encoding, several times as fast on a CPU; teachers and students have it."""

from typing import Any

import torch
from jaxtyping import Float, Int
from nerfstudio.field_components.encodings import HashEncoding
from torch import Tensor, nn
from torch.nn import functional

FACTORS = (1, 2654435761, 805459861)
"""Of the hash, an axis each (Instant NGP, eq. 4)."""
LARGEST_INT32 = (1 << 31) - 1


class HashTable(HashEncoding):
    """nerfstudio's encoding, its parameters and values: one look-up in place of eight, each coordinate hashed once.

    What is the same in each look-up lies beside the table; nerfstudio's copies it to a GPU each time.
    """

    factors: Tensor

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.tcnn_encoding is None:
            self._keep_constants()

    def _keep_constants(self) -> None:
        device = self.hash_table.device
        # Of the products only the last bits count, so they may overflow.
        kind = torch.int32 if len(self.hash_table) <= LARGEST_INT32 else torch.int64
        constants = {
            "factors": torch.tensor(FACTORS).to(kind),
            "hash_offset": self.hash_offset.to(kind),
            "scalings": self.scalings,
        }
        for name, value in constants.items():
            vars(self).pop(name, None)
            self.register_buffer(name, value.to(device), persistent=False)

    def pytorch_fwd(self, in_tensor: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch channels"]:
        """Trilinear interpolation of the hashed corners of each level's cell (Instant NGP, section 3)."""
        index, weights = self.corners(in_tensor.reshape(-1, 3))
        values = sum_rows(self.hash_table, index.flatten(0, 1), weights.flatten(0, 1))
        return values.view(*in_tensor.shape[:-1], -1)

    def corners(
        self, points: Float[Tensor, "points 3"]
    ) -> tuple[Int[Tensor, "points levels 8"], Float[Tensor, "points levels 8"]]:
        """Rows of the corners of the cell around each point, in each level, and their weights."""
        scaled = points[:, None] * self.scalings.to(points.dtype)[:, None]
        lower = scaled.floor()
        share = scaled - lower
        # Corner by corner, and each an array without gaps: broadcast over axes of two it takes four times as long.
        hashed = (lower.to(self.factors.dtype) * self.factors).unbind(dim=-1)
        x, y, z = ((one, one + factor) for one, factor in zip(hashed, self.factors))
        u, v, w = ((1 - one, one) for one in share.unbind(dim=-1))
        first, last = self.hash_offset, self.hash_table_size - 1
        of_two, share_of_two = [a ^ b for a in x for b in y], [a * b for a in u for b in v]
        index = [(pair ^ one).bitwise_and_(last).add_(first) for pair in of_two for one in z]
        weights = [pair * one for pair in share_of_two for one in w]
        return torch.stack(index, dim=-1), torch.stack(weights, dim=-1)


def quicken(model: nn.Module) -> None:
    """Let a model's hash encodings compute what they do, faster."""
    for module in model.modules():
        if type(module) is HashEncoding and module.tcnn_encoding is None:
            module.__class__ = HashTable
            assert isinstance(module, HashTable)
            module._keep_constants()


def sum_rows(
    table: Float[Tensor, "rows channels"], index: Int[Tensor, "sums corners"], weights: Float[Tensor, "sums corners"]
) -> Float[Tensor, "sums channels"]:
    """Weighted sums of narrow rows."""
    weights = weights.to(table.dtype)
    if table.device.type == "cpu" and torch.is_grad_enabled():
        return _Sum.apply(table, index, weights)
    return functional.embedding_bag(index, table, per_sample_weights=weights, mode="sum")


class _Sum(torch.autograd.Function):
    """`embedding_bag`, whose gradient on a CPU is made for wide rows."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, weights: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(table, index, weights)
        return functional.embedding_bag(index, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:  # type: ignore[override]
        """Gradients of the table, each entry of a row for itself, and of the weights."""
        table, index, weights = ctx.saved_tensors
        of_table = of_weights = None
        if ctx.needs_input_grad[0]:
            channels = torch.arange(table.shape[1])
            place = index.long()[..., None] * len(channels) + channels
            values = weights[..., None] * grad[:, None]
            of_table = grad.new_zeros(table.numel()).scatter_add_(0, place.flatten(), values.flatten()).view_as(table)
        if ctx.needs_input_grad[2]:
            of_weights = (table[index.long()] * grad[:, None]).sum(dim=-1)
        return of_table, None, of_weights
