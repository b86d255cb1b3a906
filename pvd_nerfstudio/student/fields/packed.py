"""A table in a quarter of its bytes, for runs that are over.

The first channel, the log-density, has 16 bits. All others have 8, of the square root of a value's share of the largest
in its channel: most are small beside it, and small ones are told apart best.
"""

import torch
from jaxtyping import Float
from torch import Tensor

STEPS = 127
"""Of a byte, on each side of zero."""
NAMES = ("first", "others", "largest")
"""What a packed table consists of."""


def packed(table: Float[Tensor, "rows channels"]) -> dict[str, Tensor]:
    """The table in parts, by name."""
    first, others = table[:, :1], table[:, 1:]
    largest = others.abs().amax(dim=0).clamp_min(1e-12)
    steps = (others.abs() / largest).sqrt() * others.sign() * STEPS
    return dict(zip(NAMES, (first.half(), steps.round().to(torch.int8), largest)))


def unpacked(parts: dict[str, Tensor]) -> Float[Tensor, "rows channels"]:
    """The table that parts are of.

    Raises:
        ValueError: they do not belong together.
    """
    first, others, largest = (parts[name] for name in NAMES)
    fits = first.shape == (len(others), 1) and largest.shape == others.shape[1:]
    if not fits or (first.dtype, others.dtype) != (torch.float16, torch.int8):
        raise ValueError("the parts of a packed table do not belong together")
    share = others.float() / STEPS
    return torch.cat([first.float(), share * share.abs() * largest.float()], dim=1)
