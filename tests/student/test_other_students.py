"""A student of another package: found through its entry point, an option of the command line, trained and loaded."""

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from conftest import SMALL, Run
from nerfstudio.utils.eval_utils import eval_setup

from pvd_nerfstudio.student.model import StudentModelConfig
from pvd_nerfstudio.student.registry import STUDENTS, TAKEN

FIELD = """
from dataclasses import dataclass, field

import torch
from pvd_nerfstudio.student.fields.base import FeatureField, FeatureFieldConfig


@dataclass
class WavesConfig(FeatureFieldConfig):
    \"\"\"Sizes of the `waves` student.\"\"\"

    _target: type = field(default_factory=lambda: Waves)
    waves: int = 7
    \"\"\"How many sines.\"\"\"

    @property
    def num_parameters(self):
        return 20 * self.waves


class Waves(FeatureField):
    def __init__(self, config, aabb, contracted):
        super().__init__(config, aabb, contracted)
        self.inner = torch.nn.Linear(3, config.waves)
        self.outer = torch.nn.Linear(config.waves, 1 + config.feature_dim)

    def encode(self, unit):
        return self.outer(torch.sin(9 * self.inner(unit)))
"""
POINTS = """[pvd_nerfstudio.students]
waves = waves_student:WavesConfig
broken = waves_student.missing:Config
mlp = waves_student:WavesConfig
class = waves_student:WavesConfig
grid_resolution = waves_student:WavesConfig
"""


@pytest.fixture()
def installed(tmp_path: Path) -> Path:
    """A folder with a package as pip leaves it."""
    folder = tmp_path / "site"
    (folder / "waves_student").mkdir(parents=True)
    (folder / "waves_student" / "__init__.py").write_text(FIELD)
    information = folder / "waves_student-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: waves-student\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(POINTS)
    return folder


def test_a_student_of_another_package(
    installed: Path, teacher: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = str(Path(sys.executable).parent / "ns-train"), "pvd-distill", *SMALL
    options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "4", "--vis", "tensorboard")
    place = ("--output-dir", str(tmp_path), "--experiment-name", "scene", "--timestamp", "run")
    ours = ("--student", "waves", "--pipeline.model.waves.waves", "5")
    done = subprocess.run(
        [*train, *options, *place, *ours],
        env=os.environ | {"PYTHONPATH": str(installed), "COLUMNS": "300"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in ("broken", "mlp", "class", "grid_resolution"):
        assert f"The student '{name}' is left out" in done.stdout

    monkeypatch.syspath_prepend(installed)
    config = tmp_path / "scene" / "pvd-distill" / "run" / "config.yml"
    saved, pipeline, _, _ = eval_setup(config)
    assert saved.pipeline.model.chosen.waves == 5
    assert pipeline.model.field.inner.out_features == 5
    camera = pipeline.datamanager.eval_dataset.cameras[:1]
    assert pipeline.model.get_outputs_for_camera(camera)["accumulation"].max() > 0.01


def test_names_that_the_students_model_needs_itself_are_taken() -> None:
    own = {option.name for option in fields(StudentModelConfig)} - set(STUDENTS)
    assert own <= TAKEN


def test_a_run_of_ours_needs_no_package_that_was_there_by_chance(
    teacher: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conftest import distil_config  # noqa: PLC0415

    from pvd_nerfstudio import trainer_config  # noqa: PLC0415

    monkeypatch.setattr(trainer_config, "STUDENTS", trainer_config.STUDENTS | {"waves": object})
    config = distil_config(tmp_path, "--teacher-checkpoint", str(teacher.folder))
    assert config.pipeline.model.waves is None
