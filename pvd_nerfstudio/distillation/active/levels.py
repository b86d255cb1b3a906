"""The three levels together: which are on, what they know, and what is saved of them."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from pvd_nerfstudio.distillation.active import Rule, points
from pvd_nerfstudio.distillation.active.poses import HardPoses
from pvd_nerfstudio.distillation.active.rays import Draw, HardRayPool, RayErrors, uniform
from pvd_nerfstudio.input.ranges import COUNT, at_least, between
from pvd_nerfstudio.input.saved import rows_like

LEVELS = ("poses", "rays", "points")
LARGEST_SHARE = 0.9
"""The rest of a draw is uniform, whatever the levels say."""
PAPERS_SHARE = 0.1
MOST_CELLS = 256
MOST_NOTED = 1 << 22
"""Views or points of a chunk that a checkpoint may know."""


@dataclass
class ActiveLearningConfig:
    """Where the student looks hardest."""

    ranges = {
        "pose_share": between(0, LARGEST_SHARE),
        "ray_share": between(0, LARGEST_SHARE),
        "ray_fairness": between(0, 1),
        "ray_cells": between(0, MOST_CELLS),
        "pose_pool": COUNT,
        "ray_pool": COUNT,
        "rotation": between(0, 180),
        "movement": at_least(0),
    }

    poses: bool = False
    """Whether the views that the student gets worst are visited again, from slightly elsewhere."""
    rays: bool = False
    """Whether the rays that the student gets worst are drawn more often."""
    points: bool = False
    """Whether points are also taken where the student alone shows something."""
    rule: Rule = "error"
    """error: in proportion to a running mean of the error. papers: the pools and shares of PVD-AL."""
    pose_share: float = 0.3
    """Share of the pseudo views that are hard ones; the papers' rule has a tenth."""
    ray_share: float = 0.5
    """Share of a step's rays that is drawn by error, the rest is uniform; the papers' rule has a tenth, from a pool."""
    ray_cells: int = 64
    """Cells along each axis of a grid in which rays that end in one cell share their error; 0: each ray has its own.
    Not in the papers' rule."""
    ray_fairness: float = 0.5
    """How much less a ray counts that is drawn more often: 1, by as much; 0, hard rays count all the more. Not in the
    papers' rule."""
    pose_pool: int = 100
    """Poses in the pool."""
    ray_pool: int = 65536
    """Rays in the pool of the papers' rule (theirs: 614,400)."""
    rotation: float = 9.0
    """Degrees by which a hard pose is turned at most, about each of its axes."""
    movement: float = 0.0
    """World units by which a hard pose is moved at most, along each axis."""

    @property
    def on(self) -> list[str]:
        """The levels that are on."""
        return [level for level in LEVELS if getattr(self, level)]


@dataclass
class ChunkNotes:
    """What a chunk of the bank was made of beside its seed: with it a resumed run makes the same chunk again."""

    number: int
    poses: Float[Tensor, "views 3 4"]
    """Hard views in it."""
    points: Int[Tensor, "points"] | None = None
    """Which samples became points, where the student had a say; None: the seed knows."""


class ActiveLearning(nn.Module):
    """What the levels know. Each can be switched at any time, by its flag in `config`.

    Args:
        config: which levels are on, and their numbers.
        capacity: rays that the bank can hold.
        device: of the bank.
    """

    def __init__(self, config: ActiveLearningConfig, capacity: int, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.config, self._capacity, self._device = config, capacity, device
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        config, device = self.config, self._device
        self.poses = HardPoses(config.pose_pool, config.rule, config.rotation, config.movement)
        self.rays: RayErrors | HardRayPool = (
            RayErrors(
                self._capacity,
                config.ray_share,
                fairness=config.ray_fairness,
                places=config.ray_cells**3,
                device=device,
            )
            if config.rule == "error"
            else HardRayPool(config.ray_pool, PAPERS_SHARE, device)
        )
        self._notes: dict[int, ChunkNotes] = {}

    @property
    def matters(self) -> bool:
        """Whether a resumed run needs the state: a level is on, or was when a chunk of the bank was made."""
        made = any(len(notes.poses) or notes.points is not None for notes in self._notes.values())
        return bool(self.config.on) or made

    def notes(self, slot: int, number: int) -> ChunkNotes | None:
        """What was noted of a chunk; None if it has never been queried for."""
        notes = self._notes.get(slot)
        return notes if notes is not None and notes.number == number else None

    def note(self, slot: int, notes: ChunkNotes) -> None:
        """Remember what a new chunk in this slot of the bank was made of."""
        self._notes[slot] = notes

    def hard_poses(self, count: int, generator: Generator) -> Float[Tensor, "views 3 4"]:
        """Views for a chunk of `count`; none while the level is off or knows nothing."""
        if not self.config.poses:
            return torch.zeros(0, 3, 4, device=generator.device)
        share = self.config.pose_share if self.config.rule == "error" else PAPERS_SHARE
        return self.poses.draw(round(share * count), generator)

    def draw_rays(self, count: int, generator: Generator, among: int) -> Draw:
        """Numbers of the rays of a step, uniform ones and hard ones."""
        if self.config.rays:
            return self.rays.draw(count, generator, among)
        drawn = uniform(count, among, generator)
        return drawn, drawn[:0]

    def ray_weights(self, rays: Int[Tensor, "rays"]) -> Float[Tensor, "rays 1"] | None:
        """What the losses of rays that were just drawn are multiplied with; None: all with one."""
        return self.rays.weights(rays) if self.config.rays and isinstance(self.rays, RayErrors) else None

    def learn(self, rays: Int[Tensor, "count"], errors: Float[Tensor, "count"]) -> None:
        """Note how the rays of a step came out."""
        if self.config.rays:
            self.rays.update(rays, errors)

    def locate_rays(self, start: int, ends: Float[Tensor, "rays 3"]) -> None:
        """Where the rays from a place in the bank on end, in the unit cube."""
        cells = self.config.ray_cells
        if cells and isinstance(self.rays, RayErrors):
            x, y, z = (ends * cells).long().clamp(0, cells - 1).unbind(dim=-1)
            self.rays.locate(start, (x * cells + y) * cells + z)

    def replace_rays(self, start: int, stop: int, errors: Float[Tensor, "rays"] | None) -> None:
        """New rays took these places in the bank; the errors of the first of them, if the student was queried."""
        self.rays.replace(start, stop, errors if self.config.rays else None)

    def point_probability(
        self,
        teacher: Float[Tensor, "samples 1"],
        student: Float[Tensor, "samples 1"] | None,
        ray_indices: Int[Tensor, "samples"],
        empty_share: float,
    ) -> Float[Tensor, "samples"]:
        """With which probability a sample becomes a point; see `points.probability`."""
        if not self.config.points:
            return points.probability(teacher, None, ray_indices, "error", empty_share)
        return points.probability(teacher, student, ray_indices, self.config.rule, empty_share)

    def summary(self) -> dict[str, float]:
        """Size, mean age and mean error of the pools that are in use, for the writer."""
        pools = {"poses": self.poses, "rays": self.rays}
        used = {level: pool.summary() for level, pool in pools.items() if level in self.config.on}
        return {f"hard_{level}_{what}": value for level, one in used.items() for what, value in one.items()}

    def get_extra_state(self) -> dict[str, Any]:
        """Which levels are on, and the notes on the bank's chunks."""
        return {"on": self.config.on, "notes": {slot: vars(notes) for slot, notes in self._notes.items()}}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """The same as it was saved."""
        for level in LEVELS:
            setattr(self.config, level, level in state["on"])
        self._notes = {int(slot): _saved_notes(values) for slot, values in state["notes"].items()}


def _saved_notes(values: dict[str, Any]) -> ChunkNotes:
    poses = rows_like(values["poses"], torch.zeros(0, 3, 4), MOST_NOTED)
    points = values["points"]
    points = None if points is None else rows_like(points, torch.zeros(0, dtype=torch.int), MOST_NOTED)
    return ChunkNotes(int(values["number"]), poses, points)
