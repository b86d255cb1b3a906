"""How long until a student is good? Distillation against the same student on images, and its own parts.

    python -m benchmarks.time_to_quality --teacher ../shared/teachers/lego-hash --student mlp --seconds 300

The arms: `scratch`, the same student with the same occupancy samples, on images, learned by AdamW alone;
`scratch-muon`, the same with our optimiser; `pvd`, the papers' losses, schedule and optimiser with the teacher queried
in every step; `none`, ours without active learning; `adamw`, that with AdamW alone; `poses`, `rays`, `points`, ours
with one level; `all`, ours with the three; `images`, `none` with the images' pixels where there are any.
They run one after another, each in a process of its own, with the same seeds. Everything counts but the import of
nerfstudio: loading, grid, bank, teacher. The evaluation does not: the clock stands still while the test views are
rendered.

Learning rate and stages are shares of the run, so the steps of each arm are chosen beforehand by two short runs; an arm
that the clock ends long before its schedule is run once more with fewer. The levels of active learning have the steps
of `none`, and what they cost ends them sooner. The same command with the same --output keeps what is finished.
"""

import json
import shlex
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from benchmarks.arm import LEVELED, Name
from benchmarks.defaults import made_with
from benchmarks.matrix import FailedError, machine, reason, steps_that_fit, student_options

ARMS: tuple[Name, ...] = ("scratch", "scratch-muon", "pvd", "adamw", "none", "poses", "rays", "points", "all", "images")
AIM = 0.95
"""Share of the seconds that the steps are chosen for."""
CUT = 0.93
"""Share of its steps that a run must have done when the seconds are over; else it is run again with fewer."""
PILOT_STEPS = 96
COLUMNS = (
    "arm,PSNR,worst tenth of the views,seconds,steps,seconds to the PSNR of scratch,ratio,PSNR to the teacher,"
    "its worst tenth,99th percentile of the error,teacher's share,step / bare step"
).split(",")


@dataclass
class TimeToQuality:
    """Measure PSNR over time, arm by arm."""

    teacher: Path
    """The teacher's run."""
    student: str = "mlp"
    """Architecture of the student."""
    seconds: float = 300.0
    """Wall time of each arm."""
    arms: tuple[Name, ...] = ARMS
    """Which arms."""
    seeds: int = 1
    """Runs of each arm, with the seeds 0, 1, …; the table shows their means and spread."""
    options: tuple[str, ...] = ()
    """STUDENT="OPTIONS" for `ns-train pvd-distill`, as benchmarks.matrix has them; all="OPTIONS" go to every arm."""
    evaluations: int = 10
    """Moments at which each arm is evaluated, evenly spread, beside its end."""
    pixels: int = 2000
    """Pixels of each test view."""
    output: Path = Path("benchmark-time")
    """Folder for the results: time.md, time.json, time.png, and what the arms said."""

    def run(self) -> None:
        """Run what is missing; write table and plot after each arm."""
        self.output.mkdir(parents=True, exist_ok=True)
        self._refuse_to_mix()
        self._write()
        for arm in self.arms:
            for seed in range(self.seeds):
                self._run_arm(arm, seed)
                self._write()
        Console().print((self.output / "time.md").read_text("utf8"), markup=False, soft_wrap=True)

    def _refuse_to_mix(self) -> None:
        """All arms of a folder have the same teacher, student, seconds, sizes and machine."""
        settings = {
            "teacher": str(self.teacher.absolute()),
            "student": f"{self.student} {student_options(self.student, self.options)}",
            "seconds": self.seconds,
            "pixels": self.pixels,
            "machine": machine(),
        }
        path = self.output / "settings.json"
        if path.is_file() and json.loads(path.read_text("utf8")) != settings:
            sys.exit(f"{path} says that its arms were run otherwise; choose another folder with --output.")
        path.write_text(json.dumps(settings, indent=2), "utf8")

    def _run_arm(self, arm: Name, seed: int) -> None:
        if self._file(arm, seed).is_file():
            return
        Console().rule(f"{arm}, seed {seed}")
        try:
            self._start(arm, seed, self._steps(arm), self._file(arm, seed))
            if arm not in LEVELED and self._was_cut(arm, seed):
                self._start(arm, seed, self._steps(arm), self._file(arm, seed))
        except FailedError as error:
            Console().print(f"failed: {error}", markup=False, soft_wrap=True)

    def _steps(self, arm: str) -> int:
        """How many steps of an arm fit into the seconds."""
        arm = "none" if arm in LEVELED else arm
        path = self.output / f"{arm}-steps.json"
        if not path.is_file():
            ends = []
            for steps in (PILOT_STEPS, 3 * PILOT_STEPS):
                file = self.output / f"{arm}-pilot.json"
                self._start(arm, 0, steps, file, evaluate=False)
                curve = json.loads(file.read_text("utf8"))["curve"]
                if curve[-1]["steps"] < steps:  # too slow even for this: as far as it came
                    ends = [curve[-1]["seconds"] * PILOT_STEPS * k / max(1, curve[-1]["steps"]) for k in (1, 3)]
                    break
                ends.append(curve[-1]["seconds"])
            path.write_text(str(steps_that_fit(AIM * self.seconds, PILOT_STEPS, *ends)), "utf8")
        return int(path.read_text("utf8"))

    def _was_cut(self, arm: str, seed: int) -> bool:
        """Whether the clock ended a run long before its schedule did; then fewer steps are chosen for the next."""
        done = json.loads(self._file(arm, seed).read_text("utf8"))["curve"][-1]["steps"]
        if done >= CUT * self._steps(arm):
            return False
        (self.output / f"{arm}-steps.json").write_text(str(int(AIM * done)), "utf8")
        return True

    def _start(self, arm: str, seed: int, steps: int, file: Path, evaluate: bool = True) -> None:
        moments = [self.seconds * (k + 1) / (self.evaluations + 1) for k in range(self.evaluations)] if evaluate else []
        words = [sys.executable, "-m", "benchmarks.arm", "--name", arm, "--teacher", str(self.teacher)]
        words += ["--student", self.student, f"--options={student_options(self.student, self.options)}"]
        words += ["--steps", str(steps), "--seconds", str(self.seconds), "--pixels", str(self.pixels)]
        words += ["--seed", str(seed), "--output", str(file), *(["--times", *map(str, moments)] if moments else [])]
        start_arm(words, self.output / f"{arm}-{seed}.log")

    def _file(self, arm: str, seed: int) -> Path:
        return self.output / f"{arm}-{seed}.json"

    def _write(self) -> None:
        files = [self._file(arm, seed) for arm in self.arms for seed in range(self.seeds)]
        results = [json.loads(file.read_text("utf8")) for file in files if file.is_file()]
        command = shlex.join(["python", "-m", "benchmarks.time_to_quality", *sys.argv[1:]])
        made = f"{time.strftime('%Y-%m-%d')}; {machine()}; {made_with(self.student)}."
        head = ["```bash", command, "```", "", made, ""]
        table = [COLUMNS, ["---"] * len(COLUMNS), *table_cells(results)]
        lines = [*head, *(f"| {' | '.join(line)} |" for line in table)]
        (self.output / "time.md").write_text("\n".join(lines) + "\n", "utf8")
        (self.output / "time.json").write_text(json.dumps(results, indent=2), "utf8")
        plot(results, self.output / "time.png", f"{self.teacher.name} to {self.student}")


def start_arm(words: list[str], log: Path) -> None:
    """Run an arm; what it says goes to a log.

    Raises:
        FailedError: with the line that says why.
    """
    Console().print(f"[dim]{log}")
    with log.open("w", encoding="utf8") as file:
        code = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        raise FailedError(reason(log.read_text("utf8", errors="replace")))


def seconds_until(curve: list[dict[str, float]], psnr: float) -> float | None:
    """When a curve first reaches a PSNR, between the moments at which it was measured; None if it does not."""
    before: dict[str, float] | None = None
    for moment in curve:
        if moment["psnr"] >= psnr:
            if before is None:
                return moment["seconds"]
            share = (psnr - before["psnr"]) / (moment["psnr"] - before["psnr"])
            return before["seconds"] + share * (moment["seconds"] - before["seconds"])
        before = moment
    return None


def table_cells(results: list[dict[str, Any]]) -> list[list[str]]:
    """The table's text: means over the seeds, and their spread where there are several."""
    arms: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        arms.setdefault(result["arm"], []).append(result)
    goal = statistics.mean(one["curve"][-1]["psnr"] for one in arms["scratch"]) if "scratch" in arms else None
    own = statistics.mean(one["curve"][-1]["seconds"] for one in arms["scratch"]) if "scratch" in arms else 1.0
    lines = []
    for arm, runs in arms.items():
        ends = [one["curve"][-1] for one in runs]
        reached = [None if goal is None else seconds_until(one["curve"], goal) for one in runs]
        times = [value for value in reached if value is not None]
        until = statistics.mean(times) if len(times) == len(runs) else None
        lines.append(
            [
                arm,
                spread([end["psnr"] for end in ends]),
                spread([end["worst"] for end in ends]),
                f"{statistics.mean(end['seconds'] for end in ends):.0f}",
                f"{statistics.mean(end['steps'] for end in ends):,.0f}",
                "-" if until is None else f"{until:.0f}",
                "-" if until is None else f"1/{own / until:.1f}",
                *(
                    spread([one["fidelity"][name] for one in runs], form) if "fidelity" in runs[0] else "-"
                    for name, form in (("mean", ".2f"), ("worst", ".2f"), ("p99", ".3f"))
                ),
                *(
                    f"{statistics.mean(one[name] for one in runs):{form}}" if name in runs[0] else "-"
                    for name, form in (("teacher_share", ".0%"), ("step_ratio", ".2f"))
                ),
            ]
        )
    return lines


def spread(values: list[float], form: str = ".2f") -> str:
    """Mean, and half the distance between the largest and the smallest."""
    mean = f"{statistics.mean(values):{form}}"
    return mean if len(values) == 1 else f"{mean} ± {(max(values) - min(values)) / 2:{form}}"


def plot(results: list[dict[str, Any]], path: Path, title: str) -> None:
    """PSNR over time, a line a run, a colour an arm."""
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    arms = list(dict.fromkeys(result["arm"] for result in results))
    for result in results:
        number, curve = arms.index(result["arm"]), result["curve"]
        line = [one["seconds"] for one in curve], [one["psnr"] for one in curve]
        axes.plot(*line, marker=".", color=f"C{number}", label=result["arm"] if result["seed"] == 0 else None)
    axes.set(xlabel="seconds", ylabel="PSNR on the test views (dB)", title=title)
    axes.grid(alpha=0.3)
    if results:
        axes.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    tyro.cli(TimeToQuality).run()
