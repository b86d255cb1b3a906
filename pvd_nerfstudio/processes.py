"""Several processes (DDP): what all of them have alike, and what they agree on.

Each draws its own rays from its own bank; gradients are averaged. What decides about sizes comes from the first one,
for two GPUs need not compute the same bits.
"""

import torch
from torch import Tensor, distributed


def are_several() -> bool:
    """Whether there is another one."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def rank() -> int:
    """The number of this one; it is the first that speaks and saves."""
    return distributed.get_rank() if are_several() else 0


def take_from_first(values: Tensor) -> None:
    """Replace values, in place, by those that the first process has."""
    if are_several():
        sent = values.to(torch.uint8) if values.dtype == torch.bool else values
        distributed.broadcast(sent, 0)
        values.copy_(sent)


def numbers_of_first(numbers: list[float], device: torch.device) -> list[float]:
    """Some numbers as the first process has them."""
    if not are_several():
        return numbers
    values = torch.tensor(numbers, dtype=torch.float64, device=device)
    take_from_first(values)
    return values.tolist()


def any_of_them(flag: bool, device: torch.device) -> bool:
    """Whether a flag is set in any process; they wait for each other."""
    if not are_several():
        return flag
    value = torch.tensor(int(flag), device=device)
    distributed.all_reduce(value, distributed.ReduceOp.MAX)
    return bool(value)
