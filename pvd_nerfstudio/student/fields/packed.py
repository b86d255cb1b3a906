"""A table in a fifth of its bytes or less, for runs that are over.

The first channel, the log-density, has 16 bits. All others have 8, of the square root of a value's share of the largest
in its channel: most are small beside it, and small ones are told apart best. zlib leaves out what the bytes say twice.
"""

import zlib

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

STEPS = 127
"""Of a byte, on each side of zero."""
EFFORT = 1
"""Of zlib: more of it takes twice as long and saves a twentieth."""
NAMES = ("first", "others", "largest")
"""What a packed table consists of."""


def packed(table: Float[Tensor, "rows channels"]) -> dict[str, Tensor]:
    """The table in parts, by name."""
    first, others = table[:, :1], table[:, 1:]
    largest = others.abs().amax(dim=0).clamp_min(1e-12)
    steps = ((others.abs() / largest).sqrt() * others.sign() * STEPS).round().to(torch.int8)
    small = np.frombuffer(zlib.compress(steps.cpu().numpy().tobytes(), EFFORT), np.uint8)
    return dict(zip(NAMES, (first.half(), torch.from_numpy(small.copy()).to(table.device), largest)))


def unpacked(parts: dict[str, Tensor], channels: int) -> Float[Tensor, "rows channels"]:
    """The table that parts are of.

    Raises:
        ValueError: they do not belong together, or are of another number of channels.
    """
    first, small, largest = (parts[name] for name in NAMES)
    fits = first.shape == (len(first), 1) and largest.shape == (channels - 1,) and small.dim() == 1
    if not fits or (first.dtype, small.dtype) != (torch.float16, torch.uint8):
        raise ValueError("the parts of a packed table do not belong together")
    count, reader = len(first) * (channels - 1), zlib.decompressobj()
    try:
        raw = reader.decompress(small.cpu().numpy().tobytes(), count + 1)
    except zlib.error as error:
        raise ValueError(f"a packed table is damaged: {error}") from error
    if len(raw) != count:
        raise ValueError("a packed table is cut short, or too long")
    share = torch.frombuffer(bytearray(raw), dtype=torch.int8).view(len(first), -1).to(first.device).float() / STEPS
    return torch.cat([first.float(), share * share.abs() * largest.float()], dim=1)
