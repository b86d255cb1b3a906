"""Ctrl-C and SIGTERM end a run between two steps: within one, weights and their optimiser may not agree.

Several processes end after the same step, for each waits for the others in every one.
"""

import signal
import threading
from types import FrameType
from typing import Any

import torch

from pvd_nerfstudio.input.text import say
from pvd_nerfstudio.processes import any_of_them, are_several

AGREE_EVERY = 10
"""Steps after which several processes ask each other whether to stop: for the answer a GPU is waited for."""


class Interruption:
    """While entered, a signal that comes within a step waits for its end; a second Ctrl-C does not.

    Args:
        device: of this process.
    """

    signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self.number: int | None = None
        """The signal that came; None: none did."""
        self.in_step = False
        """Whether a step is under way. It is set by who runs the steps."""
        self.goes_on = True
        """Whether there will be another step; also set by who runs them."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def end_step(self, step: int) -> None:
        """A step is done.

        Raises:
            KeyboardInterrupt: a signal came in it, or one of the last few in any process.
        """
        self.in_step = False
        ends = self.number is not None
        if are_several():
            ends = step % AGREE_EVERY == 0 and any_of_them(ends, self._device)
        if ends:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        is_first, again = self.number is None, self.number == number == signal.SIGINT
        self.number = self.number or number
        if again or (is_first and not self.in_step and not (are_several() and self.goes_on)):
            raise KeyboardInterrupt
        if is_first:
            say("\nStopping after this step.")
