"""Finds a trained nerfstudio run on disk and reads its weights without running what the file asks for."""

import hashlib
import os
import re
from collections import OrderedDict
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from nerfstudio.engine.trainer import TrainerConfig
from torch import Tensor

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.text import plain, say, stays_inside
from pvd_nerfstudio.teacher.archive import StoredTensor, loaded, read_checkpoint
from pvd_nerfstudio.teacher.safe_yaml import load_config
from pvd_nerfstudio.teacher.splat import (
    SplatTeacherConfig,
    as_splat,
    config_of_file,
    state_of_file,
    state_of_splatfacto,
)
from pvd_nerfstudio.teacher.splat_file import read_gaussians

_CHECKPOINT_NAME = re.compile(r"step-(\d{1,15})\.ckpt")
_FOUR_KINDS = (
    "Give a run's config.yml, the run folder, its nerfstudio_models folder, one step-*.ckpt file or a splat's .ply."
)
SPLAT = ".ply"
"""End of the names of files that hold a splat and nothing else."""
_NAMES_SHOWN = 3
_SEARCH_DEPTH = 4
MOST_STEPS = 1 << 40


@dataclass(frozen=True)
class TeacherRun:
    """A trained run on disk, found and read but not built."""

    config_path: Path
    """the run's config.yml, absolute; of a splat's file that file itself"""
    checkpoint_path: Path
    """the step-*.ckpt file, absolute, or the splat's file"""
    step: int
    """the training step in the checkpoint's name"""
    config: TrainerConfig
    """what config.yml says; its paths are relative to where the run was trained and may no longer exist"""
    gaussians: dict[str, Tensor] | None = field(default=None, repr=False, compare=False)
    """what a splat's file holds; None for a run"""


def find_run(path: Path) -> TeacherRun:
    """Finds config.yml and the checkpoint of a run, wherever the run has been moved to.

    Args:
        path: A run's config.yml, the run folder, its nerfstudio_models folder or one step-*.ckpt file. Without a
            .ckpt file the latest checkpoint is taken. Or a .ply of Gaussians.

    Returns:
        The run, with absolute paths and the config read.

    Raises:
        InputError: There is no such path, no config.yml or no checkpoint, or config.yml cannot be used.
    """
    path = Path(os.path.abspath(path.expanduser()))
    if not path.exists():
        raise InputError(f"{path} does not exist. {_FOUR_KINDS}")
    if path.suffix.lower() == SPLAT and not path.is_dir():
        gaussians = read_gaussians(path)
        return TeacherRun(path, path, 0, config_of_file(path, gaussians), gaussians)
    if path.is_dir():
        config_path = _config_of_folder(path)
        config = load_config(config_path)
        folder = checkpoint_folder(config_path, config) if config_path.parent == path else path
        checkpoint_path = latest_checkpoint(folder)
    elif path.suffix in (".yml", ".yaml"):
        config_path = path
        config = load_config(config_path)
        checkpoint_path = latest_checkpoint(checkpoint_folder(config_path, config))
    elif _CHECKPOINT_NAME.fullmatch(path.name):
        config_path = _config_of_checkpoint(path)
        config = load_config(config_path)
        checkpoint_path = path
    else:
        raise InputError(f"{path} is neither a config.yml nor a step-*.ckpt file. {_FOUR_KINDS}")
    config.pipeline.model = as_splat(config.pipeline.model)
    return TeacherRun(config_path, checkpoint_path, _step(checkpoint_path), config)


def checkpoint_of_step(place: Path, step: int | None) -> Path:
    """The checkpoint of a step, where one of its run is; None: this one or, in a folder, the latest.

    Raises:
        InputError: there is none.
    """
    if place.is_dir():
        inner = place / "nerfstudio_models"
        place = latest_checkpoint(inner if inner.is_dir() else place)
    if step is None:
        return place
    folder = place.parent
    for path in checkpoints_in(folder):
        if _step(path) == step:
            return path
    there = ", ".join(str(_step(path)) for path in checkpoints_in(folder))
    raise InputError(f"{folder} has no checkpoint of step {step} (--load-step); it has {there}.")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads all of a checkpoint that our trainer wrote, on the CPU.

    Raises:
        InputError: it is no such file, or holds NaN or infinite weights.
    """
    checkpoint = loaded(read_checkpoint(path))
    parts = {"step": int, "pipeline": dict, "optimizers": dict, "scalers": dict}
    for name, kind in parts.items():
        if not isinstance(checkpoint, dict) or type(checkpoint.get(name)) not in (kind, OrderedDict):
            raise InputError(f"{plain(path)} is no checkpoint that training could go on from: '{name}' is missing.")
    if not 0 <= checkpoint["step"] < MOST_STEPS:
        raise InputError(f"{plain(path)} is from step {checkpoint['step']}, which no training reaches.")
    _check_finite(checkpoint["pipeline"], path)
    return checkpoint


def load_state(run: TeacherRun) -> dict[str, Tensor]:
    """Reads the weights of the run's model, on the CPU.

    Returns:
        The model's state dict: the pipeline's `_model.` entries without that prefix and without LPIPS weights. All
        are tensors but what modules save as their `_extra_state`.

    Raises:
        InputError: The file is cut short, asks to execute something, is no checkpoint of a nerfstudio pipeline, or
            holds NaN or infinite weights.
    """
    path, state = run.checkpoint_path, loaded(stored_state(run))
    _check_finite(state, path)
    return state


def digest(state: dict[str, Any]) -> str:
    """What tells the weights of one model from all others'."""
    total = hashlib.sha256()
    for name in sorted(name for name, value in state.items() if isinstance(value, Tensor)):
        total.update(name.encode("utf8"))
        total.update(state[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def load_weight(run: TeacherRun, name: str) -> Tensor | None:
    """One of the weights of the run's model; None where there is none of that name.

    Raises:
        InputError: as stored_state does.
    """
    value = stored_state(run).get(name)
    return value.load() if isinstance(value, StoredTensor) else value if isinstance(value, Tensor) else None


def weights_megabytes(run: TeacherRun) -> float:
    """MB of the run's weights on disk, without the optimiser's state.

    Raises:
        InputError: as load_state does.
    """
    file = BytesIO()
    torch.save(load_state(run), file)
    return file.tell() / 1e6


def _config_of_folder(folder: Path) -> Path:
    for config_path in (folder / "config.yml", folder.parent / "config.yml"):
        if config_path.exists() or config_path.is_symlink():
            return _no_link(config_path)
    patterns = ["*/" * depth + "config.yml" for depth in range(1, _SEARCH_DEPTH)]
    below = sorted(str(found) for pattern in patterns for found in folder.glob(pattern))
    hint = f"There are runs below it, for example {_first(below)}." if below else _FOUR_KINDS
    raise InputError(f"{folder} is no run folder: there is no config.yml in it. {hint}")


def _config_of_checkpoint(checkpoint_path: Path) -> Path:
    folder = checkpoint_path.parent
    for config_path in (folder.parent / "config.yml", folder / "config.yml"):
        if config_path.exists() or config_path.is_symlink():
            return _no_link(config_path)
    raise InputError(
        f"{checkpoint_path} has no config.yml beside its folder: {folder.parent / 'config.yml'} does not exist. "
        "Weights alone do not say which model they are for: copy the run's config.yml there."
    )


def checkpoint_folder(config_path: Path, config: TrainerConfig) -> Path:
    """Where a run's checkpoints are: never through its output_dir, for it may have been moved.

    Raises:
        InputError: nowhere.
    """
    said = Path(config.relative_model_dir)
    names = [said, Path("nerfstudio_models")] if stays_inside(said) else [Path("nerfstudio_models")]
    folders = [config_path.parent / name for name in names]
    for folder in folders:
        if folder.is_dir():
            return _no_link(folder)
    if checkpoints_in(config_path.parent):  # as people upload them
        return config_path.parent
    raise InputError(
        f"{config_path} has no checkpoints: neither the folder {folders[0]} nor a step-*.ckpt file beside it exists. "
        "Copy them there, or give a run that was trained until its first save (--steps-per-save)."
    )


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder, in the order of their steps."""
    named = (path for path in folder.glob("step-*.ckpt") if _CHECKPOINT_NAME.fullmatch(path.name))
    return sorted(named, key=_step)


def latest_checkpoint(folder: Path) -> Path:
    """The checkpoint of the most steps in a folder.

    Raises:
        InputError: there is none.
    """
    found = checkpoints_in(folder)
    if not found:
        raise InputError(
            f"{folder} holds no step-*.ckpt file. Give a run that was trained until its first save (--steps-per-save)."
        )
    if len(found) > 1:
        say(
            f"{len(found)} checkpoints in {folder}: the latest, step {_step(found[-1])}, is used; "
            "give the .ckpt file to choose another"
        )
    return _no_link(found[-1])


def _step(checkpoint_path: Path) -> int:
    return int(checkpoint_path.stem.removeprefix("step-"))


def _check_finite(state: dict[str, Any], path: Path) -> None:
    weights = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    broken = [key for key, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise InputError(
            f"{plain(path)}: NaN or infinite values in the weights: {_first(broken)}. The training diverged: use an "
            "earlier checkpoint, or train again."
        )


def stored_state(run: TeacherRun) -> dict[str, Any]:
    """The state dict of the run's model, its tensors not read yet: their shapes are known.

    Raises:
        InputError: as load_state does, but for the weights' values.
    """
    path = run.checkpoint_path
    if run.gaussians is not None:
        return state_of_file(run.gaussians)
    checkpoint = read_checkpoint(path)
    pipeline = checkpoint.get("pipeline") if isinstance(checkpoint, dict) else None
    if not isinstance(pipeline, dict):
        raise InputError(f"{path} has no 'pipeline': not a checkpoint of a nerfstudio pipeline. {_FOUR_KINDS}")
    state = _model_state(pipeline)
    if not state:
        raise InputError(f"{path} has no '_model.' weights: not a checkpoint of a nerfstudio pipeline. {_FOUR_KINDS}")
    strange = [
        key for key, value in state.items() if not isinstance(value, StoredTensor) and not key.endswith("_extra_state")
    ]
    if strange:
        raise InputError(f"{path} holds something other than tensors in the teacher's weights: {_first(strange)}.")
    model = run.config.pipeline.model
    return state_of_splatfacto(loaded(state), model, path) if isinstance(model, SplatTeacherConfig) else state


def _model_state(pipeline: dict[str, Any]) -> dict[str, Any]:
    state = {}
    for key, value in pipeline.items():
        inner = str(key).removeprefix("module.")
        name = inner.removeprefix("_model.").removeprefix("module.")
        if inner.startswith("_model.") and not name.startswith("lpips."):
            state[name] = value
    return state


def _no_link(found: Path) -> Path:
    """What was found in a run, and not typed by the user, belongs to the run."""
    if found.is_symlink():
        raise InputError(f"{plain(found)} is a link, which is not followed in a run. Put the file itself there.")
    return found


def _first(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(map(plain, names[:_NAMES_SHOWN])) + (f" and {more} more" if more > 0 else "")
