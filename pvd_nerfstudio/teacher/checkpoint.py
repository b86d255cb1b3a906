"""Finds a trained nerfstudio run on disk and reads its weights without running what the file asks for."""

import os
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.teacher.safe_yaml import load_config

_CHECKPOINT_NAME = re.compile(r"step-(\d+)\.ckpt")
_FOUR_KINDS = "Give a run's config.yml, the run folder, its nerfstudio_models folder or one step-*.ckpt file."
_NAMES_SHOWN = 3
_SEARCH_DEPTH = 4


@dataclass(frozen=True)
class TeacherRun:
    """A trained run on disk, found and read but not built."""

    config_path: Path
    """the run's config.yml, absolute"""
    checkpoint_path: Path
    """the step-*.ckpt file, absolute"""
    step: int
    """the training step in the checkpoint's name"""
    config: TrainerConfig
    """what config.yml says; its paths are relative to where the run was trained and may no longer exist"""


def find_run(path: Path) -> TeacherRun:
    """Finds config.yml and the checkpoint of a run, wherever the run has been moved to.

    Args:
        path: A run's config.yml, the run folder, its nerfstudio_models folder or one step-*.ckpt file. Without a
            .ckpt file the latest checkpoint is taken.

    Returns:
        The run, with absolute paths and the config read.

    Raises:
        InputError: There is no such path, no config.yml or no checkpoint, or config.yml cannot be used.
    """
    path = Path(os.path.abspath(path.expanduser()))
    if not path.exists():
        raise InputError(f"{path} does not exist. {_FOUR_KINDS}")
    if path.is_dir():
        config_path = _config_of_folder(path)
        config = load_config(config_path)
        folder = _checkpoint_folder(config_path, config) if config_path.parent == path else path
        checkpoint_path = _latest_checkpoint(folder)
    elif path.suffix in (".yml", ".yaml"):
        config_path = path
        config = load_config(config_path)
        checkpoint_path = _latest_checkpoint(_checkpoint_folder(config_path, config))
    elif _CHECKPOINT_NAME.fullmatch(path.name):
        config_path = _config_of_checkpoint(path)
        config = load_config(config_path)
        checkpoint_path = path
    else:
        raise InputError(f"{path} is neither a config.yml nor a step-*.ckpt file. {_FOUR_KINDS}")
    return TeacherRun(config_path, checkpoint_path, _step(checkpoint_path), config)


def load_state(run: TeacherRun) -> dict[str, Tensor]:
    """Reads the weights of the run's model, on the CPU.

    Returns:
        The model's state dict: the pipeline's `_model.` entries without that prefix and without LPIPS weights. All
        are tensors but what modules save as their `_extra_state`.

    Raises:
        InputError: The file is cut short, asks to execute something, is no checkpoint of a nerfstudio pipeline, or
            holds NaN or infinite weights.
    """
    path = run.checkpoint_path
    checkpoint = _read(path)
    pipeline = checkpoint.get("pipeline") if isinstance(checkpoint, dict) else None
    if not isinstance(pipeline, dict):
        raise InputError(f"{path} has no 'pipeline': not a checkpoint of a nerfstudio pipeline. {_FOUR_KINDS}")
    state = _model_state(pipeline)
    if not state:
        raise InputError(f"{path} has no '_model.' weights: not a checkpoint of a nerfstudio pipeline. {_FOUR_KINDS}")
    plain = {key: value for key, value in state.items() if not key.endswith("_extra_state")}
    strange = [key for key, value in plain.items() if not isinstance(value, Tensor)]
    if strange:
        raise InputError(f"{path} holds something other than tensors in the teacher's weights: {_first(strange)}.")
    broken = [key for key, value in plain.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise InputError(
            f"{path}: NaN or infinite values in the teacher's weights: {_first(broken)}. The training diverged: use "
            "an earlier checkpoint or train the teacher again."
        )
    return state


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
        if config_path.is_file():
            return config_path
    patterns = ["*/" * depth + "config.yml" for depth in range(1, _SEARCH_DEPTH)]
    below = sorted(str(found) for pattern in patterns for found in folder.glob(pattern))
    hint = f"There are runs below it, for example {_first(below)}." if below else _FOUR_KINDS
    raise InputError(f"{folder} is no run folder: there is no config.yml in it. {hint}")


def _config_of_checkpoint(checkpoint_path: Path) -> Path:
    folder = checkpoint_path.parent
    for config_path in (folder.parent / "config.yml", folder / "config.yml"):
        if config_path.is_file():
            return config_path
    raise InputError(
        f"{checkpoint_path} has no config.yml beside its folder: {folder.parent / 'config.yml'} does not exist. "
        "Weights alone do not say which model they are for: copy the run's config.yml there."
    )


def _checkpoint_folder(config_path: Path, config: TrainerConfig) -> Path:
    """Never through the config's output_dir: the run may have been moved."""
    folders = [config_path.parent / str(config.relative_model_dir), config_path.parent / "nerfstudio_models"]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise InputError(
        f"{config_path} has no checkpoints: the folder {folders[0]} does not exist. Copy it there, or give a run that "
        "was trained until its first save (--steps-per-save)."
    )


def _latest_checkpoint(folder: Path) -> Path:
    found = sorted((path for path in folder.glob("step-*.ckpt") if _CHECKPOINT_NAME.fullmatch(path.name)), key=_step)
    if not found:
        raise InputError(
            f"{folder} holds no step-*.ckpt file. Give a run that was trained until its first save (--steps-per-save)."
        )
    if len(found) > 1:
        CONSOLE.print(
            f"{len(found)} checkpoints in {folder}: the latest, step {_step(found[-1])}, is used; "
            "give the .ckpt file to choose another",
            markup=False,
            soft_wrap=True,
        )
    return found[-1]


def _step(checkpoint_path: Path) -> int:
    return int(checkpoint_path.stem.removeprefix("step-"))


def _read(path: Path) -> Any:
    """torch.load, limited to tensors, plain containers and the numpy scalars that nerfstudio's schedulers save."""
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"asks for '{named[1]}'" if named else "holds more than weights, or is no checkpoint"
        raise InputError(
            f"{path}: refused: the file {what}; nothing was executed. Use a checkpoint that nerfstudio saved."
        ) from error
    except (EOFError, RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError) as error:
        raise InputError(
            f"{path} is empty or cut short, {path.stat().st_size} bytes; training was probably interrupted while "
            f"saving: use an earlier checkpoint. ({type(error).__name__}: {error})"
        ) from error


def _numpy_scalars() -> list[Any]:
    """What a pickled numpy number is made of, under the names that numpy 1 and numpy 2 write."""
    dtypes = [type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")]
    return [np.dtype, *dtypes, *map(_scalar_as_in, ("numpy.core.multiarray", "numpy._core.multiarray"))]


def _scalar_as_in(module: str) -> Callable[..., Any]:
    """numpy's scalar under another module's name; torch 2.6 looks up a global by what the function calls itself."""

    def scalar(dtype: np.dtype, data: Any) -> Any:
        return np.frombuffer(data, dtype)[0]

    scalar.__module__ = module
    scalar.__qualname__ = "scalar"
    return scalar


def _model_state(pipeline: dict[str, Any]) -> dict[str, Any]:
    state = {}
    for key, value in pipeline.items():
        inner = str(key).removeprefix("module.")
        name = inner.removeprefix("_model.").removeprefix("module.")
        if inner.startswith("_model.") and not name.startswith("lpips."):
            state[name] = value
    return state


def _first(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
