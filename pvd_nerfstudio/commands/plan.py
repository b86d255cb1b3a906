"""What a conversion will take, found out before it is begun: by the field alone, and by a trial of some steps."""

import resource
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from nerfstudio.engine.callbacks import TrainingCallbackLocation
from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from pvd_nerfstudio.distillation.bank import chunks_until
from pvd_nerfstudio.distillation.stages import DistillationConfig
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.pipeline.fit_step import SCHEDULE
from pvd_nerfstudio.rendering.harmonics import draw
from pvd_nerfstudio.rendering.splatting import view_at
from pvd_nerfstudio.student.fields.base import FieldConfig, StudentField
from pvd_nerfstudio.student.fields.gaussians import GaussianField
from pvd_nerfstudio.student.registry import STUDENTS
from pvd_nerfstudio.teacher.samples import point_samples
from pvd_nerfstudio.trainer import PVDTrainer
from pvd_nerfstudio.trainer_config import PVDTrainerConfig

Size = Literal["small", "medium", "paper"]
SIZES: tuple[Size, ...] = ("small", "medium", "paper")
TRIAL_STEPS = 30
"""All stages and sizes of a run are shares of it, so these few have them all."""
MOST_STEPS = 1 << 24
ENOUGH = 1500
"""Steps that a student of a size should have within the time; else it is a smaller one."""
OF_A_STEP = 0.6
"""Share of a step that the field's own forward and backward pass take, about."""
POINTS = 8192
SMALL_THINGS = 0.08
"""MB of the colour head, of narrow layers and of the file's own table."""
GRID_BITS = 8
"""Cells of the occupancy grid in a byte of a checkpoint."""


@dataclass(frozen=True)
class Trial:
    """Seconds and bytes of a conversion, as its first steps have shown them."""

    start: float
    """Seconds until the first step, with the bank's first chunks."""
    step: float
    """Seconds of a step."""
    chunk: float
    """Seconds of a chunk of the bank."""
    memory: int
    """Bytes that the process has taken at most."""
    method: DistillationConfig
    growing: float = 0.0
    """Seconds in which the student becomes larger, a few times in a run of any length."""
    factor: float = 1.6
    """How much longer samples were than in images."""
    known: int = 0
    """Chunks of the bank that are there already, for somebody else has asked for them."""

    def seconds(self, steps: int) -> float:
        """What a run of so many steps takes."""
        new = max(0, self._chunks(steps - 1) - max(self._chunks(0), self.known))
        return self.start + self.growing + steps * self.step + new * self.chunk

    def steps_within(self, seconds: float) -> int:
        """The most steps that fit into a time; one at least."""
        return max(1, bisect_right(range(1, MOST_STEPS), seconds, key=self.seconds))

    def hand_on(self, config: PVDTrainerConfig) -> None:
        """Let a run take on in a step what was timed here."""
        for name in ("rays_per_step", "points_per_step", *SCHEDULE):
            setattr(config.pipeline.distillation, name, getattr(self.method, name))
        config.pipeline.model.train_step_factor = self.factor
        config.pipeline.is_step_open = False

    def _chunks(self, step: int) -> int:
        method = self.method
        return chunks_until(step, method.start_chunks, method.fill_every, method.first_chunks, method.refresh_every)


def try_out(config: PVDTrainerConfig) -> Trial:
    """Train `max_num_iterations` steps in a folder that is gone afterwards.

    Raises:
        InputError: the conversion cannot begin.
    """
    with TemporaryDirectory(prefix="pvd-trial-") as folder:
        config.output_dir, config.vis = Path(folder), "tensorboard"
        began = time.perf_counter()
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.ends_program = False
        trainer.setup()
        try:
            trainer.begin()
            bank = trainer.pipeline.bank_at(0)
            before, ready, grown = bank.seconds, time.perf_counter(), trainer.pipeline.growing_seconds
            for step in range(config.max_num_iterations):
                _step(trainer, step)
            seconds, querying = time.perf_counter() - ready, bank.seconds - before
            growing = trainer.pipeline.growing_seconds - grown
            chunks = bank.wanted(config.max_num_iterations - 1).stop - bank.wanted(0).stop
        finally:
            trainer.folder.release()
            writer.EVENT_WRITERS.clear()  # its log goes with the folder
        return Trial(
            start=ready - began,
            step=(seconds - querying - growing) / config.max_num_iterations,
            chunk=querying / max(1, chunks),
            memory=_peak_memory(trainer.pipeline.device),
            method=config.pipeline.distillation,
            growing=growing,
            factor=config.pipeline.model.train_step_factor,
        )


def options_of(student: str, sizes: dict[str, Any]) -> list[str]:
    """A size as options of `ns-train pvd-distill`."""
    return [
        word
        for name, value in sizes.items()
        for word in (f"--pipeline.model.{student}.{name.replace('_', '-')}", str(value))
    ]


def sizes_of(student: str, size: Size) -> list[str]:
    """A named size as options, also of a student that is composed of others."""
    return [word for part in _parts(student) for word in options_of(part, STUDENTS[part].sizes.get(size, {}))]


def size_that_fits(student: str, seconds: float, device: str, longer: float = 1.0) -> Size:
    """The largest size of which enough steps fit into a time, by the time that its field takes.

    Args:
        student: its name.
        seconds: the time.
        device: the kind of it that trains.
        longer: by which factor there are more cells along the sides of the scene box than the size says.
    """
    parts = _parts(student)
    for size in reversed(SIZES[1:]):
        configs = [_of_size(part, size) for part in parts]
        for config in configs:
            config.enlarge(longer)
        if ENOUGH * sum(_field_seconds(config, device) for config in configs) / OF_A_STEP <= seconds:
            return size
    return SIZES[0]


def _parts(student: str) -> tuple[str, ...]:
    return _of_size(student, "paper").composed_of or (student,)


def _of_size(student: str, size: Size) -> FieldConfig:
    kind: Any = STUDENTS[student]
    return kind(**kind.sizes.get(size, {}))


def sizes_within(student: str, megabytes: float, grid_resolution: int) -> list[str]:
    """Options of the largest student whose checkpoint has at most so many MB.

    Raises:
        InputError: the smallest is larger, or nobody has said how it can be made smaller.
    """
    kind: Any = STUDENTS[student]
    if not kind.ladder:
        raise InputError(
            f"--target-mb: '{student}' has no single size that could be changed. Choose a --size, or set its options "
            "in `ns-train pvd-distill`."
        )
    fitting = [sizes for sizes in kind.ladder if megabytes_of([kind(**sizes)], grid_resolution) <= megabytes]
    if not fitting:
        least = megabytes_of([kind(**kind.ladder[0])], grid_resolution)
        raise InputError(f"--target-mb is {megabytes:g}; the smallest '{student}' has {least:.2g} MB.")
    return options_of(student, fitting[-1])


def megabytes_of(parts: Sequence[FieldConfig], grid_resolution: int) -> float:
    """MB of a finished checkpoint at most: the weights, the occupancy grid, and what is small."""
    weights = sum(part.disk_bytes for part in parts)
    return (weights + grid_resolution**3 / GRID_BITS) / 1e6 + SMALL_THINGS


def _field_seconds(config: FieldConfig, device: str) -> float:
    """Of a forward and a backward pass of a field; the second one counts."""
    config.settle(torch.device(device).type)
    field = config.setup(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3]), contracted=False).to(device)
    generator, seconds = torch.Generator(device).manual_seed(0), 0.0
    once = _drawn(field, generator) if isinstance(field, GaussianField) else _asked(field, generator)
    for _ in range(2):
        began = time.perf_counter()
        loss = once()
        if loss.requires_grad:  # a sparse field has no voxels yet
            loss.backward()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - began
    return seconds


def _asked(field: StudentField, generator: torch.Generator) -> Callable[[], Tensor]:
    """A field at points."""
    positions = torch.rand(POINTS, 3, device=generator.device, generator=generator) * 2 - 1
    samples = point_samples(positions, positions)

    def once() -> Tensor:
        density, feature = field.get_density(samples)
        colors = field.get_outputs(samples, feature)
        return density.mean() + sum(color.mean() for color in colors.values())

    return once


def _drawn(field: GaussianField, generator: torch.Generator) -> Callable[[], Tensor]:
    """Gaussians on a sphere that fills a picture."""
    places = torch.randn(field.config.num_gaussians, 3, device=generator.device, generator=generator)
    places, size = torch.nn.functional.normalize(places, dim=-1), field.config.picture_size
    field.sow(places, places.abs(), places)
    pose = torch.eye(4, device=generator.device)[:3]
    pose[2, 3] = 3.0
    view = view_at(pose, [1.4 * size, 1.4 * size, size / 2, size / 2], size, size)

    def once() -> Tensor:
        return draw(field.named, view).mean()

    return once


def _step(trainer: PVDTrainer, step: int) -> None:
    """A step as nerfstudio's trainer does it, without evaluation, log and checkpoint."""
    trainer.pipeline.train()
    for callback in trainer.callbacks:
        callback.run_callback_at_location(step, location=TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
    trainer.train_iteration(step)
    for callback in trainer.callbacks:
        callback.run_callback_at_location(step, location=TrainingCallbackLocation.AFTER_TRAIN_ITERATION)


def _peak_memory(device: Any) -> int:
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@contextmanager
def in_silence() -> Iterator[None]:
    """Nothing is printed, by nerfstudio's console neither."""
    was_quiet, CONSOLE.quiet = CONSOLE.quiet, True
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        CONSOLE.quiet = was_quiet
