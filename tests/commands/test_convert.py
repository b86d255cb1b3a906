"""`pvd convert` and `pvd strip`: what is chosen, what is said, what lies on the disk afterwards."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, distil_config
from helpers import start, stop_after, weights_of
from nerfstudio.utils.eval_utils import eval_setup

import pvd_nerfstudio
from pvd_nerfstudio.commands import convert, plan
from pvd_nerfstudio.commands.convert import Convert
from pvd_nerfstudio.commands.plan import Trial, megabytes_of, size_that_fits, sizes_of, sizes_within, try_out
from pvd_nerfstudio.commands.strip import Strip
from pvd_nerfstudio.distillation.stages import DistillationConfig
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.student.fields.mlp import MLPFieldConfig
from pvd_nerfstudio.student.model import StudentModel
from pvd_nerfstudio.student.registry import STUDENTS
from pvd_nerfstudio.teacher.checkpoint import find_run, load_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture()
def short_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "TRIAL_STEPS", 3)


def test_a_run_is_converted_and_compared(teacher: Run, tmp_path: Path, capsys, short_trial: None) -> None:
    Convert(teacher.folder, steps=12, target_mb=0.37, output_dir=tmp_path).run()
    said = capsys.readouterr().out
    (config,) = tmp_path.rglob("config.yml")
    run = find_run(config)
    assert run.step == 11 and run.checkpoint_path.stat().st_size < 0.37e6
    assert load_checkpoint(run.checkpoint_path)["optimizers"] == {}
    words = " ".join(said.split())
    assert "hidden_dim 32" in words and "the largest within 0.37 MB" in words
    assert "teacher: nerfacto" in words and "student: mlp" in words
    commands = [shlex.split(line) for line in said.splitlines() if "--load-config" in line]
    assert [Path(words[0]).name for words in commands] == ["ns-viewer", "ns-eval", "pvd"]
    assert all(shutil.which(words[0]) and Path(words[words.index("--load-config") + 1]) == config for words in commands)


def test_a_dry_run_leaves_nothing(teacher: Run, tmp_path: Path, capsys, short_trial: None) -> None:
    output = tmp_path / "new"
    Convert(teacher.folder, to="vm", minutes=3, size="small", output_dir=output, dry_run=True).run()
    words = " ".join(capsys.readouterr().out.split())
    assert not output.exists()
    assert "resolution 128" in words and "what fits into 3 minutes" in words and "dry run ends here" in words


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minutes": 1.0, "steps": 5}, "--minutes and --steps exclude each other"),
        ({"size": "small", "target_mb": 1.0}, "--size and --target-mb exclude each other"),
        ({"minutes": -1.0}, "minutes"),
        ({"target_mb": 0.01}, "the smallest 'mlp' has"),
    ],
)
def test_wrong_options_end_it_before_any_work(teacher: Run, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Convert(teacher.folder, output_dir=tmp_path / "new", **options).run()
    assert not (tmp_path / "new").exists()


def test_the_notebook_runs(teacher: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, short_trial) -> None:
    import matplotlib

    matplotlib.use("Agg")
    cells = json.loads((ROOT / "docs" / "convert.ipynb").read_text())["cells"]
    for name, value in (("RUN", teacher.folder), ("MINUTES", 0.05), ("OUTPUT", tmp_path)):
        monkeypatch.setenv(f"PVD_{name}", str(value))
    known: dict = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec("".join(cell["source"]), known)
    assert "dB to the teacher" in capsys.readouterr().out.splitlines()[-1]
    matplotlib.pyplot.close("all")
    student, image = known["student"], known["pictures"]["student"]
    assert image.shape == (40, 40, 3) and 0 <= image.min() and image.max() <= 1
    _, pipeline, _, _ = eval_setup(student.config)
    again = pipeline.model.get_outputs_for_camera(student.cameras[0:1])["rgb"]
    torch.testing.assert_close(again.cpu(), image)
    with pytest.raises(AttributeError):
        pvd_nerfstudio.distil  # noqa: B018


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="nothing says what another process has imported")
def test_an_interrupted_start_says_one_line(teacher: Run, tmp_path: Path) -> None:
    """nerfstudio is being imported by then."""
    words = [sys.executable, "-m", "pvd_nerfstudio.commands.main", "convert", str(teacher.folder)]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        end = time.monotonic() + 60
        while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text() and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and said.split() == ["Interrupted."]
    assert not any(tmp_path.iterdir())


def test_steps_are_the_most_that_fit() -> None:
    trial = Trial(start=4.0, step=0.05, chunk=1.0, memory=0, method=DistillationConfig().resolved())
    steps = trial.steps_within(180.0)
    assert trial.seconds(steps) <= 180.0 < trial.seconds(steps + 1)
    first = trial.method.first_chunks - trial.method.start_chunks
    filled = first * trial.method.fill_every
    assert trial.seconds(filled + 1) == pytest.approx(4.0 + (filled + 1) * 0.05 + first)
    assert trial.steps_within(0.0) == 1
    assert replace(trial, growing=7.0).seconds(filled + 1) == pytest.approx(trial.seconds(filled + 1) + 7)
    shared = replace(trial, known=first + trial.method.start_chunks)
    assert shared.seconds(filled + 1) == pytest.approx(4.0 + (filled + 1) * 0.05)


def test_what_is_done_once_is_not_taken_for_a_steps(
    teacher: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Voxels are cut twice and pruned once in a run of any length; here it takes a second each time."""
    grow = StudentModel.grow

    def slowly(student: StudentModel, progress: float, *others: Any) -> bool:
        grew = grow(student, progress, *others)
        time.sleep(1.0 if grew and progress > 0 else 0.0)
        return grew

    monkeypatch.setattr(StudentModel, "grow", slowly)
    options = ("--teacher-checkpoint", str(teacher.folder), "--student", "sparse", "--max-num-iterations", "20")
    trial = try_out(distil_config(tmp_path, *options))
    assert trial.growing > 3 and trial.step < 0.5


def test_a_size_gets_enough_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = {128: 1e-3, 192: 1e-2, 256: 1e-1}
    monkeypatch.setattr(plan, "_field_seconds", lambda config, device: needed[config.hidden_dim])
    budget = plan.ENOUGH / plan.OF_A_STEP
    chosen = [size_that_fits("mlp", seconds * budget, "cpu") for seconds in (1e-4, 1.1e-2, 0.11)]
    assert chosen == ["small", "medium", "paper"]


def test_a_size_whose_trial_is_too_slow_becomes_a_smaller_one(
    teacher: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless it was asked for. The field's own time had promised more."""
    tried: list[int] = []

    def trial(config: Any) -> Trial:
        tried.append(config.pipeline.model.sparse.resolution)
        return Trial(start=1.0, step={256: 0.5, 192: 0.2, 128: 0.1}[tried[-1]], chunk=0.0, memory=0, method=method)

    method = DistillationConfig().resolved()
    monkeypatch.setattr(convert, "try_out", trial)
    monkeypatch.setattr(convert, "size_that_fits", lambda *_: "paper")
    Convert(teacher.folder, to="sparse", minutes=5, output_dir=tmp_path, dry_run=True).run()
    assert tried == [256, 192] and "resolution 192" in capsys.readouterr().out
    Convert(teacher.folder, to="sparse", minutes=5, size="paper", output_dir=tmp_path, dry_run=True).run()
    Convert(teacher.folder, to="sparse", minutes=1, output_dir=tmp_path, dry_run=True).run()
    assert tried == [256, 192, 256, 256, 192, 128]


@pytest.mark.parametrize("student", sorted(set(STUDENTS) - {"hybrid"}))
def test_sizes_rise(student: str) -> None:
    kind = STUDENTS[student]
    for sizes in ([*kind.sizes.values(), {}], kind.ladder):
        parameters = [kind(**one).num_parameters for one in sizes]
        assert parameters == sorted(parameters) and len(parameters) > 2
        for one in sizes:
            kind(**one).check("")
    words = sizes_within(student, 10.0, 128)
    chosen = {name.rsplit(".", 1)[1].replace("-", "_"): int(value) for name, value in zip(words[::2], words[1::2])}
    assert 5 < megabytes_of([kind(**chosen)], 128) <= 10


def test_the_sizes_of_a_composition_are_those_of_its_parts() -> None:
    assert sizes_of("hybrid", "small") == [*sizes_of("hash", "small"), *sizes_of("vm", "small")] != []
    with pytest.raises(InputError, match="no single size"):
        sizes_within("hybrid", 10.0, 128)


def test_the_estimate_is_what_lies_on_the_disk(teacher: Run, tmp_path: Path) -> None:
    for student in ("mlp", "hash", "vm"):
        options = ("--teacher-checkpoint", str(teacher.folder), "--student", student, "--max-num-iterations", "2")
        trainer = start(distil_config(tmp_path, *options, name=student))
        trainer.train()
        model = trainer.config.pipeline.model
        found = find_run(trainer.base_dir).checkpoint_path.stat().st_size / 1e6
        assert found == pytest.approx(megabytes_of([model.chosen], model.grid_resolution), abs=0.1, rel=0.1)


@pytest.fixture()
def kept(teacher: Run, tmp_path: Path) -> Run:
    """A finished run with its optimisers."""
    options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "4", "--keep-optimizer", "True")
    trainer = start(distil_config(tmp_path, *options))
    trainer.train()
    return Run(trainer.base_dir)


def test_a_teacher_that_goes_during_the_training_costs_the_comparison_alone(
    teacher: Run, tmp_path: Path, capsys
) -> None:
    copied = tmp_path / "teacher"
    shutil.copytree(teacher.folder, copied)
    trainer = start(distil_config(tmp_path, "--teacher-checkpoint", str(copied), "--max-num-iterations", "2"))
    trainer.config.summary = True
    shutil.rmtree(copied)
    trainer.train()
    said = capsys.readouterr().out
    assert "are not compared" in said and "ns-viewer" in said and find_run(trainer.base_dir).step == 1


def test_strip_takes_the_optimisers_and_nothing_else(kept: Run) -> None:
    path = find_run(kept.folder).checkpoint_path
    before, weights = path.stat().st_size, weights_of(kept.folder)
    assert set(load_checkpoint(path)["optimizers"]) == {"fields", "matrices"}
    Strip((kept.folder,)).run()
    assert path.stat().st_size < 0.75 * before and load_checkpoint(path)["optimizers"] == {}
    for name, value in weights_of(kept.folder).items():
        assert not torch.is_tensor(value) or torch.equal(value, weights[name])
    assert sorted(file.name for file in kept.folder.iterdir() if file.name.startswith(".")) == []
    eval_setup(kept.config)


def test_an_unfinished_run_is_stripped_only_on_request(kept: Run, teacher: Run, tmp_path: Path) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "8")
    trainer = start(distil_config(tmp_path, *options, name="other"))
    stop_after(trainer, 3)
    paths = [find_run(folder).checkpoint_path for folder in (kept.folder, trainer.base_dir)]
    before = [path.read_bytes() for path in paths]
    with pytest.raises(InputError, match="4 of 8 steps.*--unfinished"):
        Strip((kept.folder, trainer.base_dir)).run()
    assert [path.read_bytes() for path in paths] == before
    Strip((trainer.base_dir,), unfinished=True).run()
    assert load_checkpoint(paths[1])["optimizers"] == {}


def test_a_finished_run_goes_on_with_new_optimisers(teacher: Run, tmp_path: Path, capsys) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "4")
    first = start(distil_config(tmp_path, *options))
    first.train()
    trainer = start(distil_config(tmp_path, "--load-dir", str(first.checkpoint_dir), "--max-num-iterations", "6"))
    assert "they start afresh" in " ".join(capsys.readouterr().out.split())
    trainer.train()
    assert find_run(first.base_dir).step == 5


def test_the_mlp_of_the_demo_has_about_half_a_megabyte() -> None:
    assert megabytes_of([MLPFieldConfig(num_layers=4, hidden_dim=128)], 128) == pytest.approx(0.6, abs=0.05)
