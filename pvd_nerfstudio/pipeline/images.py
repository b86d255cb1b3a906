"""Images from a camera, of which some cost more than most people want to pay."""

from collections.abc import Callable, Collection

import torch
from torch import Tensor


class Images(dict[str, Tensor]):
    """Images by name, each `[height, width, channels]`; those on request are made when they are asked for by name.

    So `ns-render --rendered-output-names rgb teacher_rgb` has the teacher, and `ns-eval` takes the student's time. Who
    goes through the names, as `ns-render dataset` does, finds those that are made alone.

    Args:
        made: those that are there.
        on_request: how each of the others is made from these images.
    """

    def __init__(self, made: dict[str, Tensor], on_request: "dict[str, Callable[[Images], Tensor]]") -> None:
        super().__init__(made)
        self._on_request = on_request

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self._on_request

    def __missing__(self, name: str) -> Tensor:
        with torch.no_grad():
            self[name] = self._on_request[name](self)
        return self[name]

    def all_of(self, wanted: Collection[str]) -> dict[str, Tensor]:
        """All, for one who must see the names of all: black what is not wanted."""
        black = torch.zeros_like(self["rgb"])
        return {**self, **{name: self[name] if name in wanted else black for name in self._on_request}}
