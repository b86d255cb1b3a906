"""Training in half precision comes out as in single precision, for every student; on the CPU, which has both kinds."""

from pathlib import Path

import pytest
import torch
from conftest import Run, distil_config
from helpers import start

from pvd_nerfstudio.student.registry import BUILT_IN
from pvd_nerfstudio.trainer import PVDTrainer

STEPS = 200


def trained(output: Path, options: tuple[str, ...], half: torch.dtype | None) -> PVDTrainer:
    """A trainer that has trained as it would on a GPU with --mixed-precision True."""
    trainer = start(distil_config(output, *options))
    usual = torch.get_autocast_dtype("cpu")
    if half is not None:
        torch.set_autocast_dtype("cpu", half)
        trainer.mixed_precision = True
        trainer.grad_scaler = torch.amp.GradScaler("cpu")
    try:
        trainer.train()
    finally:
        torch.set_autocast_dtype("cpu", usual)
    return trainer


@pytest.mark.parametrize("student", BUILT_IN)
def test_half_precision_learns_as_well(student: str, teacher: Run, tmp_path: Path) -> None:
    options = (
        *("--teacher-checkpoint", str(teacher.folder), "--student", student),
        *("--max-num-iterations", str(STEPS), "--steps-per-save", "1000"),
    )
    single = trained(tmp_path / "single", options, None).pipeline.recent_psnr
    for half in (torch.float16, torch.bfloat16):
        trainer = trained(tmp_path / str(half), options, half)
        assert trainer.grad_scaler.get_scale() >= 65536, "no step overflowed"
        assert all(value.dtype == torch.float32 for value in trainer.pipeline.student.parameters())
        assert trainer.pipeline.recent_psnr == pytest.approx(single, abs=0.2)
        print(student, half, single, trainer.pipeline.recent_psnr)
