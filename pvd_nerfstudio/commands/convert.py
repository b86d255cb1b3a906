"""`pvd convert`: a conversion within some minutes, with sizes and steps that suit the machine.

It chooses options of `ns-train pvd-distill` and trains by it; nothing is done here that the options cannot.
"""

import math
import random
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion
from nerfstudio.utils.rich_utils import CONSOLE
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from pvd_nerfstudio.commands.plan import (
    ENOUGH,
    SIZES,
    TRIAL_STEPS,
    Size,
    Trial,
    in_silence,
    megabytes_of,
    size_that_fits,
    sizes_of,
    sizes_within,
    try_out,
)
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.ranges import COUNT, above, check_ranges
from pvd_nerfstudio.input.text import plain, say
from pvd_nerfstudio.student.model import StudentModelConfig
from pvd_nerfstudio.student.registry import STUDENTS, StudentName
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.trainer import PVDTrainer
from pvd_nerfstudio.trainer_config import PVDTrainerConfig

MINUTES = 5.0
"""On a CPU, where nothing else was asked for."""
SPARE = 0.05
"""Share of the time that is left for what a trial cannot tell."""
TICK_EVERY = 10
"""Steps between two movements of the progress bar."""
FEW, TOO_FEW = 300, ENOUGH // 2
"""Steps under which no student is good, and under which a smaller one is better."""
GAP = {"mlp": 2.3, "hash": 1.2, "vm": 0.8, "sparse": 1.6, "splat": 0.4}
"""dB that a student of lego ended under its teacher of 33 dB (splat: 30 dB), after 300 s on two cores
(docs/benchmarks.md)."""


@dataclass
class Convert:
    """Convert a trained run into another architecture, within some minutes."""

    ranges = {"minutes": above(0), "steps": COUNT, "target_mb": above(0)}

    teacher: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run to convert: its config.yml, its folder, its nerfstudio_models folder or one of its .ckpt files."""
    to: StudentName = "mlp"
    """Architecture to convert to."""
    minutes: float | None = None
    """How long it may take; left out: 5 on a CPU, on a GPU as long as the student's usual number of steps takes."""
    steps: int | None = None
    """Training steps, in place of --minutes."""
    size: Size | None = None
    """paper: the papers' sizes. Left out: the largest that gets enough steps within the time."""
    target_mb: float | None = None
    """The largest student whose file has at most so many MB, in place of --size."""
    edits: Path | None = None
    """What to do with the teacher's volume first: a file of edits, as `pvd edit` writes it (docs/editing.md)."""
    data: Path | None = None
    """The data set, where it is no longer where the teacher was trained with it."""
    output_dir: Path = Path("outputs")
    """Where the new run goes."""
    viewer: bool = False
    """Whether nerfstudio's viewer shows the training."""
    dry_run: bool = False
    """Say what would be done, and end there."""

    def run(self) -> None:
        """Convert; in the end teacher and student are compared, and there are commands to go on with."""
        began = time.perf_counter()
        if self.convert() is None:
            say("A dry run ends here; without --dry-run it would be trained now.")
        else:
            say(f"All of it took {minutes_in_words(time.perf_counter() - began)}.")

    def convert(self) -> PVDTrainer | None:
        """Choose, say what was chosen, train.

        Returns:
            The trainer of the finished run; None after a dry run.

        Raises:
            InputError: something does not fit.
            KeyboardInterrupt: of the user; what was trained until then is saved.
        """
        began = time.perf_counter()
        self._check()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        minutes = self.minutes or (MINUTES if device == "cpu" and self.steps is None else None)
        seconds = None if minutes is None else 60 * minutes

        def within(trial: Trial) -> float:
            """Steps that fit into what is left of the time."""
            if seconds is None:
                return math.inf
            return trial.steps_within((1 - SPARE) * seconds - (time.perf_counter() - began))

        with bar(transient=True) as progress, in_silence():
            progress.add_task("Timing some steps", total=None)
            sizes, why = self._sizes(seconds, device)
            trial = try_out(self.config(sizes, TRIAL_STEPS))
            while within(trial) < TOO_FEW and (smaller := self._smaller(sizes)):
                sizes, why = sizes_of(self.to, smaller), f"{smaller}: of a larger one a trial was too slow"
                trial = try_out(self.config(sizes, TRIAL_STEPS))
            if self.steps is not None:
                steps = self.steps
            elif seconds is None:
                steps = self.config(sizes, None).max_num_iterations
            else:
                steps = int(within(trial))
        config = self.config(sizes, steps)
        trial.hand_on(config)
        self._say_plan(config, trial, why, minutes)
        if steps < FEW:
            say(f"{steps:,} steps are too few for a good student: give it more --minutes.", "yellow")
        return None if self.dry_run else self._train(config, trial.seconds(steps))

    def _check(self) -> None:
        """All that can be wrong with the options, before any work.

        Raises:
            InputError: says what.
        """
        check_ranges(self)
        for pair in (("minutes", "steps"), ("size", "target_mb")):
            if all(getattr(self, name) is not None for name in pair):
                raise InputError(f"--{pair[0]} and --{pair[1].replace('_', '-')} exclude each other: give one.")
        find_run(self.teacher)

    def _sizes(self, seconds: float | None, device: str) -> tuple[list[str], str]:
        """The student's size as options, and why that."""
        if self.target_mb is not None:
            grid = self.config([], 1).pipeline.model.grid_resolution
            return sizes_within(self.to, self.target_mb, grid), f"the largest within {self.target_mb:g} MB"
        if self.size is not None:
            return sizes_of(self.to, self.size), "as asked for"
        if seconds is None:
            return sizes_of(self.to, "paper"), "the papers'"
        longer = self.config([], 1).pipeline.model.grid_resolution / StudentModelConfig().grid_resolution
        size = size_that_fits(self.to, seconds, device, longer)
        why = "the papers'" if size == "paper" else "the largest that gets enough steps in this time here"
        return sizes_of(self.to, size), f"{size}: {why}"

    def _smaller(self, sizes: list[str]) -> Size | None:
        """The next smaller size, unless there is none or the size was asked for; a picture's step is worth many."""
        kind: Any = STUDENTS[self.to]
        if self.size is not None or self.target_mb is not None or kind().is_drawn:
            return None
        rank = min(number for number, size in enumerate(SIZES) if sizes_of(self.to, size) == sizes)
        return SIZES[rank - 1] if rank else None

    def config(self, sizes: list[str], steps: int | None) -> PVDTrainerConfig:
        """What `ns-train pvd-distill` makes of the options."""
        words = ["pvd-distill", "--teacher-checkpoint", str(self.teacher), "--student", self.to, *sizes]
        words += ["--output-dir", str(self.output_dir), "--vis", "viewer+tensorboard" if self.viewer else "tensorboard"]
        words += ["--logging.local-writer.enable", "False", "--viewer.quit-on-train-completion", "True"]
        words += ["--steps-per-eval-batch", "0", "--steps-per-eval-image", "0", "--steps-per-eval-all-images", "0"]
        words += [] if steps is None else ["--max-num-iterations", str(steps)]
        words += [] if self.data is None else ["--data", str(self.data)]
        words += [] if self.edits is None else ["--edits", str(self.edits)]
        words += [] if self.target_mb is None else ["--pipeline.keep-detail", "False"]
        config = tyro.cli(AnnotatedBaseConfigUnion, args=words)
        assert isinstance(config, PVDTrainerConfig)
        return config

    def _say_plan(self, config: PVDTrainerConfig, trial: Trial, why: str, minutes: float | None) -> None:
        model, steps = config.pipeline.model, config.max_num_iterations
        chosen = {name: getattr(model, name) for name in model.chosen_parts} or {self.to: model.chosen}
        shown = {
            name: ", ".join(f"{key} {value}" for key, value in vars(part).items() if key in _telling(type(part)))
            for name, part in chosen.items()
        }
        table = Table("", "chosen", "because", title=f"{plain(self.teacher)} to {self.to}")
        for name, text in shown.items():
            table.add_row(name, text, why)
        reason = "the usual" if minutes is None else f"what fits into {minutes_in_words(60 * minutes)}"
        reason = "as asked for" if self.steps else reason
        taken = f"{trial.start:.0f} s to the first, {trial.step:.3g} s each"
        taken += f", {trial.growing:.0f} s to grow" if trial.growing >= 1 else ""
        table.add_row("steps", f"{steps:,}", f"{reason}: {taken}")
        table.add_row(
            "time", minutes_in_words(trial.seconds(steps)), f"and {trial.chunk:.2g} s for each question to the teacher"
        )
        table.add_row("memory", f"{trial.memory / 1e9:.1f} GB", "taken by the first steps")
        megabytes = megabytes_of(list(chosen.values()), model.grid_resolution)
        free = shutil.disk_usage(_existing(self.output_dir)).free
        table.add_row("disk", f"about {megabytes:.2g} MB", f"{free / 1e9:,.0f} GB are free")
        if self.to in GAP and steps >= ENOUGH:
            table.add_row(
                "quality", f"about {GAP[self.to]:g} dB lost", "lego in 5 minutes on two cores (docs/benchmarks.md)"
            )
        CONSOLE.print(table)

    def _train(self, config: PVDTrainerConfig, seconds: float) -> PVDTrainer:
        """Train as `ns-train` does, with one bar over all of it.

        Args:
            config: of the run.
            seconds: that it is expected to take.
        """
        config.set_timestamp()
        seed_all(config.machine.seed)
        with bar(console=CONSOLE) as progress:
            task = progress.add_task("Loading", total=seconds)
            began = time.perf_counter()
            trainer = config.setup(local_rank=0, world_size=1)
            trainer.ends_program = False
            trainer.setup()
            trainer.begin()
            start = time.perf_counter() - began
            training = max(seconds - start, 1.0)
            progress.update(task, total=start + training)

            def tick(step: int) -> None:
                """Move the bar; every now and then, for a GPU must be waited for to know the PSNR."""
                done = step + 1
                if done % TICK_EVERY and done < config.max_num_iterations:
                    return
                recent = trainer.pipeline.recent_psnr
                quality = "" if recent is None else f", {recent:.1f} dB to the teacher"
                progress.update(
                    task,
                    description=f"Training: {trainer.pipeline.stage(step).name}{quality}",
                    completed=start + training * done / config.max_num_iterations,
                )

            trainer.on_step(tick)
            trainer.train()
        return trainer


def _telling(kind: type) -> set[str]:
    """The fields that a size sets."""
    return {name for sizes in (*kind.sizes.values(), *kind.ladder) for name in sizes}  # type: ignore[attr-defined]


def bar(console: Console | None = None, transient: bool = False) -> Progress:
    """How far something is; a console of its own goes on where ours is silenced."""
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console or Console(file=sys.stdout), transient=transient)


def seed_all(seed: int) -> None:
    """Seed what anybody might draw from, as `ns-train` does."""
    for one in (random.seed, np.random.seed, torch.manual_seed):
        one(seed)


def minutes_in_words(seconds: float) -> str:
    """A time, to three digits."""
    return f"{seconds / 60:.3g} minutes" if seconds > 90 else f"{seconds:.0f} seconds"  # noqa: PLR2004


def _existing(path: Path) -> Path:
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
