"""A run has its folder for itself, leaves it whole however it ends, and opens where there is nothing but the run."""

import os
import resource
import shutil
from functools import partial
from pathlib import Path
from random import Random

import pytest
import torch
import yaml
from conftest import Run, distil_config
from helpers import start, weights_of
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.engine.callbacks import TrainingCallbackLocation
from nerfstudio.utils import writer

from benchmarks.forked import in_a_process
from benchmarks.interruptions import SIGNALS, Trial, train, weights
from benchmarks.small import ALL_LEVELS, small_student
from pvd_nerfstudio.data.datamanager import DistillationDataManager
from pvd_nerfstudio.errors import InputError

STOPPED = f"{ALL_LEVELS} --max-num-iterations 20 --steps-per-save 5"
"""Options of the runs that are stopped."""


def files_of(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.glob("**/*")}


class NoCameras(DataParser):
    """A data set of nothing."""

    includes_time = False

    def _generate_dataparser_outputs(self, split: str = "train", **_) -> DataparserOutputs:
        nothing = torch.zeros(0, 1)
        cameras = Cameras(torch.zeros(0, 3, 4), nothing, nothing, nothing, nothing, nothing.long(), nothing.long())
        return DataparserOutputs([], cameras, scene_box=SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3])))


class ForeignDataManager(DistillationDataManager):
    """As tools that compare methods replace it: their own data set, and nothing to evaluate."""

    dataset_type = InputDataset

    def create_eval_dataset(self) -> None:  # type: ignore[override]
        return None


def test_other_tools_open_a_finished_run_without_teacher_and_data(moved: Run) -> None:
    """By `Trainer.setup` of a config read with the stock loader; the run is only read."""
    before = files_of(moved.folder)
    config = yaml.load(moved.config.read_text(), Loader=yaml.Loader)
    config.pipeline.teacher = Path("gone")
    config.pipeline.datamanager._target = ForeignDataManager
    config.pipeline.datamanager.dataparser._target = NoCameras
    config.get_base_dir = lambda *_: moved.folder
    config.load_dir, config.vis = moved.checkpoints, None
    trainer = config.setup()
    trainer.setup()
    assert trainer._start_step == 60 and len(trainer.pipeline.datamanager.train_dataset) == 0
    for name, value in weights_of(moved.folder).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(trainer.pipeline.state_dict()[name].cpu(), value), name
    assert files_of(moved.folder) == before


def test_other_tools_train_step_by_step_and_save_where_they_like(teacher: Run, tmp_path: Path) -> None:
    """They run the callbacks themselves, and name the folder of the checkpoint."""
    config = distil_config(tmp_path, "--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "3")
    trainer = config.setup()
    trainer.setup()
    for step in range(3):
        for where in (TrainingCallbackLocation.BEFORE_TRAIN_ITERATION, TrainingCallbackLocation.AFTER_TRAIN_ITERATION):
            if where is TrainingCallbackLocation.AFTER_TRAIN_ITERATION:
                loss, _, _ = trainer.train_iteration(step)
                assert torch.isfinite(loss)
            for callback in trainer.callbacks:
                callback.run_callback_at_location(step, location=where)
    trainer.checkpoint_dir = tmp_path / "theirs"
    trainer.save_checkpoint(2)
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["step-000000002.ckpt"]


def test_a_loss_that_is_not_finite_ends_the_run(teacher: Run, tmp_path: Path, capsys) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "40", "--steps-per-save", "5")
    trainer = start(distil_config(tmp_path, *options))
    losses = trainer.pipeline.get_train_loss_dict

    def raised(step: int):
        if step == 7:
            trainer.optimizers.optimizers["fields"].param_groups[0]["lr"] = 1e30
        return losses(step)

    trainer.pipeline.get_train_loss_dict = raised
    with pytest.raises(InputError, match=r"diverged.*step-000000005\.ckpt.*--optimizers\.fields\.optimizer\.lr"):
        trainer.train()
    assert "Training Finished" not in capsys.readouterr().out
    assert [path.name for path in trainer.checkpoint_dir.iterdir()] == ["step-000000005.ckpt"]
    assert all(value.isfinite().all() for value in weights_of(trainer.base_dir).values() if torch.is_tensor(value))


def test_a_run_that_diverges_at_once_leaves_no_checkpoint(teacher: Run, tmp_path: Path) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--optimizers.fields.optimizer.lr", "1e30")
    trainer = start(distil_config(tmp_path, *options, "--max-num-iterations", "200"))
    with pytest.raises(InputError, match="No checkpoint had been saved"):
        trainer.train()
    assert not list(tmp_path.glob("**/*.ckpt"))


def test_two_runs_of_one_name_do_not_share_a_folder(teacher: Run, tmp_path: Path) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "3")
    first = start(distil_config(tmp_path, *options))

    def second() -> None:
        with pytest.raises(InputError, match="Another process is writing to"):
            start(distil_config(tmp_path, *options))

    assert in_a_process(second) == 0
    first.train()
    assert list(first.checkpoint_dir.glob("*.ckpt")) and not list(first.base_dir.glob(".*"))


@pytest.fixture(scope="module")
def never_stopped(teacher: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    """The weights at the end of runs that are not stopped."""
    place, ends = tmp_path_factory.mktemp("whole"), {}
    for student in ("mlp", "vm", "sparse"):
        config = small_student(place, student, teacher.folder, student, STOPPED)
        assert in_a_process(partial(train, config)) == 0
        ends[student] = weights(config)
    return ends


@pytest.mark.parametrize("number", range(5))
def test_a_run_that_is_stopped_at_any_moment_ends_with_the_same_weights(
    number: int, never_stopped: dict[str, dict[str, torch.Tensor]], teacher: Run, tmp_path: Path
) -> None:
    """Five of the fifty of `benchmarks/interruptions.py`."""
    student = ("mlp", "vm", "sparse", "vm", "mlp")[number]
    config = small_student(tmp_path, "stopped", teacher.folder, student, STOPPED)
    trial = Trial(config, SIGNALS[number % len(SIGNALS)], seconds=1.2)
    assert trial.run(Random(number), never_stopped[student]) == ""


def test_a_full_disk_costs_no_checkpoint(teacher: Run, tmp_path: Path) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "12", "--steps-per-save", "5")
    config = distil_config(tmp_path, *options)

    def fill(limit: int) -> None:
        writer.EVENT_WRITERS.clear()
        trainer = start(config)
        losses = trainer.pipeline.get_train_loss_dict

        def filled(step: int):
            if step == 8:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            return losses(step)

        trainer.pipeline.get_train_loss_dict = filled
        with pytest.raises(InputError, match=r"cannot be written: .*saved before is untouched: make room"):
            trainer.train()

    for limit in (0, 20000):  # the logs meet it first, and the checkpoint does
        assert in_a_process(partial(fill, limit)) == 0
        folder = config.get_base_dir()
        assert [path.name for path in config.get_checkpoint_dir().iterdir()] == ["step-000000005.ckpt"]
        assert not list(folder.glob(".*")) and weights_of(folder)
        shutil.rmtree(folder)


def test_a_place_that_cannot_be_written_is_said_before_anything_is_done(teacher: Run, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("precious")
    places = [tmp_path / "file" / "out", Path("/proc/out")]
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        places.append(tmp_path / "closed" / "out")
    for place in places:
        with pytest.raises(InputError, match=r"cannot be written to .*Choose another --output-dir"):
            start(distil_config(place, "--teacher-checkpoint", str(teacher.folder)))
        assert "Occupancy grid" not in capsys.readouterr().out
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("ends_program", [True, False])
def test_ctrl_c_before_the_first_step_leaves_nothing(
    teacher: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ends_program: bool,
) -> None:
    """Of a KeyboardInterrupt `ns-train` prints the traceback, and ends as if all were well."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    config = distil_config(tmp_path, "--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "8")
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.ends_program = ends_program
    trainer.setup()
    monkeypatch.setattr("pvd_nerfstudio.pipeline.pipeline.load_teacher", interrupted)
    with pytest.raises(SystemExit if ends_program else KeyboardInterrupt) as ended:
        trainer.train()
    if ends_program:
        assert isinstance(ended.value, SystemExit) and ended.value.code == 130
        assert "nothing was saved" in capsys.readouterr().out
    assert not trainer.base_dir.exists()
