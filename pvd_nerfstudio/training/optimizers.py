"""Optimisers to which the hand-over adds, and which a checkpoint may know more of than is here."""

from typing import Any

from nerfstudio.engine.optimizers import Optimizers
from torch import Tensor
from torch.nn import Parameter

from pvd_nerfstudio.input.saved import check_like


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

    def drop(self, name: str) -> None:
        """Learn a group of parameters no longer."""
        for kept in (self.optimizers, self.schedulers, self.parameters):
            kept.pop(name, None)

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
