"""Hard rays: what is drawn most is what came out worst.

Both classes know rays by their numbers in [0, capacity) alone: places in a bank, or pixels of a data set. A draw has
two parts, a uniform one and a hard one; its errors are handed back with `update`.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from pvd_nerfstudio.distillation.active import summary
from pvd_nerfstudio.input.saved import rows_like

UNKNOWN = -1.0
SHARED_MEMORY = 0.9
"""Weight of what was known of a place: its rays differ."""
CANDIDATES = 8
"""Uniform rays for each hard one that is chosen of them."""

Draw = tuple[Int[Tensor, "uniform"], Int[Tensor, "hard"]]


class RayErrors(nn.Module):
    """The rule `error`: a running mean of each ray's error; a share of each draw is in proportion to it.

    Rays that end in the same place may share their error: of new rays, which nobody has tried, it is known too. A ray
    of unknown error counts as an average one. The hard ones are chosen, in proportion, among eight times as many
    uniform ones: the cost is that of a batch, however many rays there are.

    Args:
        capacity: how many rays there are.
        share: of a draw that follows the errors.
        memory: weight of what was known of a ray in the running mean, in [0, 1).
        fairness: how much less a ray counts that is drawn more often, in [0, 1]. At 1 the expected loss is that of
            uniform rays, at 0 the hard ones count all the more (soft mining: Kheradmand et al., CVPR 2024).
        places: how many places rays can end in; see `locate`.
        device: where the errors are kept.
    """

    errors: Tensor
    measured: Tensor
    clock: Tensor
    place: Tensor

    def __init__(
        self,
        capacity: int,
        share: float = 0.5,
        memory: float = 0.5,
        fairness: float = 1.0,
        places: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.share, self.memory, self.fairness, self.capacity = share, memory, fairness, capacity
        self._mean = torch.zeros((), device=device)  # of the errors, as the last draw found it
        # First those of single rays, then those of places.
        self.register_buffer("errors", torch.full((capacity + places,), UNKNOWN, device=device))
        self.register_buffer("measured", torch.zeros(capacity + places, dtype=torch.int32, device=device))
        self.register_buffer("clock", torch.zeros((), dtype=torch.int32, device=device))
        own = torch.arange(capacity, dtype=torch.int32, device=device)
        self.register_buffer("place", own, persistent=False)  # in `errors`, of each ray

    def locate(self, start: int, places: Int[Tensor, "rays"]) -> None:
        """Tell which place each of the rays from number `start` on ends in: a number below `places`."""
        self.place[start : start + len(places)] = self.capacity + places.int()

    def draw(self, count: int, generator: Generator, among: int | None = None) -> Draw:
        """Numbers of rays, with replacement.

        Args:
            count: how many.
            generator: of all randomness.
            among: only rays below this number; left out: all.
        """
        capacity, hard = self.capacity if among is None else among, round(self.share * count)
        drawn = uniform(count - hard, capacity, generator)
        if not hard:
            return drawn, drawn[:0]
        candidates = torch.randint(capacity, (CANDIDATES * hard,), generator=generator, device=generator.device)
        errors = self.errors[self.place[candidates]]
        self._mean = errors.clamp_min(0).sum() / (errors >= 0).sum().clamp_min(1)
        relative = self._relative_errors(candidates)
        return drawn, candidates[torch.multinomial(relative, hard, replacement=True, generator=generator)]

    def weights(self, rays: Int[Tensor, "rays"]) -> Float[Tensor, "rays 1"]:
        """What the losses of the rays of the last draw are multiplied with; their mean is one."""
        frequency = 1 - self.share + self.share * self._relative_errors(rays)
        weights = frequency**-self.fairness
        return (weights / weights.mean())[:, None]

    def _relative_errors(self, rays: Int[Tensor, "rays"]) -> Float[Tensor, "rays"]:
        errors = self.errors[self.place[rays]]
        known = torch.where(errors < 0, self._mean, errors)
        return (known / self._mean.clamp_min(1e-12)).clamp_min(1e-6)

    def update(self, rays: Int[Tensor, "count"], errors: Float[Tensor, "count"]) -> None:
        """Note the errors, 0 or above, of rays that were drawn; of several in one place their mean."""
        places, which = self.place[rays].long().unique(return_inverse=True)
        new = torch.zeros_like(places, dtype=errors.dtype)
        new = new.scatter_reduce(0, which, errors.detach(), "mean", include_self=False)
        old, memory = self.errors[places], torch.where(places < self.capacity, self.memory, SHARED_MEMORY)
        self.errors[places] = torch.where(old < 0, new, memory * old + (1 - memory) * new)
        self.clock += 1
        self.measured[places] = self.clock

    def replace(self, start: int, stop: int, errors: Float[Tensor, "rays"] | None = None) -> None:
        """The rays of these numbers made room for others; of the first of these the errors, if they are known.

        Where they end was told before, by `locate`.
        """
        self.errors[start:stop] = UNKNOWN
        if errors is not None:
            self.update(torch.arange(start, start + len(errors), device=errors.device), errors)

    def summary(self) -> dict[str, float]:
        """How many rays or places have a known error, how many updates ago it was measured, and what it is; means."""
        known = self.errors >= 0
        return summary(self.errors[known], self.clock - self.measured[known])


class HardRayPool(nn.Module):
    """The rule `papers` (PVD-AL, section 3.4.2): the worst tenth of each draw goes into a pool.

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
        self._given = self.rays

    def draw(self, count: int, generator: Generator, among: int) -> Draw:
        """Numbers of rays below `among`."""
        hard, device = round(self.share * count), self.rays.device
        self._given = self.rays.new_zeros(0)
        if len(self.rays) == self.size:
            self._given = torch.randperm(self.size, generator=generator, device=device)[:hard]
        return uniform(count - len(self._given), among, generator), self.rays[self._given]

    def update(self, rays: Int[Tensor, "count"], errors: Float[Tensor, "count"]) -> None:
        """Take in the worst of what was drawn last."""
        worst = errors.detach().topk(max(1, round(self.share * len(errors))))
        new = rays[worst.indices], worst.values, torch.zeros_like(worst.values)
        held = torch.ones_like(self.rays, dtype=torch.bool)
        held[self._given] = False
        old = self.rays[held], self.errors[held], self.ages[held] + 1
        self.rays, self.errors, self.ages = (torch.cat(pair)[: self.size] for pair in zip(new, old))
        self._given = self._given[:0]

    def replace(self, start: int, stop: int, errors: Float[Tensor, "rays"] | None = None) -> None:
        """The rays of these numbers made room for others, and leave the pool; the new ones enter when drawn."""
        del errors
        held = (self.rays < start) | (self.rays >= stop)
        self.rays, self.errors, self.ages = self.rays[held], self.errors[held], self.ages[held]

    def summary(self) -> dict[str, float]:
        """Size of the pool, mean age of its members in updates, their mean error when they entered."""
        return summary(self.errors, self.ages)

    def get_extra_state(self) -> dict[str, Any]:
        """The pool."""
        return {"rays": self.rays, "errors": self.errors, "ages": self.ages}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """The pool as it was saved."""
        names = ("rays", "errors", "ages")
        self.rays, self.errors, self.ages = (rows_like(state[name], getattr(self, name), self.size) for name in names)
        if not len(self.rays) == len(self.errors) == len(self.ages):
            raise ValueError("a pool of rays whose errors are not as many")


def uniform(count: int, among: int, generator: Generator) -> Int[Tensor, "count"]:
    """Numbers below `among`, with replacement; each once where as many are wanted as there are."""
    if count == among:
        return torch.arange(among, device=generator.device)
    return torch.randint(among, (count,), generator=generator, device=generator.device)
