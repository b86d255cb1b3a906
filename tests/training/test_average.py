"""A run that is not over is seen by the average of its weights; a finished one has one set, the better one."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import Run, distil_config
from helpers import start, stop_after, weights_of
from nerfstudio.utils.eval_utils import eval_setup

from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.trainer import PVDTrainer


def trained(teacher: Run, output: Path, steps: int = 60) -> PVDTrainer:
    return start(distil_config(output, "--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", str(steps)))


def test_evaluation_sees_the_average_and_training_does_not(teacher: Run, tmp_path: Path) -> None:
    trainer = trained(teacher, tmp_path)
    stop_after(trainer, 39)
    student = trainer.pipeline.student
    matrix = next(student.field.parameters())
    own, averaged = matrix.detach().clone(), next(student.average.module.parameters()).detach().clone()
    assert not torch.equal(own, averaged)
    for _ in range(2):
        trainer.pipeline.eval()
        assert torch.equal(matrix, averaged)
        trainer.pipeline.train()
        assert torch.equal(matrix, own)


def test_an_interrupted_run_shows_its_average_wherever_it_is_opened(teacher: Run, tmp_path: Path) -> None:
    trainer = trained(teacher, tmp_path)
    stop_after(trainer, 39)
    camera = trainer.pipeline.datamanager.train_dataset.cameras[:1]
    trainer.pipeline.eval()
    shown = trainer.pipeline.student.get_outputs_for_camera(camera)["rgb"]
    trainer.pipeline.train()
    _, pipeline, _, step = eval_setup(trainer.base_dir / "config.yml")
    assert step == 39
    torch.testing.assert_close(pipeline.model.get_outputs_for_camera(camera)["rgb"], shown)
    torch.testing.assert_close(FrozenTeacher(find_run(trainer.base_dir), "cpu").render(camera), shown)


def test_weights_are_saved_and_not_their_average_whoever_looks_meanwhile(teacher: Run, tmp_path: Path) -> None:
    """Other tools save a run that they have just rendered."""
    trainer = trained(teacher, tmp_path)
    stop_after(trainer, 39)
    before = weights_of(trainer.base_dir)
    shutil.rmtree(trainer.checkpoint_dir)
    trainer.pipeline.eval()
    trainer.save_checkpoint(39)
    for name, value in weights_of(trainer.base_dir).items():
        assert not isinstance(value, torch.Tensor) or torch.equal(value, before[name]), name


@pytest.mark.parametrize("average_is_better", [False, True])
def test_a_finished_run_has_the_better_weights_alone(
    teacher: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], average_is_better: bool
) -> None:
    trainer = trained(teacher, tmp_path, steps=60)
    student, finish = trainer.pipeline.student, trainer.pipeline.finish
    seen: list[torch.Tensor] = []

    def spoiled(for_good: bool) -> None:
        worse = student.field if average_is_better else student.average.module
        for value in worse.parameters():
            value.data.add_(torch.randn_like(value))
        seen.extend(value.detach().clone() for value in student.field.parameters())
        finish(for_good)

    trainer.pipeline.finish = spoiled
    trainer.train()
    said = " ".join(capsys.readouterr().out.split())
    saved = weights_of(trainer.base_dir)
    assert not any("average" in name for name in saved)
    ours = [saved[f"_model.field.{name}"] for name, _ in student.field.named_parameters()]
    same = all(torch.equal(mine, one) for mine, one in zip(ours, seen))
    assert same == (not average_is_better)
    assert ("their average is kept" if average_is_better else "the last weights are kept") in said


def test_the_horizon_is_a_tenth_of_the_steps(teacher: Run, tmp_path: Path) -> None:
    student = trained(teacher, tmp_path).pipeline.student
    value = next(student.field.parameters())
    for step in range(1000):
        value.data.fill_(step)
        student.update_average()
    assert 0.08 < 1 - float(next(student.average.module.parameters()).mean()) / 1000 < 0.1
