"""What a checkpoint holds beside weights is taken over only if it is like what is here."""

from typing import Any

import torch
from torch import Tensor


def rows_like(saved: Any, own: Tensor, most: int) -> Tensor:
    """A saved tensor of rows like our own ones, on our device.

    Args:
        saved: what the checkpoint holds.
        own: rows of the right kind, of which there may be none.
        most: how many there can be.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(saved, Tensor) or saved.dtype != own.dtype or saved.dim() != own.dim():
        raise ValueError(f"{type(saved).__name__} in place of a tensor of {own.dtype}")
    if saved.shape[1:] != own.shape[1:] or len(saved) > most or not bool(torch.isfinite(saved).all()):
        raise ValueError(f"a tensor of shape {list(saved.shape)}, or with what is no number, in place of {most} rows")
    return saved.to(own.device)


def check_like(saved: Any, own: Any, where: str = "") -> None:
    """Refuse a tree that is not built like our own.

    Raises:
        ValueError: a key is unknown, or a value of another kind.
    """
    if isinstance(own, dict) and isinstance(saved, dict):
        for key, value in saved.items():
            if key not in own:
                raise ValueError(f"{where}{key} is unknown")
            check_like(value, own[key], f"{where}{key}.")
    elif isinstance(own, (list, tuple)) and isinstance(saved, (list, tuple)):
        if len(saved) != len(own):
            raise ValueError(f"{where} has {len(saved)} values in place of {len(own)}")
        for number, (one, other) in enumerate(zip(saved, own)):
            check_like(one, other, f"{where}{number}.")
    elif _kind(saved) != _kind(own):
        raise ValueError(f"{where} is {type(saved).__name__} in place of {type(own).__name__}")


def _kind(value: Any) -> type:
    if isinstance(value, Tensor) and value.dim() == 0:
        value = value.item()
    return float if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value)
