"""`pvd-report`: what a conversion came to, as one HTML file and the same figures as JSON."""

import json
import shlex
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import tyro
from nerfstudio.utils.eval_utils import eval_setup
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pvd_nerfstudio.compared import ComparedPipeline
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.report.curves import read_curves, stage_starts
from pvd_nerfstudio.report.measure import Measured, measure
from pvd_nerfstudio.report.page import page
from pvd_nerfstudio.report.pictures import comparison_figure, curves_figure
from pvd_nerfstudio.teacher.checkpoint import TeacherRun, find_run, load_state
from pvd_nerfstudio.teacher.safe_yaml import load_config
from pvd_nerfstudio.trainer import PVDTrainerConfig, stop

PAIRS = {"student": "", "teacher": "teacher's ", "between": "to the teacher: "}


@dataclass
class Report:
    """Judge a conversion: tables, pictures and curves in one file that opens from disk."""

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

    def run(self) -> None:
        """Measure and write."""
        try:
            self._refuse_to_overwrite()
            config = load_config(self.load_config)
            if not isinstance(config, PVDTrainerConfig):
                raise InputError(
                    f"{self.load_config} is a run of '{config.method_name}', not of pvd-distill: nothing was converted."
                )
            with redirect_stdout(StringIO()):
                _, pipeline, checkpoint, step = eval_setup(self.load_config)
            assert isinstance(pipeline, ComparedPipeline)
            self._load_teacher(pipeline)
            measured = self._measure(pipeline)
        except InputError as error:
            stop(error)
        run = find_run(checkpoint)
        report = make_report(pipeline, measured, run, step, self._commands(config))
        folder = self.load_config.resolve().parent
        method = config.pipeline.distillation
        ranked = measured.ranked
        chosen = dict(zip(("best", "median", "worst"), (ranked[0], ranked[len(ranked) // 2], ranked[-1])))
        figures = {
            "views": comparison_figure(
                [measured.compared[number] for number in chosen.values()],
                [f"{name}: view {measured.views[number]}" for name, number in chosen.items()],
            )
        }
        curves = read_curves(folder)
        if curves:
            figures["curves"] = curves_figure(curves, stage_starts(method, config.pipeline.steps))
        report["curves"] = curves
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.output.write_text(page({**report, **tables(report)}, figures), "utf8")
        self._json.write_text(json.dumps(report, indent=2), "utf8")
        CONSOLE.print(f"{self.output} and {self._json}", soft_wrap=True)

    @property
    def _json(self) -> Path:
        return self.output.with_suffix(".json")

    def _refuse_to_overwrite(self) -> None:
        for path in (self.output, self._json):
            if path.exists() and not self.overwrite:
                raise InputError(f"{path} exists already; replace it with --overwrite, or choose another --output.")

    def _load_teacher(self, pipeline: ComparedPipeline) -> None:
        """The teacher that was named; or else the one of the training, if it is still there.

        Raises:
            InputError: it cannot be loaded or shows another scene; or there is neither a teacher nor a photograph.
        """
        place = self.teacher or pipeline.config.teacher
        if place is not None and (self.teacher is not None or place.exists()):
            pipeline.load_teacher(place)
        elif not pipeline.datamanager.eval_dataset.has_photographs:
            raise InputError(
                f"There is nothing to compare the student with: the teacher {place} and the photographs are gone. "
                "Name a teacher with --teacher."
            )

    def _measure(self, pipeline: ComparedPipeline) -> Measured:
        columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        measured = Measured()
        with Progress(*columns, console=CONSOLE) as progress:
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


def make_report(
    pipeline: ComparedPipeline, measured: Measured, run: TeacherRun, step: int, commands: list[str]
) -> dict[str, Any]:
    """What report.json holds.

    Args:
        pipeline: the student, with its teacher where there is one.
        measured: what was seen.
        run: the student's run on disk.
        step: of its last checkpoint.
        commands: to do it all again.
    """
    student, comparison = pipeline.student, pipeline.comparison
    means = {pair: measured.mean(pair) for pair in PAIRS}
    students = {
        "name": f"student: {student.config.student}",
        "photographs": means["student"],
        "teacher": means["between"],
        "parameters": sum(parameter.numel() for parameter in student.parameters()),
        "megabytes": _megabytes(run),
        "rays_per_second": measured.student_speed.per_second,
    }
    models, notes = [students], []
    title = f"{student.config.student}, step {step:,}"
    if comparison is not None:
        teacher = comparison.teacher
        own = measured.teacher_own_speed.per_second
        models.insert(
            0,
            {
                "name": f"teacher: {teacher.run.config.method_name}",
                "photographs": means["teacher"],
                "teacher": {},
                "parameters": teacher.num_parameters,
                "megabytes": _megabytes(teacher.run),
                "rays_per_second": measured.teacher_speed.per_second if own is None else own,
            },
        )
        title = f"{teacher.run.config.method_name} to {title}"
        if teacher.has_density:
            shared = measured.teacher_speed.per_second
            notes.append(
                "The teacher's pictures are made through the student's samples"
                + ("" if own is None else f" ({shared:,.0f} rays / s); its rays / s are with its own samples")
                + "."
            )
    if not means["student"]:
        notes.append("There are no photographs: everything is measured against the teacher.")
    if "lpips" not in {**means["student"], **means["between"]}:
        notes.append("LPIPS is missing: its AlexNet is not in torch's cache, and is not downloaded here.")
    notes.append(f"Means over {len(measured.views)} evaluation views. MB: weights on disk, without the optimiser's.")
    views = [{"view": view, **metrics} for view, metrics in zip(measured.views, measured.metrics)]
    device = torch.cuda.get_device_name() if pipeline.device.type == "cuda" else "CPU"  # type: ignore[union-attr]
    versions = ", ".join(f"{name} {version(name)}" for name in ("pvd-nerfstudio", "nerfstudio", "torch"))
    return {
        "title": title,
        "made": f"{time.strftime('%Y-%m-%d %H:%M')}, {device}; {versions}. Run: {run.config_path.parent}",
        "models": models,
        "notes": notes,
        "views": views,
        "config": run.config_path.read_text("utf8"),
        "commands": commands,
    }


def _megabytes(run: TeacherRun) -> float:
    return sum(value.nbytes for value in load_state(run).values()) / 1e6


def tables(report: dict[str, Any]) -> dict[str, Any]:
    """The same as text, for the page: columns without any value are left out."""
    rows = []
    for model in report["models"]:
        cells = {f"{name.upper()}": value for name, value in model["photographs"].items()}
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
    tyro.cli(Report).run()


if __name__ == "__main__":
    main()
