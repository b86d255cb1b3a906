"""`pvd strip`: checkpoints of finished runs without the optimisers' state, which only training needs."""

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from pvd_nerfstudio.commands.report.command import find_conversion
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.text import say
from pvd_nerfstudio.teacher.checkpoint import checkpoints_in, load_checkpoint
from pvd_nerfstudio.training.folder import RunFolder


@dataclass
class Strip:
    """Make the checkpoints of conversions smaller: they lose the optimisers' state. Nothing else changes."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Runs of pvd-distill: folders, config.yml files, or single step-*.ckpt files."""
    unfinished: bool = False
    """Also runs that ended before their last step: going on with them starts the optimisers afresh."""

    def run(self) -> None:
        """All are looked at before the first is changed."""
        if not self.runs:
            raise InputError("Which runs? Name their folders: pvd strip outputs/lego/pvd-distill/DATE")
        chosen = []
        for place in self.runs:
            run, config = find_conversion(place)
            single = place.expanduser().suffix == ".ckpt"
            for path in [run.checkpoint_path] if single else checkpoints_in(run.checkpoint_path.parent):
                done = load_checkpoint(path)["step"] + 1
                if done < config.pipeline.steps and not self.unfinished:
                    raise InputError(
                        f"{path} has {done:,} of {config.pipeline.steps:,} steps: without its optimisers' state it "
                        "cannot be gone on with as if it had not stopped. Strip it all the same with --unfinished."
                    )
                chosen.append((run.config_path.parent, path))
        for folder, path in chosen:
            strip(folder, path)


def strip(folder: Path, path: Path) -> None:
    """Write a checkpoint again without its optimisers' state; the old one stays until the new one is whole.

    Args:
        folder: of its run.
        path: of the checkpoint.

    Raises:
        InputError: another process is writing there, or the disk is full.
    """
    before, owner = path.stat().st_size, RunFolder(folder, path.parent)
    owner.claim(resumes=True)
    try:
        checkpoint = load_checkpoint(path) | {"optimizers": {}}
        owner.write(path, lambda unfinished: torch.save(checkpoint, unfinished))
    finally:
        owner.release()
    say(f"{path}: {before / 1e6:,.2f} MB, now {path.stat().st_size / 1e6:,.2f} MB")
