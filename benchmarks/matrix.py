"""Every teacher into every student: quality, size, time and speed, measured with the stock commands.

    python -m benchmarks.matrix --teachers ../shared/teachers/lego-hash --students mlp hash --seconds 300

Each pair is `ns-train pvd-distill` and then `ns-eval`, in processes of their own, one after another. The learning rate
and the stages are shares of the run, so its steps are chosen beforehand: two short runs of the same pair tell how many
fit into the seconds (--steps sets them instead). "Seconds" are what the run itself reports, from loading the teacher to
the last step. Evaluation during training is switched off. STUDENT_OPTIONS below sets the sizes that differ from the
defaults (mlp is 4 x 128); --options mlp="--pipeline.model.mlp.num-layers 8" replaces them.

The files are rewritten after every pair. The same command with the same --output goes on where it stopped, finished
pairs are kept; further teachers and students can be added that way.
"""

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.teacher import DEVICE, teacher_psnr
from pvd_nerfstudio.teacher.checkpoint import find_run, weights_megabytes
from pvd_nerfstudio.teacher.frozen import FrozenTeacher

STUDENT_OPTIONS = {"mlp": "--pipeline.model.mlp.num-layers 4 --pipeline.model.mlp.hidden-dim 128"}
"""Options of students that are not measured at their default size."""
TRAINING = "--vis tensorboard --steps-per-eval-batch 0 --steps-per-eval-image 0 --steps-per-eval-all-images 0"
"""Options of every run."""
AIM = 0.9
"""Share of the seconds that the steps are chosen for."""
COLUMNS = "teacher,student,PSNR,SSIM,teacher's PSNR,gap (dB),parameters,MB,seconds,steps,rays / s".split(",")


class FailedError(Exception):
    """A pair that cannot be measured, and why."""


@dataclass
class Teacher:
    """A teacher and its own PSNR on the test images."""

    path: str
    name: str
    psnr: float | None = None
    samples: str = "own"
    """Whether it was rendered with its own samples or with the shared ones."""
    problem: str = "not measured"


@dataclass
class Row:
    """One pair."""

    teacher: str
    """Path of the teacher's run."""
    student: str
    options: str
    steps: int = 0
    problem: str = "not finished"
    """Empty: the pair is done."""
    psnr: float = 0.0
    ssim: float = 0.0
    parameters: int = 0
    megabytes: float = 0.0
    seconds: float = 0.0
    rays_per_second: float = 0.0


@dataclass
class Matrix:
    """Distil every teacher into every student, and measure."""

    teachers: tuple[Path, ...]
    """Runs of any supported family."""
    students: tuple[str, ...]
    """Names of students."""
    seconds: float = 300.0
    """Wall time of each distillation."""
    steps: int = 0
    """Steps of each distillation, in place of --seconds; no pilot then."""
    options: tuple[str, ...] = ()
    """STUDENT="OPTIONS" for `ns-train pvd-distill`, in place of STUDENT_OPTIONS; all="OPTIONS" go to every student."""
    output: Path = Path("benchmark-matrix")
    """Folder for matrix.md, matrix.json, the runs and what the commands said (logs)."""
    pixels: int = 2000
    """Pixels of each test view that the teacher renders."""
    pilot_steps: int = 96
    """Steps of the first pilot run; the second has three times as many."""
    _teachers: tyro.conf.Suppress[list[Teacher]] = field(default_factory=list)
    _rows: tyro.conf.Suppress[list[Row]] = field(default_factory=list)

    def run(self) -> None:
        """Measure what is missing, pair by pair."""
        self._resume()
        given = [str(run_path(path)) for path in self.teachers]
        known = {teacher.path: teacher for teacher in self._teachers}
        names = distinct_names([Path(path) for path in dict.fromkeys([*known, *given])])
        self._teachers = [known.get(path, Teacher(path, name)) for path, name in names.items()]
        chosen = [teacher for teacher in self._teachers if teacher.path in given]
        for teacher in chosen:
            teacher.name = names[teacher.path]
            if teacher.problem:
                measure_teacher(teacher, self.pixels)
            for student in dict.fromkeys(self.students):
                row = self._row(teacher, student)
                if row.problem:
                    self._measure(row, teacher.name)
                self._write()
        table = Table(*COLUMNS, title=f"{self.output / 'matrix.md'}")
        for cells in table_cells(self._teachers, self._rows):
            table.add_row(*cells)
        Console(width=None if sys.stdout.isatty() else 160).print(table)
        Console().print(*problems(self._teachers, self._rows), sep="\n", markup=False, soft_wrap=True)

    def _resume(self) -> None:
        path = self.output / "matrix.json"
        if not path.is_file():
            return
        saved = json.loads(path.read_text("utf8"))
        if saved["settings"] != self._settings:
            sys.exit(f"{path} has {saved['settings']}, this is {self._settings}; choose another folder with --output.")
        self._teachers = [Teacher(**teacher) for teacher in saved["teachers"]]
        self._rows = [Row(**row) for row in saved["rows"]]

    @property
    def _settings(self) -> dict[str, Any]:
        """What all rows of a table must share."""
        return {"steps": self.steps, "seconds": 0 if self.steps else self.seconds, "machine": machine()}

    def _row(self, teacher: Teacher, student: str) -> Row:
        """The row of a pair; a new one in place of an earlier one with other options."""
        new = Row(teacher.path, student, student_options(student, self.options))
        for index, row in enumerate(self._rows):
            if (row.teacher, row.student) == (new.teacher, new.student):
                if row.options != new.options:
                    self._rows[index] = new
                return self._rows[index]
        self._rows.append(new)
        return new

    def _measure(self, row: Row, name: str) -> None:
        Console().rule(f"{name} → {row.student}")
        try:
            if not row.steps or self.steps:
                row.steps = self.steps or self._pilot(row, name)
                self._write()
            folder, row.seconds = self._distil(row, name, row.student, row.steps)
            measured = folder / "eval.json"
            files = "--load-config", folder / "config.yml", "--output-path", measured
            self._child("ns-eval", f"{name}-{row.student}", *files)
            results = json.loads(measured.read_text("utf8"))["results"]
            row.psnr, row.ssim = results["psnr"], results["ssim"]
            row.rays_per_second = results["num_rays_per_sec"]
            row.parameters, row.megabytes = size_of(folder)
            row.problem = ""
        except Exception as error:  # whatever it is, the other pairs go on
            row.problem = str(error) if isinstance(error, FailedError) else f"{type(error).__name__}: {error}"
            Console().print(f"failed: {row.problem}", markup=False, soft_wrap=True)

    def _pilot(self, row: Row, name: str) -> int:
        """How many steps fit into the seconds."""
        totals = []
        for steps in (self.pilot_steps, 3 * self.pilot_steps):
            folder, total = self._distil(row, name, f"{row.student}-pilot", steps)
            shutil.rmtree(folder)
            totals.append(total)
        return steps_that_fit(AIM * self.seconds, self.pilot_steps, *totals)

    def _distil(self, row: Row, name: str, timestamp: str, steps: int) -> tuple[Path, float]:
        """Distil a pair; returns the run's folder and the seconds that it reports."""
        runs = self.output / "runs"
        folder = runs / name / "pvd-distill" / timestamp
        shutil.rmtree(folder, ignore_errors=True)
        what = "--teacher-checkpoint", row.teacher, "--student", row.student, "--max-num-iterations", steps
        place = "--output-dir", runs, "--experiment-name", name, "--timestamp", timestamp
        options = shlex.split(f"{TRAINING} {row.options}")
        said = self._child("ns-train", f"{name}-{timestamp}", "pvd-distill", *what, *place, *options)
        seconds = re.search(r"The teacher took \S+ s of (\S+) s", said)
        if seconds is None:
            raise FailedError("the run did not say how long it took")
        return folder, float(seconds[1])

    def _child(self, command: str, name: str, *arguments: Any) -> str:
        """Run one of nerfstudio's commands; returns what it said, which is kept in a log."""
        words = [str(Path(sys.executable).parent / command), *map(str, arguments)]
        log = self.output / "logs" / f"{name.replace('/', '_')}-{command}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        Console().print(f"[dim]{command}, see {log}")
        with log.open("w", encoding="utf8") as file:
            print(shlex.join(words), file=file, flush=True)
            wide = os.environ | {"COLUMNS": "300"}
            code = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, env=wide, check=False).returncode
        said = log.read_text("utf8", errors="replace").partition("\n")[2]
        if code:
            killed = f"killed by signal {-code}: " if code < 0 else ""
            raise FailedError(f"{command}: {killed}{reason(said)}")
        return said

    def _write(self) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        teachers, rows = map(asdict, self._teachers), map(asdict, self._rows)
        saved = {"settings": self._settings, "teachers": list(teachers), "rows": list(rows)}
        texts = {"matrix.json": json.dumps(saved, indent=2), "matrix.md": self._markdown()}
        for name, text in texts.items():
            new = self.output / f".{name}"
            new.write_text(text + "\n", "utf8")
            new.replace(self.output / name)

    def _markdown(self) -> str:
        command = shlex.join(["python", "-m", "benchmarks.matrix", *sys.argv[1:]])
        options = {row.student: row.options for row in self._rows if row.options}
        lines = ["```bash", command, "```", "", f"{time.strftime('%Y-%m-%d')}; {machine()}.", ""]
        lines += [f"- {student}: `{text}`" for student, text in options.items()]
        cells = table_cells(self._teachers, self._rows)
        lines += ["", *(f"| {' | '.join(line)} |" for line in [COLUMNS, ["---"] * len(COLUMNS), *cells]), ""]
        lines += [f"- {problem}" for problem in problems(self._teachers, self._rows)]
        return "\n".join(lines)


def run_path(path: Path) -> Path:
    """The path without what names no run of its own: a config.yml or nerfstudio_models at its end."""
    path = Path(os.path.abspath(path.expanduser()))
    return path.parent if path.name in ("config.yml", "nerfstudio_models") else path


def distinct_names(paths: list[Path]) -> dict[str, str]:
    """Experiment/method/timestamp of runs as nerfstudio names them, else their folder; longer where two are alike."""
    depths = dict.fromkeys(paths, 1)
    for path in paths:
        config = path / "config.yml"
        method = re.search(r"^method_name: (\S+)", config.read_text("utf8"), re.MULTILINE) if config.is_file() else None
        if method is not None and method[1] == path.parent.name:
            depths[path] = 3
    while True:
        names = {path: "/".join(path.parts[1:][-depth:]) for path, depth in depths.items()}
        alike = [path for path in paths if list(names.values()).count(names[path]) > 1]
        if not alike:
            return {str(path): name for path, name in names.items()}
        for path in alike:
            depths[path] += 1


def student_options(student: str, given: tuple[str, ...]) -> str:
    """What `ns-train` gets for a student."""
    named = dict(option.split("=", 1) for option in given)
    return f"{named.get('all', '')} {named.get(student, STUDENT_OPTIONS.get(student, ''))}".strip()


def steps_that_fit(seconds: float, steps: int, short: float, long: float) -> int:
    """How many steps fit into the seconds, as two pilot runs tell.

    Stages and growth are shares of a run, so the difference of the two is steps alone; what happens once (loading, the
    first parts of the bank, the growth of the student) is in both.

    Args:
        seconds: what there is.
        steps: of the first pilot; the second had three times as many.
        short: seconds of the first pilot.
        long: seconds of the second.
    """
    per_step = max(long - short, 1e-3 * steps) / (2 * steps)
    start = max(0.0, short - steps * per_step)
    if seconds < start + per_step:
        raise FailedError(f"{seconds:.0f} s are not enough: {start:.0f} s go by before the first step")
    return int((seconds - start) / per_step)


def reason(said: str) -> str:
    """The line of a command's output that says why it failed."""
    lines = [line.strip(" │╭╮╰╯─\r") for line in said.splitlines()]
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt)\b", line)]
    boxes = [number for number, line in enumerate(said.splitlines()) if line.startswith("╭─ ")]
    if errors:
        places = re.findall(r'File "[^"]*?([^/"]+)", line (\d+)', said)
        return errors[-1] + (f" ({places[-1][0]}:{places[-1][1]})" if places else "")
    if boxes:
        return lines[boxes[-1] + 1]
    last = [line for line in lines if line][-1:]
    before = lines[: lines.index(last[0])] if last else []
    while before and len(before[-1]) > 90:  # a sentence that nerfstudio's console wrapped  # noqa: PLR2004
        last.insert(0, before.pop())
    return " ".join(last) or "it said nothing"


def size_of(folder: Path) -> tuple[int, float]:
    """Parameters of a run, and MB of its weights on disk without the optimiser's state."""
    run = find_run(folder)
    return FrozenTeacher(run, DEVICE).num_parameters, weights_megabytes(run)


def measure_teacher(teacher: Teacher, pixels: int) -> None:
    """PSNR of a teacher on its test images; where there is none, the reason."""
    try:
        own, through = teacher_psnr(Path(teacher.path), pixels, shared=False)
        teacher.psnr, teacher.samples = (through, "shared") if own is None else (own, "own")
        teacher.problem = ""
    except Exception as error:  # any family, any data: the pairs are worth trying all the same
        teacher.problem = f"{type(error).__name__}: {error}"


def table_cells(teachers: list[Teacher], rows: list[Row]) -> list[list[str]]:
    """The table's text."""
    known, lines = {teacher.path: teacher for teacher in teachers}, []
    for row in rows:
        teacher = known[row.teacher]
        own = "-" if teacher.psnr is None else f"{teacher.psnr:.2f}{'*' * (teacher.samples == 'shared')}"
        if row.problem:
            lines.append([teacher.name, row.student, "failed", "-", own, *"-" * 6])
            continue
        gap = "-" if teacher.psnr is None else f"{row.psnr - teacher.psnr:+.2f}"
        quality = f"{row.psnr:.2f}", f"{row.ssim:.3f}", own, gap
        cost = f"{row.parameters:,}", f"{row.megabytes:.1f}", f"{row.seconds:.0f}", f"{row.steps:,}"
        lines.append([teacher.name, row.student, *quality, *cost, f"{row.rays_per_second:,.0f}"])
    return lines


def problems(teachers: list[Teacher], rows: list[Row]) -> list[str]:
    """What did not work and why, a line each."""
    names = {teacher.path: teacher.name for teacher in teachers}
    lines = [f"{one.name}, the teacher itself: {' '.join(one.problem.split())}" for one in teachers if one.problem]
    lines += [f"{names[row.teacher]} → {row.student} failed: {row.problem}" for row in rows if row.problem]
    if any(teacher.samples == "shared" for teacher in teachers):
        lines.append("* through the students' samples: the teacher cannot render with its own on this machine")
    return lines


def machine() -> str:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.+)", info.read_text("utf8")) if info.is_file() else None
    gpu = torch.cuda.get_device_name() if DEVICE == "cuda" else "no GPU"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "nerfstudio"))
    cores = f"{len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads"
    cpu = model[1] if model else platform.machine()
    return f"{cpu}, {cores}, {gpu}; Python {platform.python_version()}, {versions}"


if __name__ == "__main__":
    tyro.cli(Matrix).run()
