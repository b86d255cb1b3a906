"""What the teacher said, kept to learn from many times.

The teacher's forward pass costs as much as a training step of the student, so it is queried in chunks, a chunk now and
then, and every step draws from what the bank holds. Which chunks the bank holds depends on the step alone, and what is
in a chunk on its number and the seed (and on what active learning noted of it): a resumed run queries the same chunks
again and goes on as if it had not stopped.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from pvd_nerfstudio.input.progress import with_bar


@dataclass
class RayTargets:
    """Rays and the teacher's pixels."""

    origins: Float[Tensor, "rays 3"]
    directions: Float[Tensor, "rays 3"]
    rgb: Float[Tensor, "rays 3"]
    """Premultiplied with the opacity: no background."""
    opacity: Float[Tensor, "rays 1"]
    start: Float[Tensor, "rays 1"]
    """Distance up to which the teacher shows nothing."""
    end: Float[Tensor, "rays 1"]
    """Distance from which on the teacher shows nothing."""


@dataclass
class PointTargets:
    """Points on rays and what the teacher holds there."""

    positions: Float[Tensor, "points 3"]
    directions: Float[Tensor, "points 3"]
    log_density: Float[Tensor, "points 1"]
    rgb: Float[Tensor, "points 3"]
    weight: Float[Tensor, "points 1"]
    """Compositing weight on the ray that the point comes from."""
    feature: Float[Tensor, "points channels"] | None


@dataclass
class PictureTargets:
    """Pieces of views, all of one size, and the teacher's rendering of them: for students that are drawn."""

    poses: Float[Tensor, "pictures 12"]
    """Camera to world, row by row."""
    intrinsics: Float[Tensor, "pictures 4"]
    """fx, fy, cx and cy of the piece, in pixels."""
    rgb: Float[Tensor, "pictures values"]
    """Premultiplied with the opacity: rows, columns, channels."""
    opacity: Float[Tensor, "pictures pixels"]
    seen: Float[Tensor, "pictures pixels"]
    """1 where a pixel counts, 0 where a mask hides it."""


@dataclass
class BankChunk:
    """The teacher's answer to one question."""

    rays: RayTargets | None = None
    points: PointTargets | None = None
    """None where only pixels are known."""
    pictures: PictureTargets | None = None
    """For students that are drawn, in place of the others."""


Source = Callable[[int, int, Generator], BankChunk]
"""Makes the chunk of a number, which goes into a slot, with the random numbers of a generator."""

Record = TypeVar("Record", RayTargets, PointTargets, PictureTargets)


class TargetBank:
    """A ring of chunks.

    Args:
        source: queries the teacher for the chunk of a number, which goes into a slot; draws its random numbers from the
            generator that it is given. All chunks have the same sizes.
        seed: of the run.
        chunks: how many chunks are held; then the oldest makes room.
        start_chunks: how many there are at step 0.
        fill_every: steps between two new chunks until there are `first_chunks`.
        first_chunks: how many come fast.
        refresh_every: steps between two new chunks from then on.
        device: where the chunks are kept.
    """

    def __init__(
        self,
        source: Source,
        seed: int,
        chunks: int,
        start_chunks: int,
        fill_every: int,
        first_chunks: int,
        refresh_every: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._source = source
        self._seed = seed
        self._slots = max(chunks, first_chunks)
        self._schedule = (start_chunks, fill_every, first_chunks, refresh_every)
        self._device = torch.device(device)
        self._numbers: dict[int, int] = {}
        self._rays: RayTargets | None = None
        self._points: PointTargets | None = None
        self._pictures: PictureTargets | None = None
        self.seconds = 0.0
        """What making chunks has taken so far."""

    def wanted(self, step: int) -> range:
        """Numbers of the chunks that the bank holds at a step."""
        newest = chunks_until(step, *self._schedule)
        return range(max(0, newest - self._slots), newest)

    def advance(self, step: int) -> int:
        """Query the chunks that are missing at this step; returns how many there were."""
        missing = [number for number in self.wanted(step) if self._numbers.get(number % self._slots) != number]
        began = time.perf_counter()
        shown = with_bar(missing, "Querying the teacher") if len(missing) > 1 else missing
        for number in shown:
            with torch.autocast(self._device.type, enabled=False):  # always as precise, resumed or not
                self._make(number)
        self.seconds += time.perf_counter() - began
        return len(missing)

    def _make(self, number: int) -> None:
        """Query one chunk and put it into its slot."""
        generator = seeded_generator(self._device, self._seed, number)
        slot = number % self._slots
        chunk = self._source(number, slot, generator)
        if chunk.rays is not None:
            self._rays = _store(self._rays, chunk.rays, slot, self._slots)
        if chunk.points is not None:
            self._points = _store(self._points, chunk.points, slot, self._slots)
        if chunk.pictures is not None:
            self._pictures = _store(self._pictures, chunk.pictures, slot, self._slots)
        self._numbers[slot] = number

    @property
    def num_rays(self) -> int:
        """How many rays it holds; their numbers begin at 0."""
        assert self._rays is not None, "advance() comes first"
        return self._filled(len(self._rays.origins))

    def rays(self, index: Int[Tensor, "rays"]) -> RayTargets:
        """The rays of these numbers."""
        assert self._rays is not None, "advance() comes first"
        return take(self._rays, index)

    def draw_points(self, count: int, generator: Generator) -> PointTargets:
        """Points drawn uniformly, with replacement."""
        assert self._points is not None, "the source gave no points"
        filled = self._filled(len(self._points.positions))
        return take(self._points, torch.randint(filled, (count,), generator=generator, device=self._device))

    @property
    def num_pictures(self) -> int:
        """How many pictures it holds; their numbers begin at 0."""
        assert self._pictures is not None, "the source gave no pictures"
        return self._filled(len(self._pictures.poses))

    def pictures(self, index: Int[Tensor, "pictures"]) -> PictureTargets:
        """The pictures of these numbers."""
        assert self._pictures is not None, "the source gave no pictures"
        return take(self._pictures, index)

    def _filled(self, capacity: int) -> int:
        return capacity // self._slots * len(self._numbers)


def chunks_until(step: int, start_chunks: int, fill_every: int, first_chunks: int, refresh_every: int) -> int:
    """How many chunks have been made by a step; TargetBank has the meaning of the others."""
    start_chunks = min(start_chunks, first_chunks)
    filling = (first_chunks - start_chunks) * fill_every
    if step < filling:
        return start_chunks + step // fill_every
    return first_chunks + (step - filling) // refresh_every


def seeded_generator(device: torch.device | str, seed: int, number: int) -> Generator:
    """A generator whose numbers depend on the seed of the run and a running number alone."""
    return Generator(device=device).manual_seed((seed * 0x9E3779B1 + number * 0x85EBCA77 + 1) % (1 << 62))


def take(record: Record, index: Tensor) -> Record:
    """The rows of a record that `index` names."""
    values = {name: value if value is None else value.index_select(0, index) for name, value in _items(record)}
    return type(record)(**values)


def _store(ring: Record | None, chunk: Record, slot: int, slots: int) -> Record:
    """Copy a chunk into its slot; the first chunk says how large the ring is."""
    if ring is None:
        sized = {
            name: value if value is None else value.new_zeros(slots * len(value), value.shape[1])
            for name, value in _items(chunk)
        }
        ring = type(chunk)(**sized)
    target = dict(_items(ring))
    for name, value in _items(chunk):
        if value is not None:
            target[name][slot * len(value) : (slot + 1) * len(value)] = value
    return ring


def _items(record: RayTargets | PointTargets | PictureTargets) -> list[tuple[str, Tensor]]:
    return [(field.name, getattr(record, field.name)) for field in fields(record)]
