"""Runs of the last release, one of each student, open with nerfstudio's loader and ours, and show what they did."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers import OLD_RUNS, open_old_run

from pvd_nerfstudio.input.renamed import OLD_OPTIONS, current_options
from pvd_nerfstudio.student.registry import BUILT_IN
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.teacher.frozen import FrozenTeacher


@pytest.mark.parametrize("name", [name for name in BUILT_IN if name != "splat"])  # which the last release had not
def test_old_runs_show_what_they_did(name: str, scene: Path) -> None:
    folder = OLD_RUNS / name
    then = torch.tensor(json.loads((folder / "rgb.json").read_text())).view(5, 5, 3)
    config, pipeline, step = open_old_run(name, scene)
    camera = pipeline.datamanager.train_dataset.cameras[:1]
    now = pipeline.model.get_outputs_for_camera(camera)["rgb"][::8, ::8]
    torch.testing.assert_close(now, then, atol=2e-3, rtol=0)
    assert step == 39 and config.pipeline.distillation.chunks > 0

    ours = find_run(folder)
    assert yaml.dump(ours.config.pipeline.distillation) == yaml.dump(config.pipeline.distillation)
    as_teacher = FrozenTeacher(ours, "cpu").render(camera)[::8, ::8]
    torch.testing.assert_close(as_teacher, then, atol=2e-3, rtol=0)


def test_old_options_are_understood_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    typed = [
        "pvd-distill",
        "--pipeline.distillation.parts",
        "3",
        "--pipeline.distillation.rays_per_part=5",
        "--x",
        "parts",
    ]
    new = [
        "pvd-distill",
        "--pipeline.distillation.chunks",
        "3",
        "--pipeline.distillation.rays-per-chunk=5",
        "--x",
        "parts",
    ]
    assert current_options(typed) == new
    said = " ".join(capsys.readouterr().out.split())
    assert "--pipeline.distillation.parts is now called --pipeline.distillation.chunks" in said
    assert not set(OLD_OPTIONS) & set(sys.argv)
