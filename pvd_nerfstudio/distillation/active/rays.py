"""Hard rays: what is drawn most is what came out worst.

Both classes know rays by their numbers in [0, capacity) alone: places in a bank, or pixels of a data set.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

UNKNOWN = -1.0


class RayErrors(nn.Module):
    """A running mean of each ray's error; a share of each draw is in proportion to it, the rest uniform.

    A ray of unknown error counts as an average one. (Prioritised replay; the papers' rule is `HardRayPool`.)

    Args:
        capacity: how many rays there are.
        share: of a draw that follows the errors.
        memory: weight of what was known in the running mean, in [0, 1).
        device: where the errors are kept.
    """

    errors: Tensor
    measured: Tensor
    clock: Tensor

    def __init__(
        self, capacity: int, share: float = 0.5, memory: float = 0.5, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        self.share, self.memory = share, memory
        self.register_buffer("errors", torch.full((capacity,), UNKNOWN, device=device))
        self.register_buffer("measured", torch.zeros(capacity, dtype=torch.int32, device=device))
        self.register_buffer("clock", torch.zeros((), dtype=torch.int32, device=device))

    def draw(self, count: int, generator: Generator, among: int | None = None) -> Int[Tensor, "count"]:
        """Numbers of rays, with replacement.

        Args:
            count: how many.
            generator: of all randomness.
            among: only rays below this number; left out: all.
        """
        errors = self.errors[:among]
        hard = round(self.share * count)
        uniform = torch.randint(len(errors), (count - hard,), generator=generator, device=errors.device)
        known = errors >= 0
        mean = errors.clamp_min(0).sum() / known.sum().clamp_min(1)
        up_to = torch.where(known, errors, mean).clamp_min(1e-12).cumsum(0, dtype=torch.float64)
        where = torch.rand(hard, generator=generator, device=errors.device, dtype=torch.float64) * up_to[-1]
        chosen = torch.searchsorted(up_to, where, right=True).clamp_max(len(errors) - 1)
        return torch.cat([uniform, chosen])

    def update(self, rays: Int[Tensor, "count"], errors: Float[Tensor, "count"]) -> None:
        """Note the errors, 0 or above, of rays that were drawn; of a ray drawn twice the larger one counts."""
        rays, place = rays.unique(return_inverse=True)
        new = torch.zeros_like(rays, dtype=errors.dtype).scatter_reduce(0, place, errors.detach(), "amax")
        old = self.errors[rays]
        self.errors[rays] = torch.where(old < 0, new, self.memory * old + (1 - self.memory) * new)
        self.clock += 1
        self.measured[rays] = self.clock

    def forget(self, start: int, stop: int) -> None:
        """The rays of these numbers were replaced by others."""
        self.errors[start:stop] = UNKNOWN

    def summary(self) -> dict[str, float]:
        """How many rays have a known error, how many updates ago it was measured, and what it is; means."""
        known = self.errors >= 0
        count = int(known.sum())
        if not count:
            return {"size": 0.0, "age": 0.0, "error": 0.0}
        age = float(self.clock - self.measured[known].double().mean())
        return {"size": float(count), "age": age, "error": float(self.errors[known].mean())}


class HardRayPool(nn.Module):
    """The papers' rule (PVD-AL, section 3.4.2): the worst tenth of each draw goes into a pool.

    Once it is full, a tenth of each draw comes from it, and the newly worst take the place of those.

    Args:
        size: of the pool.
        share: of a draw that enters, and that comes from the pool.
        device: where the pool is kept.
    """

    def __init__(self, size: int, share: float = 0.1, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.size, self.share = size, share
        self.rays = torch.zeros(0, dtype=torch.long, device=device)
        self.errors = torch.zeros(0, device=device)
        self.ages = torch.zeros(0, device=device)
        self._drawn = self.rays

    def draw(self, count: int, generator: Generator, among: int) -> Int[Tensor, "count"]:
        """Numbers of rays below `among`; uniform ones first, then those of the pool."""
        hard = round(self.share * count) if len(self.rays) == self.size else 0
        device = self.rays.device
        self._drawn = torch.randperm(len(self.rays), generator=generator, device=device)[:hard]
        uniform = torch.randint(among, (count - len(self._drawn),), generator=generator, device=device)
        return torch.cat([uniform, self.rays[self._drawn]])

    def update(self, rays: Int[Tensor, "count"], errors: Float[Tensor, "count"]) -> None:
        """Take in the worst of what was drawn last."""
        worst = errors.detach().topk(max(1, round(self.share * len(errors))))
        values = rays[worst.indices], worst.values, torch.zeros_like(worst.values)
        self.ages += 1
        held = torch.ones_like(self.rays, dtype=torch.bool)
        held[self._drawn] = False
        pool = self.rays[held], self.errors[held], self.ages[held]
        merged = [torch.cat([new, old])[: self.size] for new, old in zip(values, pool)]
        self.rays, self.errors, self.ages = merged
        self._drawn = self._drawn[:0]

    def forget(self, start: int, stop: int) -> None:
        """The rays of these numbers were replaced by others: they leave the pool."""
        held = (self.rays < start) | (self.rays >= stop)
        self.rays, self.errors, self.ages = self.rays[held], self.errors[held], self.ages[held]

    def summary(self) -> dict[str, float]:
        """Size of the pool, mean age of its members in updates, their mean error when they entered."""
        if not len(self.rays):
            return {"size": 0.0, "age": 0.0, "error": 0.0}
        return {
            "size": float(len(self.rays)),
            "age": float(self.ages.mean()),
            "error": float(self.errors.mean()),
        }

    def get_extra_state(self) -> dict[str, Any]:
        """The pool."""
        return {"rays": self.rays, "errors": self.errors, "ages": self.ages}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """The pool as it was saved."""
        device = self.rays.device
        self.rays, self.errors, self.ages = (state[name].to(device) for name in ("rays", "errors", "ages"))
