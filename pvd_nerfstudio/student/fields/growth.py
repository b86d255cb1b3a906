"""Fields that change their size while they learn: coarse first, fine later.

The size is a function of the run's progress; what the optimiser remembers grows with the parameters.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer


@dataclass
class Moment:
    """A moment of the training, as a growing part sees it."""

    progress: float
    """Share of the run that is over, in [0, 1)."""
    occupied: Callable[[Float[Tensor, "points 3"]], Bool[Tensor, "points"]]
    """Whether points of the unit cube lie in occupied space."""
    cells: int = 1
    """Cells of the occupancy grid along each side of the unit cube: what is smaller than one looks the same."""
    optimizer: Optimizer | None = None
    """Who learns; None before there is one."""
    teacher: Callable[[Float[Tensor, "points 3"]], tuple[Tensor, Tensor]] | None = None
    """Log-density `[points, 1]` and colour `[points, 3]` of the teacher at points of the unit cube, as cameras see
    them; None where there is no teacher, or one that answers with pixels alone."""
    carried: Callable[[int], Float[Tensor, "x y z"]] | None = None
    """Largest compositing weight in each cell of a grid over the unit cube, by its cells along each side, on rays that
    are learned from; None before there are any."""

    def resize(self, module: nn.Module, name: str, change: Callable[[Tensor], Tensor]) -> None:
        """Change a parameter and, in the same way, the running means that the optimiser keeps of it.

        Autograd remembers the shape that a parameter had, so another one takes its place, with the optimiser too.

        Args:
            module: whose parameter it is.
            name: of the parameter.
            change: a linear map of tensors of its shape to tensors of the new one.
        """
        old = getattr(module, name)
        new = Parameter(change(old.data))
        setattr(module, name, new)
        if self.optimizer is None:
            return
        for group in self.optimizer.param_groups:
            group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
        memory = self.optimizer.state.pop(old, None)
        if memory is not None:
            self.optimizer.state[new] = {
                key: change(value) if value.shape == old.shape else value for key, value in memory.items()
            }

    def forget(self, parameter: Parameter, channels: Sequence[int]) -> None:
        """Let the optimiser forget what it knows of some channels (the last dimension), which were set anew."""
        memory = {} if self.optimizer is None else self.optimizer.state.get(parameter, {})
        for value in memory.values():
            if value.shape == parameter.shape:
                value[..., list(channels)] = 0.0


class Growing(nn.Module):
    """A part of a field whose size follows the run's progress. It loads whatever size was saved."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.register_load_state_dict_pre_hook(_take_saved_sizes)

    @abstractmethod
    def grow(self, now: Moment) -> bool:
        """Take the size that is right at this moment; returns whether anything changed."""

    def pack(self) -> None:
        """Training is over: round what takes much room on disk to what is worth it."""


def pack(module: nn.Module) -> None:
    """Let all growing parts of a module pack."""
    for part in module.modules():
        if isinstance(part, Growing):
            part.pack()


def grow(module: nn.Module, now: Moment) -> bool:
    """Let all growing parts of a module grow; returns whether anything changed."""
    return any([part.grow(now) for part in module.modules() if isinstance(part, Growing)])


def _take_saved_sizes(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Make room for what a checkpoint holds; the last dimension, the channels, is no matter of growth."""
    assert isinstance(module, Growing)
    for name, parameter in module.named_parameters(recurse=False):
        saved = state_dict.get(prefix + name)
        if saved is not None and saved.dim() == parameter.dim() and saved.shape[-1] == parameter.shape[-1]:
            parameter.data = parameter.new_empty(saved.shape)
