"""What many tests do with a trainer."""

import signal
from pathlib import Path

import torch

from pvd_nerfstudio.trainer import PVDTrainer


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
    trainer.train()


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    path = sorted((run / "nerfstudio_models").glob("*.ckpt"))[-1]
    return torch.load(path, map_location="cpu", weights_only=True)["pipeline"]
