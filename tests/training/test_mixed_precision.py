"""Training in half precision comes out as in single precision, for every student. `benchmarks.half` has longer runs."""

from pathlib import Path

import pytest
import torch
from conftest import Run, distil_config

from benchmarks.half import ALLOWED, SCALE, trained
from pvd_nerfstudio.student.registry import BUILT_IN

STEPS = 40


@pytest.mark.parametrize(("student", "half"), [*((name, torch.float16) for name in BUILT_IN), ("mlp", torch.bfloat16)])
def test_half_precision_learns_as_well(student: str, half: torch.dtype, teacher: Run, tmp_path: Path) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--student", student, "--max-num-iterations", str(STEPS))
    single = trained(distil_config(tmp_path / "single", *options), None).pipeline.recent_psnr
    trainer = trained(distil_config(tmp_path / "half", *options), half)
    assert trainer.grad_scaler.get_scale() >= SCALE, "no step overflowed"
    assert all(value.dtype == torch.float32 for value in trainer.pipeline.student.parameters())
    assert trainer.pipeline.recent_psnr == pytest.approx(single, abs=ALLOWED)
