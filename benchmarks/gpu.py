"""A GPU put to use: a teacher at full size becomes several students by the clock, and the table for the docs.

    benchmarks/gpu.sh ../shared/teachers/lego-hash ../shared/data/lego_800

runs the tests that need a GPU first. Two pilots find out how many steps fit; the clock stands still while test views
are rendered.
"""

import datetime
import gc
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console

from benchmarks.arm import Arm
from benchmarks.defaults import commit
from benchmarks.matrix import machine, steps_that_fit
from benchmarks.teacher import DEVICE, teacher_psnr

PILOT = 60
"""Steps of the first pilot; the second has three times as many."""
SIZES = {"mlp": "--pipeline.model.mlp.num-layers 8 --pipeline.model.mlp.hidden-dim 256"}
"""Sizes where they are not the defaults."""
COLUMNS = ("student", "seconds", "steps", "steps a second", "rays a step", "PSNR", "PSNR to the teacher", "memory, GB")


@dataclass
class GPU:
    """Convert a teacher into several students."""

    teacher: Path
    """The teacher's run."""
    output: Path
    """The file for the table, Markdown; figures go to a file beside it, JSON."""
    data: Path | None = None
    """Its data set at full size; left out: the teacher's own."""
    students: tuple[str, ...] = ("mlp", "vm", "sparse", "splat")
    """Architectures."""
    seconds: float = 50.0
    """Of each conversion, its start included."""
    pixels: int = 4000
    """Pixels of each test view."""
    options: str = ""
    """Further options for `ns-train` of every student."""

    def run(self) -> None:
        """Convert, measure, write after each student."""
        rows: list[dict[str, Any]] = []
        for student in self.students:
            Console().rule(student)
            rows.append({"student": student} | self._convert(student))
            self.output.with_suffix(".json").write_text(json.dumps(rows, indent=2), "utf8")
            self.output.write_text(self._table(rows), "utf8")
        Console().print(self.output.read_text("utf8"), markup=False, soft_wrap=True)

    def _convert(self, student: str) -> dict[str, Any]:
        file = self.output.with_name(f"{self.output.stem}-{student}.json")
        options = f"{SIZES.get(student, '')} {self.options} {'' if self.data is None else f'--data {self.data}'}"

        def arm(steps: int, more: str = "", times: tuple[float, ...] = ()) -> dict[str, Any]:
            gc.collect()
            if DEVICE == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            words = f"{options} {more}".strip()
            parts = (self.teacher, file, student, words, steps, self.seconds, times)
            Arm("none", *parts, pixels=self.pixels, fit_step=not more).run()
            return json.loads(file.read_text("utf8"))

        pilots = [arm(PILOT), arm(3 * PILOT)]
        # The second pilot may have chosen otherwise; the run has what the first one took on.
        rays, points = pilots[0]["rays_per_step"], pilots[0]["points_per_step"]
        chosen = f"--pipeline.distillation.rays-per-step {rays} --pipeline.distillation.points-per-step {points}"
        ends = [pilot["curve"][-1]["seconds"] for pilot in pilots]
        result = arm(steps_that_fit(self.seconds, PILOT, *ends), chosen, (0.0, self.seconds / 2))
        memory = torch.cuda.max_memory_allocated() / 1e9 if DEVICE == "cuda" else 0.0
        return result | {"memory": memory}

    def _table(self, rows: list[dict[str, Any]]) -> str:
        lines = [
            f"{datetime.date.today()}, {machine()}; commit {commit()}; teacher "
            f"{self.teacher.resolve().name}, {self._teacher:.2f} dB on its own test views.",
            "",
            f"| {' | '.join(COLUMNS)} |",
            "|" + "---|" * len(COLUMNS),
        ]
        for row in rows:
            first, last = row["curve"][0], row["curve"][-1]
            rate = last["steps"] / max(last["seconds"] - first["seconds"], 1e-3)
            cells = [
                *(row["student"], f"{last['seconds']:.0f}", f"{last['steps']:,}", f"{rate:.1f}"),
                *(f"{row['rays_per_step']:,}", f"{last['psnr']:.2f}", f"{row['fidelity']['mean']:.2f}"),
                f"{row['memory']:.1f}" if row["memory"] else "-",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join([*lines, ""])

    @cached_property
    def _teacher(self) -> float:
        own, through = teacher_psnr(self.teacher, self.pixels, shared=False)
        psnr = through if own is None else own
        return float("nan") if psnr is None else psnr


if __name__ == "__main__":
    tyro.cli(GPU).run()
