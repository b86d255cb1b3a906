"""Muon, AdamW, their schedule; and optimisers to which the hand-over adds, of which a checkpoint may know more."""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import cos, pi, sqrt
from typing import Any

import torch
from nerfstudio.engine.optimizers import AdamOptimizerConfig, OptimizerConfig, Optimizers
from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.ranges import COUNT, Range, above, at_least
from pvd_nerfstudio.input.saved import check_like
from pvd_nerfstudio.input.text import plain
from pvd_nerfstudio.training.muon import Muon


@dataclass
class AdamWOptimizerConfig(AdamOptimizerConfig):
    """AdamW as the papers set it."""

    ranges = {
        "lr": at_least(0),
        "eps": above(0),
        "betas": Range(0, 1 - 1e-9),
        "max_norm": above(0),
        "weight_decay": at_least(0),
    }

    _target: type = torch.optim.AdamW
    lr: float = 0.0
    """The learning rate."""
    eps: float = 1e-15
    """The epsilon value to use."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of the running means of gradient and squared gradient."""
    fused: bool = True
    """Update all weights in one kernel, on either device."""


@dataclass
class MuonOptimizerConfig(OptimizerConfig):
    """Muon (Jordan et al., 2024): each step of a matrix is its momentum with all singular values made one.

    For the matrices of networks alone; of a table most rows are unseen in a step, and would be moved as far as the
    others.
    """

    ranges = {
        "lr": at_least(0),
        "eps": above(0),
        "momentum": Range(0, 1 - 1e-9),
        "max_norm": above(0),
        "weight_decay": at_least(0),
    }

    _target: type = Muon
    lr: float = 0.0
    """The learning rate."""
    eps: float = 1e-7
    """The epsilon value to use."""
    momentum: float = 0.95
    """Decay of the running mean of the gradient."""
    nesterov: bool = True
    """Look ahead along the momentum."""
    weight_decay: float = 0.0
    """Decay of the weights in each step."""


@dataclass
class FallingSchedulerConfig(SchedulerConfig):
    """What the schedules have in common: a warm start, and `lr_final` at the end of the run."""

    ranges = {"lr_final": at_least(0), "warmup_steps": at_least(0), "max_steps": at_least(0)}

    lr_final: float = 7e-5
    """The learning rate at the end."""
    warmup_steps: int = 100
    """Steps of linear growth at the start."""
    max_steps: int = 0
    """Length of the run."""


@dataclass
class RootSchedulerConfig(FallingSchedulerConfig):
    """Falls with the root of the steps (Zhai et al., 2022), and linearly towards the end of the run.

    So a run is about as good at any moment as a shorter one would be in its end.
    """

    ranges = {"flat_steps": COUNT}

    _target: type = field(default_factory=lambda: RootScheduler)
    flat_steps: int = 500
    """Steps after which it falls with their root: four times as many halve it."""


@dataclass
class CosineSchedulerConfig(FallingSchedulerConfig):
    """Cosine from the learning rate to `lr_final` at the end of the run: the last release's."""

    _target: type = field(default_factory=lambda: CosineScheduler)


class FallingScheduler(Scheduler):
    """A function of the step alone; no number of it is numpy's, which nerfstudio's loaders refuse."""

    config: Any

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LambdaLR:
        """The schedule."""
        config = self.config
        floor = min(1.0, config.lr_final / lr_init)

        def factor(step: int) -> float:
            warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
            return warm * self.share(step, min(1.0, step / max(1, config.max_steps)), floor)

        return LambdaLR(optimizer, lr_lambda=factor)

    @abstractmethod
    def share(self, step: int, progress: float, floor: float) -> float:
        """What the learning rate is multiplied with: from 1 down to `floor`, where the progress is 1."""


class RootScheduler(FallingScheduler):
    """See its configuration."""

    def share(self, step: int, progress: float, floor: float) -> float:
        return max((1 - progress) * min(1.0, sqrt(self.config.flat_steps / max(1, step))), floor)


class CosineScheduler(FallingScheduler):
    """See its configuration."""

    def share(self, step: int, progress: float, floor: float) -> float:
        return floor + (1 - floor) * (1 + cos(pi * progress)) / 2


def check_optimizers(optimizers: dict[str, Any], groups: Iterable[str], where: str) -> None:
    """Refuse from a file what is not an optimiser and a schedule for each group.

    Runs of the first release learn their matrices as all the rest, in the group `fields`.

    Args:
        optimizers: a trainer's, of which its annotation says no more than `Dict[str, Any]`.
        groups: those that must be there.
        where: the file, for the message.

    Raises:
        InputError: says which group.
    """
    for name in sorted({"projection", *groups, *optimizers}):
        group = optimizers.get(name)
        parts = (group.get("optimizer"), group.get("scheduler")) if isinstance(group, dict) else (None, None)
        kind = MuonOptimizerConfig if name == "matrices" else AdamWOptimizerConfig
        if not isinstance(parts[0], kind) or not isinstance(parts[1], FallingSchedulerConfig):
            raise InputError(f"{where}: 'optimizers.{plain(name)}' is not what pvd-distill saves.")


class GrowingOptimizers(Optimizers):
    """nerfstudio's optimisers. What a checkpoint says of a group that is not here yet waits for it."""

    def __init__(self, config: dict[str, Any], param_groups: dict[str, list[Parameter]]) -> None:
        super().__init__(config, param_groups)
        self._saved: dict[tuple[str, str], Any] = {}

    def add(self, name: str, parameters: list[Parameter]) -> None:
        """Learn these parameters too."""
        added = Optimizers(self.config, {name: parameters})
        for kind in ("parameters", "optimizers", "schedulers"):
            getattr(self, kind).update(getattr(added, kind))
        for kind in ("optimizers", "schedulers"):
            if (kind, name) in self._saved:
                self._load(kind, {name: self._saved.pop((kind, name))})

    def replace(self, name: str, parameters: list[Parameter]) -> None:
        """Learn these in place of the group's; what was known of those is forgotten."""
        optimizer = self.optimizers[name]
        optimizer.state.clear()
        optimizer.param_groups[0]["params"] = parameters
        self.parameters[name] = parameters

    def scale_rate(self, name: str, factor: float) -> None:
        """Multiply a group's learning rate, also for a run that goes on with this one."""
        self.config[name]["optimizer"].lr *= factor
        self.config[name]["scheduler"].lr_final *= factor
        self.schedulers[name].base_lrs = [factor * rate for rate in self.schedulers[name].base_lrs]
        for group in self.optimizers[name].param_groups:
            group["lr"], group["initial_lr"] = factor * group["lr"], factor * group["initial_lr"]

    def drop(self, name: str) -> None:
        """Learn a group of parameters no longer."""
        for kept in (self.optimizers, self.schedulers, self.parameters):
            kept.pop(name, None)

    def without_state(self) -> "GrowingOptimizers":
        """What a checkpoint of a finished run says of them: where the schedules are."""
        bare = GrowingOptimizers(self.config, {})
        bare.schedulers = self.schedulers
        return bare

    def load_optimizers(self, loaded_state: dict[str, Any]) -> None:
        """Take over what a checkpoint says of the optimisers.

        Raises:
            ValueError: it is of other ones.
        """
        self._load("optimizers", self._present("optimizers", loaded_state))

    def load_schedulers(self, loaded_state: dict[str, Any]) -> None:
        """Take over what a checkpoint says of the schedules.

        Raises:
            ValueError: it is of other ones.
        """
        self._load("schedulers", self._present("schedulers", loaded_state))

    def _load(self, kind: str, states: dict[str, Any]) -> None:
        for name, state in states.items():
            present = getattr(self, kind)[name]
            own = present.state_dict()
            if kind == "optimizers":
                check_like(state["param_groups"], own["param_groups"], "param_groups.")
                parameters = [value for group in present.param_groups for value in group["params"]]
                for number, moments in state["state"].items():
                    _check_moments(moments, parameters[number])
            else:
                check_like(state, own)
            present.load_state_dict(state)

    def _present(self, kind: str, loaded_state: dict[str, Any]) -> dict[str, Any]:
        self._saved |= {(kind, name): state for name, state in loaded_state.items() if name not in self.optimizers}
        return {name: state for name, state in loaded_state.items() if name in self.optimizers}


def _check_moments(moments: dict[str, Any], parameter: Parameter) -> None:
    """What an optimiser knows of a parameter: numbers, and tensors of its shape."""
    for name, value in moments.items():
        is_number = isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.dim() == 0)
        if not is_number and not (isinstance(value, Tensor) and value.shape == parameter.shape):
            raise ValueError(f"{name} is not of the shape of its parameter")
