"""What many tests do with a trainer."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import distil_config
from nerfstudio.utils.eval_utils import eval_setup

from pvd_nerfstudio.data.poses import Found
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.trainer import PVDTrainer
from pvd_nerfstudio.trainer_config import PVDTrainerConfig

OLD_RUNS = Path(__file__).parent / "runs"
"""Runs of the last release, one of each student, of a teacher of the tests' scene."""


def open_old_run(name: str, scene: Path) -> tuple[PVDTrainerConfig, Any, int]:
    """One of them with nerfstudio's loader: configuration, pipeline and step."""

    def here(config: Any) -> Any:
        config.pipeline.datamanager.data = scene
        config.get_checkpoint_dir = lambda: OLD_RUNS / name / "nerfstudio_models"
        return config

    config, pipeline, _, step = eval_setup(
        OLD_RUNS / name / "config.yml", test_mode="test", update_config_callback=here
    )
    return config, pipeline, step


def start(config) -> PVDTrainer:
    """A trainer whose training can go on, seeded as ns-train does it."""
    torch.manual_seed(config.machine.seed)
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.begin()
    return trainer


def stop_after(trainer: PVDTrainer, last: int) -> None:
    """Ctrl-C in the middle of the step `last`, which waits for its end."""
    losses = trainer.pipeline.get_train_loss_dict

    def interrupted(step: int):
        if step == last:
            signal.raise_signal(signal.SIGINT)
        return losses(step)

    trainer.pipeline.get_train_loss_dict = interrupted
    with pytest.raises(SystemExit) as ended:
        trainer.train()
    assert ended.value.code == 128 + signal.SIGINT


def change_state(run: Path, change: Any) -> None:
    """Change the weights of a run on disk."""
    path = find_run(run).checkpoint_path
    saved = torch.load(path, weights_only=False)
    change(saved["pipeline"])
    torch.save(saved, path)


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    path = sorted((run / "nerfstudio_models").glob("*.ckpt"))[-1]
    return torch.load(path, map_location="cpu", weights_only=True)["pipeline"]


def in_words(found: Found) -> tuple[Any, str | None]:
    """What a data set can be read with, and what was wrong."""
    return found.dataparser, found.problem


def refused(output: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """Run the command as far as it goes; it must stop with a message and write nothing."""
    with pytest.raises((InputError, SystemExit)) as stopped:  # tyro ends the program itself
        start(distil_config(output, *options))
    assert not output.exists(), "nothing is written when the command stops"
    printed = capsys.readouterr()
    return " ".join((printed.out + printed.err + str(stopped.value)).split())
