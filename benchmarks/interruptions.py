"""Does a run survive being stopped? SIGKILL, SIGTERM and Ctrl-C at random moments; it is resumed until it is done.

    python -m benchmarks.interruptions --output interruptions.json

After each stop every checkpoint must load; the finished run must hold the weights, bit for bit, of one that was never
stopped, and nothing half-written. All levels of active learning are on; one thread.
"""

import json
import random
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils import writer

from benchmarks.forked import in_a_process
from benchmarks.small import ALL_LEVELS, quiet, small_student, small_teacher
from pvd_nerfstudio.trainer_config import PVDTrainerConfig

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STOPS = 2
"""How often a run is stopped before it may end."""


@dataclass
class Interruptions:
    """Stop short runs at random moments."""

    output: Path
    """The file for the figures, JSON."""
    students: tuple[str, ...] = ("mlp", "vm", "sparse")
    """Architectures, in turn."""
    moments: int = 50
    """Runs that are stopped."""
    steps: int = 60
    """Steps of a run; there is a checkpoint every five."""
    seed: int = 0
    """Seed of the moments."""

    def run(self) -> None:
        """Stop, resume, compare."""
        torch.set_num_threads(1)
        warnings.filterwarnings("ignore")
        chance, counts, failures = random.Random(self.seed), Counter(), []
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            teacher = in_a_process(lambda: _report(place / "teacher.txt", small_teacher(place)))
            assert teacher == 0, "no teacher could be trained"
            path = Path((place / "teacher.txt").read_text("utf8"))
            whole = {student: self._whole(place, path, student) for student in self.students}
            for number in range(self.moments):
                student = self.students[number % len(self.students)]
                kind = SIGNALS[number // len(self.students) % len(SIGNALS)]
                trial = Trial(self._config(place, f"run-{number}", path, student), kind, whole[student][1])
                problem = trial.run(chance, whole[student][0])
                counts.update({f"{student}, {kind.name}": 1, **trial.counts})
                if problem:
                    failures.append(f"run {number}, {student}, {kind.name}: {problem}")
                print(f"{number + 1} of {self.moments}: {student}, {kind.name}, {problem or 'the same weights'}")
        figures = {"runs": self.moments, "counts": dict(sorted(counts.items())), "failures": failures}
        self.output.write_text(json.dumps(figures, indent=2), "utf8")
        print(json.dumps(figures, indent=2))
        if failures:
            sys.exit(1)

    def _config(self, place: Path, name: str, teacher: Path, student: str) -> PVDTrainerConfig:
        options = f"{ALL_LEVELS} --max-num-iterations {self.steps} --steps-per-save 5"
        config = small_student(place, name, teacher, student, options)
        assert isinstance(config, PVDTrainerConfig)
        return config

    def _whole(self, place: Path, teacher: Path, student: str) -> tuple[dict[str, Any], float]:
        """The weights of a run that is never stopped, and how long it takes."""
        config = self._config(place, f"whole-{student}", teacher, student)
        start = time.perf_counter()
        status = in_a_process(lambda: train(config))
        assert status == 0, f"a run that is not stopped ended with {status}"
        return weights(config), time.perf_counter() - start


@dataclass
class Trial:
    """One run that is stopped."""

    config: PVDTrainerConfig
    kind: signal.Signals
    seconds: float
    """That a whole run takes."""

    def run(self, chance: random.Random, whole: dict[str, torch.Tensor]) -> str:
        """Stop it some times, let it end, compare; what went wrong, or nothing."""
        self.counts: Counter[str] = Counter()
        for _ in range(STOPS):
            status = in_a_process(self._go_on, self.kind, chance.uniform(0, self.seconds))
            self.counts["stopped" if status else "ended before"] += 1
            for checkpoint in sorted(self.config.get_checkpoint_dir().glob("*")):
                try:
                    torch.load(checkpoint, weights_only=True)
                except Exception as error:  # whatever: it should load
                    return f"{checkpoint.name} does not load: {error}"
        status = in_a_process(self._go_on)
        if status:
            return f"the resumed run ended with {status}"
        left = [path.name for path in self.config.get_base_dir().glob(".*")]
        if left:
            return f"left behind: {left}"
        ours = weights(self.config)
        differing = [name for name, value in whole.items() if not torch.equal(value, ours[name])]
        return f"other weights: {differing}" if differing or set(ours) != set(whole) else ""

    def _go_on(self) -> None:
        """Resume where there is a checkpoint."""
        saved = self.config.get_checkpoint_dir()
        if any(saved.glob("*.ckpt")):
            resumed = PVDTrainerConfig(method_name="pvd-distill", load_dir=saved, steps_per_save=5)
            train(quiet(resumed, self.config.output_dir, self.config.timestamp))
        else:
            train(self.config)


def train(config: TrainerConfig) -> None:
    """As ns-train does."""
    writer.EVENT_WRITERS.clear()
    torch.manual_seed(config.machine.seed)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.train()


def weights(config: TrainerConfig) -> dict[str, torch.Tensor]:
    """Of the last checkpoint."""
    last = max(config.get_checkpoint_dir().glob("*.ckpt"))
    state = torch.load(last, weights_only=True)["pipeline"]
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _report(place: Path, path: Path) -> None:
    place.write_text(str(path), "utf8")


if __name__ == "__main__":
    tyro.cli(Interruptions).run()
