"""nerfstudio's own method of an architecture, from scratch on the teacher's images: PSNR over time.

    python -m benchmarks.stock --teacher ../shared/teachers/lego-hash --student mlp --seconds 1800 --ours benchmark-time

vanilla-nerf for mlp, tensorf for vm, nerfacto for hash, with the defaults of nerfstudio (nerfacto with torch tables and
in the scene's bounds). With --ours, the folder of benchmarks.time_to_quality, it says how long each arm there took to
get as far.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from benchmarks.matrix import machine
from benchmarks.time_to_quality import plot, seconds_until, start_arm

METHODS = {"mlp": "vanilla-nerf", "vm": "tensorf", "hash": "nerfacto"}


@dataclass
class Stock:
    """Train a stock method by the clock."""

    teacher: Path
    """Run whose data set is used."""
    student: str = "mlp"
    """Architecture: mlp, vm or hash."""
    seconds: float = 1800.0
    """Wall time."""
    steps: int = 30000
    """Steps that its schedule is made for, as in nerfstudio; it is stopped when the seconds are over."""
    evaluations: int = 5
    """Moments at which it is evaluated, beside its end; on a CPU each takes minutes, which are not counted."""
    pixels: int = 2000
    """Pixels of each test view, as benchmarks.time_to_quality has them."""
    ours: Path | None = None
    """Folder of a run of benchmarks.time_to_quality."""
    output: Path = Path("benchmark-stock")
    """Folder for the results."""

    def run(self) -> None:
        """Train, print, plot."""
        method = METHODS.get(self.student)
        if method is None:
            sys.exit(f"nerfstudio has no method of its own for '{self.student}'; there are {', '.join(METHODS)}.")
        self.output.mkdir(parents=True, exist_ok=True)
        file = self.output / f"{method}.json"
        if not file.is_file():
            moments = [self.seconds * (k + 1) / (self.evaluations + 1) for k in range(self.evaluations)]
            words = [sys.executable, "-m", "benchmarks.arm", "--name", method, "--teacher", str(self.teacher)]
            words += ["--steps", str(self.steps), "--seconds", str(self.seconds), "--pixels", str(self.pixels)]
            start_arm([*words, "--output", str(file), "--times", *map(str, moments)], self.output / f"{method}.log")
        stock = json.loads(file.read_text("utf8"))
        end = stock["curve"][-1]
        say = Console(soft_wrap=True).print
        say(f"{machine()}\n{method}: {end['psnr']:.2f} dB after {end['seconds']:.0f} s, {end['steps']} steps")
        results = [stock]
        for other in [] if self.ours is None else json.loads((self.ours / "time.json").read_text("utf8")):
            until = seconds_until(other["curve"], end["psnr"])
            took = "never got there" if until is None else f"took {until:.0f} s, 1/{end['seconds'] / until:.0f}"
            say(f"{other['arm']}, seed {other['seed']}: {took}")
            results.append(other)
        plot(results, self.output / f"{method}.png", f"{method} from scratch")


if __name__ == "__main__":
    tyro.cli(Stock).run()
