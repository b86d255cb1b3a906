"""`pvd sweep`: every student for a minute, to see which one is worth more."""

import json
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from nerfstudio.utils import writer
from rich.progress import Progress

from pvd_nerfstudio.commands.convert import FEW, SPARE, Convert, bar, minutes_in_words, seed_all
from pvd_nerfstudio.commands.plan import TRIAL_STEPS, in_silence, size_that_fits, sizes_of, try_out
from pvd_nerfstudio.commands.report.command import made_with
from pvd_nerfstudio.commands.report.figures import sweep_figure
from pvd_nerfstudio.commands.report.page import inline, page
from pvd_nerfstudio.commands.sharing import Shared, SharingPipeline, kind_of
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.ranges import above, check_ranges
from pvd_nerfstudio.input.shown import command
from pvd_nerfstudio.input.text import plain, say
from pvd_nerfstudio.input.whole import make_room, write_whole
from pvd_nerfstudio.pipeline.summary import Figures, summarize
from pvd_nerfstudio.student.registry import BUILT_IN, StudentName
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.trainer_config import PVDTrainerConfig

COLUMNS = ("", "PSNR", "PSNR to the teacher", "MB", "rays / s", "× faster", "steps", "seconds")


@dataclass
class Swept:
    """A student, and what it came to."""

    student: str
    config: Path
    """Its run's config.yml."""
    steps: int
    seconds: float
    """Of its training."""
    figures: Figures


@dataclass
class Sweep:
    """Convert a run into one student after another, a minute each, and draw their quality over size and speed."""

    ranges = {"minutes": above(0)}

    teacher: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run to convert: its config.yml, its folder, its nerfstudio_models folder or one of its .ckpt files."""
    students: tuple[StudentName, ...] = tuple(BUILT_IN)
    """Which students, in this order."""
    minutes: float = 1.0
    """How long each is trained; the teacher is asked only once, for all."""
    data: Path | None = None
    """The data set, where it is no longer where the teacher was trained with it."""
    output_dir: Path = Path("outputs")
    """Where the new runs go."""
    output: Path = Path("sweep.html")
    """The page; the figures are written beside it, as .json."""
    overwrite: bool = False
    """Replace a page that is there already."""

    def run(self) -> None:
        """Train all, then draw. What is interrupted leaves the page of those that are done."""
        check_ranges(self)
        self._check()
        shared, swept, teacher = Shared(), [], None
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        for number, student in enumerate(self.students):
            with bar(transient=True) as progress:
                where = f"{student}, {number + 1} of {len(self.students)}"
                done, teacher = self._convert(student, shared, device, progress, where)
            swept.append(done)
            say(_line(done))
            self._write(swept, teacher, device)
        say(f"{self.output} and {self._json}")
        best = max(swept, key=lambda one: _quality(one.figures) or 0.0)
        say("Go on with the best, or with another:\n  " + self._go_on(best))

    @property
    def _json(self) -> Path:
        return self.output.with_suffix(".json")

    def _check(self) -> None:
        """All that can be wrong with the options, before any work.

        Raises:
            InputError: says what.
        """
        if not self.students:
            raise InputError("--students names none.")
        if len(set(self.students)) < len(self.students):
            raise InputError("--students names one of them twice.")
        if self.output.suffix.lower() not in (".html", ".htm"):
            raise InputError(f"--output {self.output} should end with .html; the figures go beside it, as .json.")
        find_run(self.teacher)
        make_room((self.output, self._json), self.overwrite, "--output")

    def _convert(
        self, student: str, shared: Shared, device: torch.device, progress: Progress, where: str
    ) -> tuple[Swept, Figures | None]:
        """One student; returns what it came to, and the teacher beside it."""
        task, seconds = progress.add_task(f"{where}: timing some steps", total=None), 60 * self.minutes
        convert = Convert(self.teacher, to=student, data=self.data, output_dir=self.output_dir)
        with in_silence():
            sizes = sizes_of(student, size_that_fits(student, seconds, device.type))
            tried = self._config(convert, sizes, TRIAL_STEPS, shared)
            trial, kind = try_out(tried), kind_of(tried.pipeline)
            trial = replace(trial, known=shared.known(kind), chunk=shared.seconds_per_chunk(kind))
            steps = trial.steps_within(trial.start + (1 - SPARE) * seconds)
            config = self._config(convert, sizes, steps, shared)
            trial.hand_on(config)
            config.set_timestamp()
            config.timestamp = f"{config.timestamp}-{student}"
            seed_all(config.machine.seed)
            trainer = config.setup(local_rank=0, world_size=1)
            trainer.ends_program = False
            trainer.setup()
            trainer.begin()
            began = time.perf_counter()
            progress.update(task, description=f"{where}: training", total=steps)
            trainer.on_step(lambda step: progress.update(task, completed=step + 1))
            trainer.train()
            taken = time.perf_counter() - began
            path = trainer.base_dir / "config.yml"
            figures = summarize(trainer.pipeline, find_run(path))
            writer.EVENT_WRITERS.clear()
        return Swept(student, path, steps, taken, figures[-1]), figures[0] if len(figures) > 1 else None

    def _config(self, convert: Convert, sizes: list[str], steps: int, shared: Shared) -> PVDTrainerConfig:
        config = convert.config(sizes, steps)
        config.summary, config.keep_optimizer = False, True
        config.pipeline._target = partial(SharingPipeline, shared)  # type: ignore[assignment]
        return config

    def _go_on(self, one: Swept) -> str:
        folder = one.config.parent / "nerfstudio_models"
        return command("ns-train", "pvd-distill", "--load-dir", folder, "--max-num-iterations", 10 * one.steps)

    def _write(self, swept: list[Swept], teacher: Figures | None, device: torch.device) -> None:
        """The page and its figures."""
        against_photographs = all(one.figures.psnr is not None for one in swept)
        points = {
            one.student: (_quality(one.figures) or 0.0, one.figures.megabytes, one.figures.speed.per_second or 1.0)
            for one in swept
        }
        axis = "the photographs" if against_photographs else "the teacher"
        own = teacher.psnr if teacher is not None and against_photographs else None
        speed = teacher.speed.per_second if teacher is not None else None
        rows = [] if teacher is None else [_cells(teacher, speed)]
        rows += [[*_cells(one.figures, speed)[:-2], f"{one.steps:,}", f"{one.seconds:.0f}"] for one in swept]
        title = f"{plain(self.teacher.name)} to {len(swept)} students"
        notes = [
            f"Each was trained for {minutes_in_words(60 * self.minutes)}, with the largest of its sizes that gets "
            f"enough steps in it; under {FEW} steps none is good. All have the same occupancy grid and the same "
            "answers of the teacher.",
            "PSNR: 1,000 pixels of up to 10 evaluation views. MB: weights on disk, without the optimiser's.",
        ]
        html = page(
            "sweep.html",
            title,
            f"{made_with(device)}. Teacher: {self.teacher}",
            figure=inline(sweep_figure(points, axis, own)),
            columns=COLUMNS,
            rows=rows,
            notes=notes,
            commands=[self._go_on(one) for one in swept],
        )
        figures = [_figures(one) for one in swept]
        for path, text in ((self.output, html), (self._json, json.dumps(figures, indent=2))):
            write_whole(path, lambda place, text=text: place.write_text(text, "utf8"))


def _quality(figures: Figures) -> float | None:
    """Against the photographs, where there are any."""
    return figures.psnr if figures.psnr is not None else figures.psnr_to_teacher


def _cells(figures: Figures, teacher_speed: float | None) -> list[str]:
    speed = figures.speed.per_second
    values = [
        (figures.psnr, ".2f"),
        (figures.psnr_to_teacher, ".2f"),
        (figures.megabytes, ",.2f"),
        (speed, ",.0f"),
        (speed / teacher_speed if speed and teacher_speed else None, ".1f"),
    ]
    return [figures.name, *("–" if value is None else f"{value:{form}}" for value, form in values), "–", "–"]


def _figures(one: Swept) -> dict[str, Any]:
    figures = one.figures
    return {
        "student": one.student,
        "config": str(one.config),
        "psnr": figures.psnr,
        "psnr_to_teacher": figures.psnr_to_teacher,
        "megabytes": figures.megabytes,
        "rays_per_second": figures.speed.per_second,
        "steps": one.steps,
        "seconds": one.seconds,
    }


def _line(one: Swept) -> str:
    quality, figures = _quality(one.figures), one.figures
    told = "" if quality is None else f"{quality:.2f} dB, "
    return f"{one.student}: {told}{figures.megabytes:,.2f} MB, {figures.speed.per_second or 0:,.0f} rays / s"
