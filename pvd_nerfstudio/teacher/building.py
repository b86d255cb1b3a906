"""Builds a teacher's model from what its config.yml says, no larger than the weights that it is for."""

import dataclasses
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from enum import Enum
from typing import Any
from unittest import mock

import torch
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.field_components import encodings, mlp
from nerfstudio.models.base_model import Model

from pvd_nerfstudio import tiny_cuda_nn
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.bounded import Bounded, most_numbers
from pvd_nerfstudio.input.containment import contained
from pvd_nerfstudio.input.ranges import check_ranges
from pvd_nerfstudio.input.text import plain
from pvd_nerfstudio.teacher.checkpoint import TeacherRun

LARGEST_NUMBER = 10_000_000
"""Of whole numbers in a model's configuration, which are sizes and counts."""
LONGEST_LIST = 10_000
STEPS, STEPS_A_TENSOR = 20_000, 500
"""Operations of torch by which a model may be built, and more for each of its tensors."""


def method_of(run: TeacherRun) -> str:
    """The method that trained a run, for messages."""
    return f"the method '{plain(run.config.method_name)}'"


@contextmanager
def building(run: TeacherRun, state: dict[str, Any]) -> Iterator[None]:
    """Around all that a model's code does before it is frozen: it only computes, and not beyond its weights.

    Raises:
        InputError: it tries more, fails, or the configuration describes a larger model than the weights are of.
    """
    check_sizes(run.config.pipeline.model, run)
    check_ranges(run.config.pipeline.model, str(run.config_path), "pipeline.model.")
    bound = Bounded(most_numbers(state), STEPS + STEPS_A_TENSOR * len(state))
    with contained(f"The model of {method_of(run)}"), bound:
        yield


def build(
    config: Any,
    num_train_data: int,
    box: SceneBox,
    metadata: Mapping[str, Any],
    device: torch.device | str,
    run: TeacherRun,
) -> Model:
    """The model of a configuration, its weights not loaded yet.

    Args:
        config: of the model.
        num_train_data: how many images it was trained on.
        box: the scene's.
        metadata: what the dataparser says beside the views.
        device: where it is wanted.
        run: for messages.

    Raises:
        InputError: it cannot be built.
    """
    try:
        return config.setup(
            scene_box=box, num_train_data=num_train_data, metadata=metadata, device=device, grad_scaler=None
        )
    except InputError:
        raise
    except Exception as error:  # a model of a plugin may fail in any way
        raise InputError(
            f"The model of {method_of(run)} could not be built from {run.config_path} "
            f"({type(error).__name__}: {plain(error) or _line_of(error)})."
        ) from error


def _line_of(error: Exception) -> str:
    """What an error without a message stands for: its line of code."""
    return plain(traceback.extract_tb(error.__traceback__)[-1].line or "no message")


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


@contextmanager
def implementation_of(config: Any, state: dict[str, Any], device: torch.device | str) -> Iterator[None]:
    """Build the model with what its weights were made by: nerfstudio falls back to torch without saving so.

    tiny-cuda-nn is stood in for where it does not run.
    """
    by_tcnn = any(key.endswith(".params") for key in state)
    if hasattr(config, "implementation"):
        config.implementation = "tcnn" if by_tcnn else "torch"
    with ExitStack() as stack:
        if by_tcnn and not tiny_cuda_nn.runs_on(device):
            stack.enter_context(tiny_cuda_nn.standing_in())
        for module in () if by_tcnn else (encodings, mlp):
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
