"""Conversions of one teacher, one after another, that ask it once: the grid and the bank's chunks are the same."""

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator

from pvd_nerfstudio.distillation.bank import BankChunk, Source
from pvd_nerfstudio.pipeline import DistillationPipeline
from pvd_nerfstudio.pipeline.config import DistillationPipelineConfig
from pvd_nerfstudio.student.fields.gaussians import SplatFieldConfig
from pvd_nerfstudio.teacher.frozen import FrozenTeacher

MOST_CHUNKS = 512
"""Chunks that are kept, about 1 GB; later ones are asked for again."""


@dataclass
class Shared:
    """What the first conversion has found out, for the others."""

    teacher: FrozenTeacher | None = None
    digest: str = ""
    scale: float = 1.0
    bend: float | None = None
    cells: torch.Tensor | None = None
    """Those of the occupancy grid; None before it is filled."""
    chunks: dict[tuple[int, ...], BankChunk] = field(default_factory=dict)
    """The bank's, by their number, their sizes and whether they hold features."""
    asked: int = 0
    """How many times the teacher was asked for a chunk."""
    seconds: dict[tuple[int, ...], list[float]] = field(default_factory=dict)
    """What each time took, by the kind of the chunk."""

    def seconds_per_chunk(self, kind: tuple[int, ...]) -> float:
        """What a chunk of a kind takes that nobody has asked for yet."""
        taken = self.seconds.get(kind, [])
        return sum(taken) / max(1, len(taken))

    def known(self, kind: tuple[int, ...]) -> int:
        """How many chunks of a kind there are; they are the first ones."""
        return sum(key[1:] == kind for key in self.chunks)


def kind_of(config: DistillationPipelineConfig) -> tuple[int, ...]:
    """What the chunks of two students must have in common."""
    chosen, method = config.model.chosen, config.distillation
    if isinstance(chosen, SplatFieldConfig):
        return chosen.pictures_per_chunk, chosen.picture_size
    return method.rays_per_chunk, method.points_per_chunk, int(method.feature_weight > 0)


class SharedSource:
    """A source that makes each chunk once; active learning, which gives each student others, must be off."""

    def __init__(self, source: Source, shared: Shared, kind: tuple[int, ...]) -> None:
        self._source, self._shared, self._kind = source, shared, kind

    def __call__(self, number: int, slot: int, generator: Generator) -> BankChunk:
        shared, key = self._shared, (number, *self._kind)
        if key in shared.chunks:
            return shared.chunks[key]
        began = time.perf_counter()
        chunk = self._source(number, slot, generator)
        shared.asked += 1
        shared.seconds.setdefault(self._kind, []).append(time.perf_counter() - began)
        if len(shared.chunks) < MOST_CHUNKS:
            shared.chunks[key] = chunk
        return chunk


class SharingPipeline(DistillationPipeline):
    """A distillation like any other; the config.yml of its run says that it is one, so that it can be gone on with."""

    def __init__(self, shared: Shared, config: DistillationPipelineConfig, *args: Any, **kwargs: Any) -> None:
        assert not config.active.on
        super().__init__(config, *args, **kwargs)
        self._shared = shared
        config._target = DistillationPipeline

    def _find_teacher(self) -> FrozenTeacher | None:
        shared = self._shared
        if shared.teacher is None:
            shared.teacher, shared.digest = super()._find_teacher(), self.config.teacher_digest
        self.config.teacher_digest = shared.digest
        return shared.teacher

    def _equip(self, teacher: FrozenTeacher) -> None:
        shared, student = self._shared, self.student
        if shared.cells is None:
            super()._equip(teacher)
            shared.cells = student.grid.occupied.clone()
            shared.scale, shared.bend = student.config.scale or 1.0, student.config.disparity_from
            return
        student.config.scale, student.config.disparity_from = shared.scale, shared.bend
        student.fit()
        student.grid.occupy(shared.cells)
        self._grow(0)
        if self.config.inherit_color_head:
            student.inherit_color_head(teacher.color_head())

    @property
    def _chunks_with_points(self) -> float:
        """All: another student learns from points for longer."""
        return math.inf

    def _source(self) -> Any:
        return SharedSource(super()._source(), self._shared, kind_of(self.config))
