"""Optimisers to which the hand-over adds, and which a checkpoint may know more of than is here."""

from typing import Any

from nerfstudio.engine.optimizers import Optimizers
from torch.nn import Parameter


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
                getattr(self, kind)[name].load_state_dict(self._saved.pop((kind, name)))

    def drop(self, name: str) -> None:
        """Learn a group of parameters no longer."""
        for kept in (self.optimizers, self.schedulers, self.parameters):
            kept.pop(name, None)

    def load_optimizers(self, loaded_state: dict[str, Any]) -> None:
        super().load_optimizers(self._present("optimizers", loaded_state))

    def load_schedulers(self, loaded_state: dict[str, Any]) -> None:
        super().load_schedulers(self._present("schedulers", loaded_state))

    def _present(self, kind: str, loaded_state: dict[str, Any]) -> dict[str, Any]:
        self._saved |= {(kind, name): state for name, state in loaded_state.items() if name not in self.optimizers}
        return {name: state for name, state in loaded_state.items() if name in self.optimizers}
