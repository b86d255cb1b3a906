"""Half precision beside single, for every student: PSNR to the teacher in the end, and whether a step overflowed.

    python -m benchmarks.half --output half.json

On the CPU, which has both kinds of halves; nerfstudio's trainer uses the first on a GPU.
"""

import json
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from nerfstudio.engine.trainer import TrainerConfig

from benchmarks.small import small_student, small_teacher
from pvd_nerfstudio.student.registry import BUILT_IN
from pvd_nerfstudio.trainer import PVDTrainer

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
SCALE = 65536.0
"""Of the loss at first; it is less where a step overflowed."""
ALLOWED = 0.2
"""dB that half precision may cost."""


@dataclass
class Half:
    """Train all students in each precision."""

    output: Path
    """The file for the figures, JSON."""
    students: tuple[str, ...] = tuple(BUILT_IN)
    """Architectures."""
    steps: int = 200
    """Steps of a run."""

    def run(self) -> None:
        """Train and compare."""
        warnings.filterwarnings("ignore")
        figures, failed = {}, False
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            teacher = small_teacher(place)
            for student in self.students:
                figures[student] = {}
                for name, half in {"single": None, **HALVES}.items():
                    options = f"--max-num-iterations {self.steps} --steps-per-save {10 * self.steps}"
                    trainer = trained(small_student(place, f"{student}-{name}", teacher, student, options), half)
                    figures[student][name] = trainer.pipeline.recent_psnr
                    failed |= half is not None and trainer.grad_scaler.get_scale() < SCALE
                    failed |= abs(figures[student][name] - figures[student]["single"]) > ALLOWED
                print(student, ", ".join(f"{name} {psnr:.2f} dB" for name, psnr in figures[student].items()))
        self.output.write_text(json.dumps(figures, indent=2), "utf8")
        if failed:
            sys.exit("Half precision overflows, or learns worse.")


def trained(config: TrainerConfig, half: torch.dtype | None) -> PVDTrainer:
    """A trainer that has trained, with a half precision as it would on a GPU with --mixed-precision True."""
    torch.manual_seed(config.machine.seed)
    trainer = config.setup(local_rank=0, world_size=1)
    assert isinstance(trainer, PVDTrainer)
    trainer.setup()
    usual = torch.get_autocast_dtype("cpu")
    if half is not None:
        torch.set_autocast_dtype("cpu", half)
        trainer.mixed_precision = True
        trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)  # type: ignore[assignment]
    try:
        trainer.train()
    finally:
        torch.set_autocast_dtype("cpu", usual)
    return trainer


if __name__ == "__main__":
    tyro.cli(Half).run()
