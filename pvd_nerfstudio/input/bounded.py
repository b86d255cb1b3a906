"""A model is built no larger than the weights that it is for."""

from collections.abc import Mapping
from math import inf, prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from pvd_nerfstudio.errors import InputError

SPARE = 1 << 24
"""Numbers that a model may take beyond twice its weights."""
SAFE_FACTOR = 1 << 10
"""By how much an operation's result may be larger than its input without being looked at."""
COUNTING = ("aten::arange", "aten::linspace", "aten::logspace", "aten::eye", "aten::randperm")
"""Operations that are given a number of results."""


def most_numbers(state: Mapping[str, Any]) -> int:
    """How many numbers a tensor of a model may have at most.

    Args:
        state: the model's weights, or what stands for them; grids are among them with eight cells in a byte.
    """
    return 2 * _numbers(state) + SPARE


def _numbers(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(_numbers(part) for part in value.values())
    count = prod(getattr(value, "shape", (0,)))
    return 8 * count if getattr(value, "dtype", None) == torch.uint8 else count


class Bounded(TorchDispatchMode):
    """Refuses operations whose result would be larger than a limit, before they take the memory.

    Args:
        limit: numbers in a result.
        steps: operations in all.
    """

    def __init__(self, limit: int, steps: float = inf) -> None:
        super().__init__()
        self._limit, self._left = limit, steps

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._left -= 1
        if self._left < 0 or (not func.is_view and not func._schema.is_mutable and self._is_large(func, args, kwargs)):
            raise InputError(
                "config.yml describes a larger model than the weights beside it are of. Was it edited, or the "
                "checkpoint copied from another run?"
            )
        return func(*args, **kwargs)

    def _is_large(self, func: Any, args: Any, kwargs: Any) -> bool:
        """Whether the result would be; torch tells without making it where the sizes alone decide."""
        named = [value for value in (*args, *kwargs.values()) if isinstance(value, (list, tuple, torch.Size))]
        sizes = [value for value in named if value and all(isinstance(side, int) for side in value)]
        if any(prod(size) > self._limit for size in sizes):
            return True
        counts = args if func._schema.name in COUNTING else ()
        if any(isinstance(value, (int, float)) and value > self._limit for value in counts):
            return True
        total = sum(value.numel() for value in _tensors((args, kwargs)))
        if total <= self._limit // SAFE_FACTOR and func._schema.name != "aten::repeat":
            return False
        try:
            outputs = func(*tree_map(_shape_of, args), **tree_map(_shape_of, kwargs | _on_meta(kwargs)))
        except Exception:  # what depends on values has no more of them than its input
            return False
        return any(value.numel() > self._limit for value in _tensors(outputs))


def _tensors(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map(lambda value: found.append(value) if isinstance(value, Tensor) else None, tree)
    return found


def _shape_of(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def _on_meta(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"device": torch.device("meta")} if "device" in kwargs else {}
