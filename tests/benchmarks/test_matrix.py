"""Any architecture to any other: every family of teachers to every student, a few steps, saved and loaded again."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from conftest import distil_config
from helpers import start
from nerfstudio.utils.eval_utils import eval_setup

from pvd_nerfstudio.pipeline import DistillationPipeline
from pvd_nerfstudio.student.registry import BUILT_IN
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.teacher.frozen import FrozenTeacher

TINY = (
    *("--pipeline.model.grid-resolution", "16", "--pipeline.model.render-step-size", "0.2"),
    *("--pipeline.distillation.rays-per-chunk", "64", "--pipeline.distillation.points-per-chunk", "128"),
    *("--pipeline.distillation.rays-per-step", "32", "--pipeline.distillation.points-per-step", "64"),
    *("--pipeline.distillation.first-chunks", "1", "--pipeline.distillation.refresh-every", "100"),
    *("--pipeline.distillation.preset", "pvd", "--max-num-iterations", "6"),
)
"""Stage ends 0.4 and 1 step of 6: one step each of features and points, the others of all."""

FAMILIES = ("nerfacto", "instant-ngp", "vanilla-nerf", "mipnerf", "tensorf", "neus", "splatfacto")
"""One of each adapter; variants have their own tests in test_teachers.py."""


@pytest.fixture(autouse=True)
def few_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvd_nerfstudio.teacher.check.PIXELS", 64)
    monkeypatch.setattr("pvd_nerfstudio.teacher.occupancy.GRID_VIEWS", 4)


@pytest.mark.parametrize("student", BUILT_IN)
@pytest.mark.parametrize("family", FAMILIES)
def test_pair(family: str, student: str, families: Mapping[str, Path], tmp_path: Path) -> None:
    options = ("--teacher-checkpoint", str(families[family]), "--student", student, *TINY)
    trainer = start(distil_config(tmp_path, *options))
    assert isinstance(trainer.pipeline, DistillationPipeline)
    trainer.train()
    model = trainer.pipeline.student.eval()
    _, loaded, _, step = eval_setup(trainer.base_dir / "config.yml")
    assert step == 5  # noqa: PLR2004
    camera = loaded.datamanager.eval_dataset.cameras[:1]
    camera.rescale_output_resolution(0.5)
    ours, theirs = (one.get_outputs_for_camera(camera) for one in (model, loaded.model))
    assert theirs["accumulation"].max() > 0.01, "the student shows nothing"
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    for name in ("rgb", "accumulation", "depth"):
        torch.testing.assert_close(theirs[name], ours[name], atol=1e-5, rtol=1e-5)
    if family == "nerfacto":  # each student can teach in its turn
        teacher = FrozenTeacher(find_run(trainer.base_dir), "cpu")
        torch.testing.assert_close(teacher.render(camera), theirs["rgb"], atol=1e-5, rtol=1e-5)
        assert teacher.has_density and teacher.shows_views == (student == "splat")
        assert (teacher.feature_dim is None) == (student in ("sparse", "splat"))
