"""`pvd-report`: what a conversion came to, as one HTML file and the same figures as JSON."""

import base64
import json
import shlex
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import tyro
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pvd_nerfstudio.commands.report.curves import read_curves, stage_starts
from pvd_nerfstudio.commands.report.figures import comparison_figure, curves_figure, save_film
from pvd_nerfstudio.commands.report.film import frames
from pvd_nerfstudio.commands.report.measure import Measured, measure
from pvd_nerfstudio.commands.report.page import inline, page
from pvd_nerfstudio.data.reviewed import review
from pvd_nerfstudio.errors import InputError, run_command
from pvd_nerfstudio.input.bounded import most_numbers
from pvd_nerfstudio.input.ranges import COUNT, at_least, check_ranges
from pvd_nerfstudio.input.text import is_file, plain, say
from pvd_nerfstudio.input.whole import make_room
from pvd_nerfstudio.pipeline.student import StudentPipeline
from pvd_nerfstudio.teacher.checkpoint import TeacherRun, find_run, load_state, weights_megabytes
from pvd_nerfstudio.trainer_config import PVDTrainerConfig

PAIRS = {"student": "", "teacher": "teacher's ", "between": "to the teacher: "}


@dataclass
class Report:
    """Judge a conversion: tables, images and curves in one file that opens from disk."""

    ranges = {"views": at_least(0), "frames": COUNT}

    load_config: Path
    """The student's config.yml."""
    teacher: Path | None = None
    """The teacher's run; left out: where it was in training."""
    output: Path = Path("report.html")
    """The page; the figures are written beside it, as .json."""
    overwrite: bool = False
    """Replace a report that is there already."""
    views: int = 20
    """Evaluation views that are looked at, evenly spread; 0: all."""
    video: bool = False
    """Whether a film is made too, beside the page and in it: a wiper between teacher and student."""
    frames: int = 60
    """Pictures of the film, 15 a second."""

    def run(self) -> None:
        """Measure and write."""
        check_ranges(self)
        self._refuse_to_overwrite()
        run, config = find_conversion(self.load_config)
        megabytes = weights_megabytes(run)
        pipeline = load_student(run)
        notes = self._load_teacher(pipeline)
        if self.video and pipeline.comparison is None:
            raise InputError("--video shows teacher and student, and there is no teacher. " + " ".join(notes))
        measured = self._measure(pipeline)
        report = make_report(pipeline, measured, run, megabytes, notes, self._commands(config))
        report["curves"] = read_curves(run.config_path.parent)
        ranked = measured.ranked
        chosen = {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}
        names = [f"{name}: view {measured.views[number]}" for name, number in chosen.items()]
        figures = {"views": comparison_figure([measured.compared[number] for number in chosen.values()], names)}
        if report["curves"]:
            has_stages = pipeline.comparison is None or pipeline.comparison.teacher.has_density
            stages = stage_starts(config.pipeline.distillation, config.pipeline.steps) if has_stages else {}
            figures["curves"] = curves_figure(report["curves"], stages)
        film = self._film(pipeline) if self.video else None
        images = {name: inline(figure) for name, figure in figures.items()}
        told = {**report, **tables(report)}
        self.output.write_text(
            page("page.html", report["title"], report["made"], report=told, figures=images, film=film), "utf8"
        )
        self._json.write_text(json.dumps(report, indent=2), "utf8")
        say(f"{self.output} and {self._json}")

    @property
    def _json(self) -> Path:
        return self.output.with_suffix(".json")

    @property
    def _mp4(self) -> Path:
        return self.output.with_suffix(".mp4")

    def _film(self, pipeline: StudentPipeline) -> str:
        """Make the film; returns it as an address that holds it."""
        pictures = []
        with Progress(*_columns(), console=CONSOLE) as progress:
            for picture in progress.track(frames(pipeline, self.frames), self.frames, description="Film"):
                pictures.append(picture)
        save_film(pictures, self._mp4)
        say(f"{self._mp4}")
        return "data:video/mp4;base64," + base64.b64encode(self._mp4.read_bytes()).decode("ascii")

    def _refuse_to_overwrite(self) -> None:
        """Also whatever else could go wrong with the options, before any work.

        Raises:
            InputError: says what.
        """
        if self.output.suffix.lower() not in (".html", ".htm"):
            raise InputError(f"--output {self.output} should end with .html; the figures go beside it, as .json.")
        if self.views < 0:
            raise InputError(f"--views {self.views} is below 0; 0 takes all.")
        make_room((self.output, self._json, *([self._mp4] if self.video else [])), self.overwrite, "--output")

    def _load_teacher(self, pipeline: StudentPipeline) -> list[str]:
        """The teacher that was named; or else the one of the training, if it is still there.

        Returns:
            What the reader should know about it.

        Raises:
            InputError: the one that was named cannot be loaded or shows another scene; or there is neither a teacher
                nor an image on disk.
        """
        place = self.teacher or pipeline.config.teacher
        try:
            if place is None or (self.teacher is None and not is_file(place)):
                raise InputError(f"{place} is not there" if place else "the run names none")
            pipeline.load_teacher(place)
        except InputError as error:
            if self.teacher is not None:
                raise
            if not pipeline.datamanager.has_eval_images:
                raise InputError(
                    "There is nothing to compare the student with: its data set's images are gone, or show nothing of "
                    f"the edited scene, and its teacher is not there ({error}). Name a teacher with --teacher."
                ) from error
            return [f"Without the teacher: {error}."]
        return []

    def _measure(self, pipeline: StudentPipeline) -> Measured:
        measured = Measured()
        with Progress(*_columns(), console=CONSOLE) as progress:
            task = progress.add_task("Rendering", total=1.0)
            for share, measured in measure(pipeline, self.views):
                progress.update(task, completed=share)
        return measured

    def _commands(self, config: PVDTrainerConfig) -> list[str]:
        run = shlex.quote(str(self.load_config))
        return [
            config.command or "# the command of the training was not recorded",
            f"ns-eval --load-config {run} --output-path eval.json",
            f"ns-viewer --load-config {run}",
            shlex.join(["pvd-report", *sys.argv[1:]]),
        ]


def _columns() -> tuple[ProgressColumn, ...]:
    return TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()


def find_conversion(path: Path) -> tuple[TeacherRun, PVDTrainerConfig]:
    """A finished run of ours, and its configuration.

    Raises:
        InputError: it is none.
    """
    run = find_run(path)
    if not isinstance(run.config, PVDTrainerConfig):
        raise InputError(
            f"{run.config_path} is a run of '{run.config.method_name}', not of pvd-distill: nothing was converted."
        )
    check_ranges(run.config, where=str(run.config_path))
    review(run.config.pipeline.datamanager.dataparser)
    return run, run.config


def load_student(run: TeacherRun) -> StudentPipeline:
    """The pipeline of a finished run, wherever it lies now.

    Raises:
        InputError: it cannot be read.
    """
    state = load_state(run)
    model: Any = run.config.pipeline.model
    model.build_within(most_numbers(state))
    pipeline = run.config.pipeline.setup(device="cuda" if torch.cuda.is_available() else "cpu", test_mode="test")
    assert isinstance(pipeline, StudentPipeline)
    try:
        pipeline.load_pipeline({f"_model.{name}": value for name, value in state.items()}, run.step)
    except Exception as error:  # whatever a module makes of values that are not its own
        raise InputError(f"{run.checkpoint_path} does not fit {run.config_path}: {plain(error)}") from error
    pipeline.eval()
    return pipeline


def make_report(
    pipeline: StudentPipeline,
    measured: Measured,
    run: TeacherRun,
    megabytes: float,
    notes: list[str],
    commands: list[str],
) -> dict[str, Any]:
    """What report.json holds.

    Args:
        pipeline: the student, with its teacher where there is one.
        measured: what was seen.
        run: the student's run on disk.
        megabytes: of its weights.
        notes: what the reader should know.
        commands: to do it all again.
    """
    student, comparison = pipeline.student, pipeline.comparison
    students = {
        "name": f"student: {student.config.student}",
        "images": measured.mean("student"),
        "teacher": measured.mean("between"),
        "parameters": sum(parameter.numel() for parameter in student.parameters()),
        "megabytes": megabytes,
        "rays_per_second": measured.student_speed.per_second,
    }
    models, title = [students], f"{student.config.student}, step {run.step:,}"
    if comparison is not None:
        teacher = comparison.teacher
        models.insert(
            0,
            {
                "name": f"teacher: {teacher.run.config.method_name}",
                "images": measured.mean("teacher"),
                "teacher": {},
                "parameters": teacher.num_parameters,
                "megabytes": weights_megabytes(teacher.run),
                "rays_per_second": measured.teacher_speed.per_second,
            },
        )
        title = f"{teacher.run.config.method_name} to {title}"
    return {
        "title": title,
        "made": f"{made_with(student.device)}. Run: {_from_here(run.config_path.parent)}",
        "models": models,
        "notes": [*notes, *_notes(pipeline, measured)],
        "views": [{"view": view, **metrics} for view, metrics in zip(measured.views, measured.metrics)],
        "config": run.config_path.read_text("utf8"),
        "commands": commands,
    }


def _from_here(path: Path) -> Path:
    """A path as it is typed here, where it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def made_with(device: torch.device) -> str:
    """When, on what and with which versions something is measured."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    versions = ", ".join(f"{package} {version(package)}" for package in ("pvd-nerfstudio", "nerfstudio", "torch"))
    return f"{time.strftime('%Y-%m-%d %H:%M')}, {name}; {versions}"


def _notes(pipeline: StudentPipeline, measured: Measured) -> list[str]:
    """How the figures came about."""
    comparison, student, between = pipeline.comparison, measured.mean("student"), measured.mean("between")
    notes = []
    if comparison is not None and not comparison.teacher.shows_views:
        notes.append("The teacher's renderings are made through the student's samples, its rays / s with its own.")
    if not student:
        why = "do not show the edited scene" if pipeline.datamanager.are_edited else "are missing"
        notes.append(f"The data set's images {why}: everything is measured against the teacher.")
    if pipeline.datamanager.stands_in:
        notes.append("The data set cannot be read from here: pseudo views stand in for its cameras.")
    if "lpips" not in {**student, **between}:
        notes.append("LPIPS is missing: its AlexNet is not in torch's cache, and is not downloaded here.")
    return [*notes, f"Means over {len(measured.views)} evaluation views. MB: weights on disk, without the optimiser's."]


def tables(report: dict[str, Any]) -> dict[str, Any]:
    """The same as text, for the page."""
    rows = []
    for model in report["models"]:
        cells = {name.upper(): value for name, value in model["images"].items()}
        cells |= {f"{name.upper()} to teacher": value for name, value in model["teacher"].items()}
        cells |= {"parameters": model["parameters"], "MB": model["megabytes"], "rays / s": model["rays_per_second"]}
        rows.append({"name": model["name"], "values": cells})
    columns = list(dict.fromkeys(name for row in rows for name in row["values"]))
    columns.sort(key=lambda name: name in ("parameters", "MB", "rays / s"))
    for row in rows:
        values = row.pop("values")
        row["cells"] = [_text(name, values.get(name)) for name in columns]
    flat = [
        {f"{PAIRS[pair]}{name.upper()}": value for pair in PAIRS for name, value in view.get(pair, {}).items()}
        for view in report["views"]
    ]
    view_columns = list(dict.fromkeys(name for values in flat for name in values))
    views = [
        {"name": view["view"], "cells": [_text(name, values.get(name)) for name in view_columns]}
        for view, values in zip(report["views"], flat)
    ]
    return {"columns": columns, "rows": rows, "view_columns": view_columns, "views": views}


def _text(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    digits = {"parameters": 0, "rays / s": 0, "MB": 2}.get(name, 2 if "PSNR" in name else 3)
    return f"{value:,.{digits}f}"


def main() -> None:
    """Entry point of `pvd-report`."""
    run_command(lambda: tyro.cli(Report).run())


if __name__ == "__main__":
    main()
