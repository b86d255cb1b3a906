"""The three levels together: which are on, what they know, and what is saved of them."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from pvd_nerfstudio.distillation.active import points
from pvd_nerfstudio.distillation.active.poses import HardPoses
from pvd_nerfstudio.distillation.active.rays import HardRayPool, RayErrors


@dataclass
class ActiveLearningConfig:
    """Where the student looks hardest."""

    poses: bool = False
    """Whether the views that the student gets worst are visited again, from slightly elsewhere."""
    rays: bool = False
    """Whether the rays that the student gets worst are drawn more often."""
    points: bool = False
    """Whether points are also taken where the student alone shows something."""
    rule: Literal["error", "papers"] = "error"
    """error: in proportion to a running mean of the error. papers: the pools and shares of PVD-AL."""
    pose_share: float = 0.3
    """Share of the made-up views that are hard ones."""
    ray_share: float = 0.5
    """Share of the rays of a step that are drawn by their error; the rest is uniform. papers: a tenth, from a pool."""
    pose_pool: int = 100
    """Poses in the pool."""
    ray_pool: int = 65536
    """Rays in the pool of the papers, who have 614,400."""
    rotation: float = 9.0
    """Degrees by which a hard pose is turned at most, about each of its axes."""
    movement: float = 0.0
    """World units by which a hard pose is moved at most, along each axis."""

    @property
    def any(self) -> bool:
        """Whether a level is on."""
        return self.poses or self.rays or self.points


@dataclass
class PartNotes:
    """What a part of the bank was made of beside its seed: with it a resumed run makes the same part again."""

    number: int
    poses: Float[Tensor, "views 3 4"]
    """Hard views in it."""
    points: Int[Tensor, "points"] | None = None
    """Which samples became points, where the student had a say; None: the seed knows."""


class ActiveLearning(nn.Module):
    """What the levels know; each can be switched at any time, by its flag in `config`.

    Args:
        config: which levels are on, and their numbers.
        capacity: rays that the bank can hold.
        device: of the bank.
    """

    def __init__(self, config: ActiveLearningConfig, capacity: int, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.config = config
        papers = config.rule == "papers"
        self.poses = HardPoses(config.pose_pool, "pool" if papers else "error", config.rotation, config.movement)
        self.rays = (
            HardRayPool(config.ray_pool, device=device)
            if papers
            else RayErrors(capacity, config.ray_share, device=device)
        )
        self._notes: dict[int, PartNotes] = {}

    def notes(self, slot: int, number: int) -> PartNotes | None:
        """What was noted of a part; None if it has never been asked for."""
        notes = self._notes.get(slot)
        return notes if notes is not None and notes.number == number else None

    def note(self, slot: int, notes: PartNotes) -> None:
        """Remember what a new part in this slot of the bank was made of."""
        self._notes[slot] = notes

    def hard_poses(self, count: int, generator: Generator) -> Float[Tensor, "views 3 4"]:
        """Views for a new part; none while the level is off or knows nothing."""
        if not self.config.poses:
            return torch.zeros(0, 3, 4, device=generator.device)
        return self.poses.draw(round(self.config.pose_share * count), generator)

    def draw_rays(self, count: int, generator: Generator, among: int) -> Int[Tensor, "count"]:
        """Numbers of the rays of a step."""
        if self.config.rays:
            return self.rays.draw(count, generator, among)
        return torch.randint(among, (count,), generator=generator, device=generator.device)

    def point_probability(
        self,
        teacher: Float[Tensor, "samples 1"],
        student: Float[Tensor, "samples 1"] | None,
        ray_indices: Int[Tensor, "samples"],
        empty_share: float,
    ) -> Float[Tensor, "samples"]:
        """With which probability a sample becomes a point; see `points.probability`."""
        on = self.config.points
        rule = "top" if on and self.config.rule == "papers" else "mixed"
        return points.probability(teacher, student if on else None, ray_indices, rule, empty_share)

    def learn(self, rays: Int[Tensor, "count"], errors: Float[Tensor, "count"]) -> None:
        """Note how the rays of a step came out."""
        if self.config.rays:
            self.rays.update(rays, errors)

    def entered(self, start: int, stop: int, errors: Float[Tensor, "rays"] | None) -> None:
        """New rays took these places in the bank; their errors, if the student was asked."""
        self.rays.forget(start, stop)
        if errors is not None and self.config.rays and isinstance(self.rays, RayErrors):
            self.rays.update(torch.arange(start, stop, device=errors.device), errors)

    def summary(self) -> dict[str, float]:
        """Size, mean age and mean error of the pools that are in use, for the writer."""
        levels = {"hard_poses": (self.config.poses, self.poses), "hard_rays": (self.config.rays, self.rays)}
        return {
            f"{name}_{what}": value
            for name, (on, level) in levels.items()
            if on
            for what, value in level.summary().items()
        }

    def get_extra_state(self) -> dict[int, dict[str, Any]]:
        """The notes on the bank's parts."""
        return {slot: vars(notes) for slot, notes in self._notes.items()}

    def set_extra_state(self, state: dict[int, dict[str, Any]]) -> None:
        """The notes as they were saved."""
        self._notes = {slot: PartNotes(**values) for slot, values in state.items()}
