"""Builds a teacher's model from what its config.yml says, no larger than the weights that it is for."""

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum
from math import prod
from typing import Any
from unittest import mock

import torch
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.field_components import encodings, mlp
from nerfstudio.models.base_model import Model
from nerfstudio.utils.external import TCNN_EXISTS
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.containment import contained
from pvd_nerfstudio.input.ranges import check_ranges
from pvd_nerfstudio.input.text import plain
from pvd_nerfstudio.teacher.checkpoint import TeacherRun

LARGEST_NUMBER = 10_000_000
"""Of whole numbers in a model's configuration, which are sizes and counts."""
LONGEST_LIST = 10_000
SPARE = 1 << 24
"""Numbers that a model may take beyond twice its weights."""
STEPS, STEPS_A_TENSOR = 20_000, 500
"""Operations of torch by which a model may be built, and more for each of its tensors."""
SAFE_FACTOR = 1 << 10
"""By how much an operation's result may be larger than its input without being looked at."""
COUNTING = ("aten::arange", "aten::linspace", "aten::logspace", "aten::eye", "aten::randperm")
"""Operations that are given a number of results."""


def method_of(run: TeacherRun) -> str:
    """The method that trained a run, for messages."""
    return f"the method '{plain(run.config.method_name)}'"


@contextmanager
def building(run: TeacherRun, state: dict[str, Any]) -> Iterator[None]:
    """Around all that a model's code does before it is frozen: it only computes, and not beyond its weights.

    Raises:
        InputError: it tries more, fails, or the configuration describes a larger model than the weights are of.
    """
    weights = [value for value in state.values() if isinstance(value, Tensor)]
    limit = 2 * sum(value.numel() for value in weights) + SPARE
    check_sizes(run.config.pipeline.model, run)
    check_ranges(run.config.pipeline.model, str(run.config_path), "pipeline.model.")
    with contained(f"The model of {method_of(run)}"), _Bounded(limit, STEPS + STEPS_A_TENSOR * len(weights), run):
        yield


def build(config: Any, num_train_data: int, box: SceneBox, device: torch.device | str, run: TeacherRun) -> Model:
    """The model of a configuration, its weights not loaded yet.

    Raises:
        InputError: it cannot be built.
    """
    try:
        return config.setup(scene_box=box, num_train_data=num_train_data, metadata={}, device=device, grad_scaler=None)
    except InputError:
        raise
    except Exception as error:  # a model of a plugin may fail in any way
        raise InputError(
            f"The model of {method_of(run)} could not be built from {run.config_path} "
            f"({type(error).__name__}: {plain(error)})."
        ) from error


def check_sizes(config: Any, run: TeacherRun, name: str = "model") -> None:
    """Refuse numbers and lists that no model has.

    Raises:
        InputError: one is beyond measure.
    """
    if isinstance(config, int) and not isinstance(config, (bool, Enum)) and abs(config) > LARGEST_NUMBER:
        raise InputError(f"{run.config_path}: '{plain(name)}' is larger than any model's.")
    inner: dict[Any, Any] = {}
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        inner = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
    elif isinstance(config, (list, tuple)):
        inner = dict(enumerate(config))
    elif isinstance(config, dict):
        inner = config
    if len(inner) > LONGEST_LIST:
        raise InputError(f"{run.config_path}: '{plain(name)}' is longer than any model's.")
    for key, value in inner.items():
        check_sizes(value, run, f"{name}.{key}")


class _Bounded(TorchDispatchMode):
    """Refuses operations whose result would be larger than a limit, before they take the memory."""

    def __init__(self, limit: int, steps: int, run: TeacherRun) -> None:
        super().__init__()
        self._limit, self._left, self._run = limit, steps, run

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._left -= 1
        if self._left < 0 or (not func.is_view and not func._schema.is_mutable and self._is_large(func, args, kwargs)):
            raise InputError(
                f"{self._run.config_path} describes a larger model than the weights in {self._run.checkpoint_path} "
                "are of. Was config.yml edited, or the checkpoint copied from another run?"
            )
        return func(*args, **kwargs)

    def _is_large(self, func: Any, args: Any, kwargs: Any) -> bool:
        """Whether the result would be; torch tells without making it where the sizes alone decide."""
        named = [value for value in (*args, *kwargs.values()) if isinstance(value, (list, tuple, torch.Size))]
        sizes = [value for value in named if value and all(isinstance(side, int) for side in value)]
        if any(prod(size) > self._limit for size in sizes):
            return True
        counts = args if func._schema.name in COUNTING else ()
        if any(isinstance(value, (int, float)) and value > self._limit for value in counts):
            return True
        total = sum(value.numel() for value in _tensors((args, kwargs)))
        if total <= self._limit // SAFE_FACTOR and func._schema.name != "aten::repeat":
            return False
        try:
            outputs = func(*tree_map(_shape_of, args), **tree_map(_shape_of, kwargs | _on_meta(kwargs)))
        except Exception:  # what depends on values has no more of them than its input
            return False
        return any(value.numel() > self._limit for value in _tensors(outputs))


def _tensors(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map(lambda value: found.append(value) if isinstance(value, Tensor) else None, tree)
    return found


def _shape_of(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def _on_meta(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"device": torch.device("meta")} if "device" in kwargs else {}


@contextmanager
def implementation_of(config: Any, state: dict[str, Any], run: TeacherRun) -> Iterator[None]:
    """Build the model with what its weights were made by: nerfstudio falls back to torch without saving so.

    Raises:
        InputError: that is tiny-cuda-nn, which is not installed.
    """
    by_tcnn, has_option = any(key.endswith(".params") for key in state), hasattr(config, "implementation")
    if by_tcnn and not TCNN_EXISTS:
        again = "with --pipeline.model.implementation torch" if has_option else "where tiny-cuda-nn is not installed"
        raise InputError(
            f"{run.checkpoint_path} was trained with tiny-cuda-nn, which is not installed here, and torch cannot read "
            f"its tables. Install tiny-cuda-nn (it needs a CUDA GPU), or train the teacher again {again}."
        )
    if by_tcnn:
        yield
        return
    if has_option:
        config.implementation = "torch"
    with ExitStack() as stack:
        for module in (encodings, mlp):
            stack.enter_context(mock.patch.object(module, "TCNN_EXISTS", False))
            stack.enter_context(mock.patch.object(module, "print_tcnn_speed_warning", lambda name: None))
        yield


@contextmanager
def no_lpips() -> Iterator[None]:
    """Stock models can be built without LPIPS, whose AlexNet would be downloaded; the metric is absent then."""
    from torchmetrics import Metric  # noqa: PLC0415
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity  # noqa: PLC0415

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        Metric.__init__(self)

    with mock.patch.object(LearnedPerceptualImagePatchSimilarity, "__init__", init):
        yield
