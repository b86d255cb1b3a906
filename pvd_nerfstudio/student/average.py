"""The average of the last tenth of a student's steps: what it is seen by until its run is over.

While the learning rate is high, weights jump about what they are learning; their average does not (Izmailov et al.,
2018; the growing horizon is Shamir and Zhang's, 2013). A finished run has one set of weights.
"""

from typing import Any

import torch
from nerfstudio.models.base_model import Model
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from pvd_nerfstudio.student.fields.base import StudentField

EVERY = 10
"""Steps between two weights that are averaged."""
SHARE = 0.1
"""The horizon, as a share of the steps since the field has its size."""
AVERAGE = "average."
"""Before the names of the averages in a checkpoint."""


class Averaged(Model):
    """In evaluation the field has the average of its weights, in training the weights themselves."""

    field: StudentField
    average: AveragedModel | None

    def populate_modules(self) -> None:
        """nerfstudio's; there is no average yet."""
        super().populate_modules()
        self.average = None

    def update_average(self) -> None:
        """Take the present weights into the average."""
        if self.average is None:
            self._begin_average()
        assert self.average is not None
        self.average.update_parameters(self.field)

    def drop_average(self) -> None:
        """Begin anew: the field has another size, or will learn no more."""
        self.average = None

    def swap_average(self) -> None:
        """Exchange the weights and their average, without a copy."""
        assert self.average is not None
        for own, averaged in zip(self.field.parameters(), self.average.module.parameters()):
            own.data, averaged.data = averaged.data, own.data

    def train(self, mode: bool = True) -> Any:
        """torch's; on the way the weights change places with their average."""
        if self.average is not None and mode != self.training:
            self.swap_average()
        return super().train(mode)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load all or nothing: nerfstudio's second, lenient try would leave what does not fit at random."""
        was_training = self.training
        self.train()
        self.drop_average()
        if any(name.startswith(AVERAGE) for name in state_dict):
            self._begin_average()
        loaded = super().load_state_dict(state_dict, strict=True, assign=assign)
        self.train(was_training)
        return loaded

    def _begin_average(self) -> None:
        self.average = AveragedModel(self.field, multi_avg_fn=_follow).requires_grad_(False)


def _follow(averages: Any, weights: Any, updates: Tensor | int) -> None:
    horizon = 1 / SHARE
    torch._foreach_lerp_(averages, weights, horizon / (horizon + float(updates)))
