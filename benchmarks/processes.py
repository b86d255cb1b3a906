"""Two processes on the CPU (gloo) beside one: the same weights in both, and as good a student, resumed too.

    python -m benchmarks.processes --output processes.json

ns-train starts several processes on CUDA GPUs alone, so this script starts them and calls what it would call. One
process draws as many rays and points in a step as the two together; its spread over seeds is the noise.
"""

import json
import socket
import sys
import tempfile
import warnings
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import torch
import torch.distributed as dist
import tyro
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils import comms, writer

from benchmarks.forked import fork, in_a_process, wait
from benchmarks.small import ALL_LEVELS, small_student, small_teacher
from pvd_nerfstudio.pipeline.comparison import Comparison
from pvd_nerfstudio.student.registry import BUILT_IN
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.trainer import PVDTrainer

RAYS, POINTS = 64, 256
"""Of a process in a step, where there are two."""
NOISE = 3.0
"""Standard deviations of one process by which two may be worse."""


@dataclass
class Processes:
    """Train with two processes and with one."""

    output: Path
    """The file for the figures, JSON."""
    students: tuple[str, ...] = tuple(name for name, config in BUILT_IN.items() if not config().is_drawn)
    """Architectures; those that are drawn learn in one process."""
    steps: int = 50
    """Steps of a run."""
    seeds: int = 5
    """Runs of each kind."""

    def run(self) -> None:
        """Train all and compare."""
        torch.set_num_threads(1)
        warnings.filterwarnings("ignore")
        figures, failed = {}, False
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            assert in_a_process(lambda: (place / "teacher").write_text(str(small_teacher(place)))) == 0
            teacher = Path((place / "teacher").read_text("utf8"))
            for student in self.students:
                one = [self._train(place, teacher, student, 1, seed)[0] for seed in range(self.seeds)]
                figures[student] = {"one process, dB": one}
                for words, resumes in (("two processes", False), ("two that resumed", True)):
                    pairs = [self._train(place, teacher, student, 2, seed, resumes) for seed in range(self.seeds)]
                    two = [psnr for psnr, _ in pairs]
                    same = all(is_same for _, is_same in pairs)
                    figures[student] |= {f"{words}, dB": two, f"{words}, same weights": same}
                    worse = mean(one) - mean(two)
                    failed |= not same or worse > NOISE * max(stdev(one), 0.05) / self.seeds**0.5
                    print(f"{student}: {mean(one):.2f} dB (sd {stdev(one):.2f}); {words} {mean(two):.2f}, same: {same}")
        self.output.write_text(json.dumps(figures, indent=2), "utf8")
        if failed:
            sys.exit("Two processes come out differently, or worse than one.")

    def _train(
        self, place: Path, teacher: Path, student: str, processes: int, seed: int, resumes: bool = False
    ) -> tuple[float, bool]:
        """PSNR against the teacher, and whether all processes have the same weights."""
        name, share = f"{student}-{processes}-{seed}{'-resumed' * resumes}", 2 // processes
        options = (
            f"{ALL_LEVELS} --max-num-iterations {self.steps} --machine.seed {seed} "
            f"--pipeline.distillation.rays-per-step {RAYS * share} "
            f"--pipeline.distillation.points-per-step {POINTS * share} "
            f"--steps-per-save {self.steps // 2} --save-only-latest-checkpoint False"
        )
        config = small_student(place, name, teacher, student, options)
        files = [place / f"{name}.{rank}" for rank in range(processes)]
        if resumes:
            saved = next((place / "small").rglob(f"{student}-2-{seed}/**/*{self.steps // 2:09d}.ckpt"))
            config = small_student(place, name, teacher, student, f"--load-checkpoint {saved}")
        train_together(config, teacher, files)
        results = [torch.load(file, weights_only=True) for file in files]
        first = results[0]["weights"]
        same = all(
            set(other["weights"]) == set(first)
            and all(torch.equal(value, other["weights"][key]) for key, value in first.items())
            for other in results
        )
        return results[0]["psnr"], same


def train_together(config: TrainerConfig, teacher: Path, files: list[Path]) -> None:
    """Train with as many processes as there are files; each writes its student's weights and PSNR to one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    children = [fork(partial(_worker, config, teacher, address, rank, files)) for rank in range(len(files))]
    statuses = [wait(child) for child in children]
    assert not any(statuses), f"the processes ended with {statuses}"


def _worker(config: TrainerConfig, teacher: Path, address: str, rank: int, files: list[Path]) -> None:
    count = len(files)
    config = replace(config, machine=replace(config.machine, num_devices=count))
    if count > 1:
        dist.init_process_group("gloo", address, timedelta(minutes=2), count, rank)
        comms.LOCAL_PROCESS_GROUP = dist.new_group(list(range(count)))
    writer.EVENT_WRITERS.clear()
    torch.manual_seed(config.machine.seed + rank)
    trainer = config.setup(local_rank=rank, world_size=count)
    assert isinstance(trainer, PVDTrainer)
    trainer.setup()
    student, weights = trainer.pipeline.student, {}

    def remember(step: int) -> None:  # of the last step: then the first process chooses between weights and average
        if step + 1 == trainer.pipeline.config.steps:
            weights.update(
                {name: value.clone() for name, value in student.state_dict().items() if torch.is_tensor(value)}
            )

    trainer.on_step(remember)
    trainer.train()
    errors = Comparison(FrozenTeacher(find_run(teacher), "cpu"), student).errors(
        trainer.pipeline.datamanager.train_cameras
    )
    torch.save({"weights": weights, "psnr": float(-10 * errors.mean().log10())}, files[rank])


if __name__ == "__main__":
    tyro.cli(Processes).run()
