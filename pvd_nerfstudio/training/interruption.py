"""Ctrl-C and SIGTERM end a run between two steps: within one, weights and their optimiser may not agree.

Several processes end after the same step, for each waits for the others in every one.
"""

import signal
import threading
from collections.abc import Callable
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
        """The first signal that came; None: none did."""
        self.in_step = False
        """Whether a step is under way. It is set by who runs the steps, as all that follows."""
        self.goes_on = True
        """Whether there will be another step."""
        self.is_stopping = False
        """Whether the run is being saved."""
        self.wake: Callable[[], object] = lambda: None
        """Ends a pause, for the next step is waited for."""
        self.is_agreed = False
        """Whether all of several processes stop after this step."""
        self._was_ctrl_c = False
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
            KeyboardInterrupt: a signal came in it; or, in any of several processes, in one of the last few.
        """
        self.in_step = False
        ends = self.number is not None
        if are_several():
            is_asked = step % AGREE_EVERY == 0 or not self.goes_on
            ends = self.is_agreed = is_asked and any_of_them(ends, self._device)
        if ends:
            raise KeyboardInterrupt

    def leave_together(self) -> None:
        """Wait for all who stop, lest one that leaves takes the others along while they save."""
        if self.is_agreed:
            any_of_them(True, self._device)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.is_stopping and (are_several() or number != signal.SIGINT):
            return  # nerfstudio's launcher sends SIGTERM after every Ctrl-C
        is_first, again = self.number is None, self._was_ctrl_c and number == signal.SIGINT
        self.number, self._was_ctrl_c = self.number or number, self._was_ctrl_c or number == signal.SIGINT
        waits = self.in_step or (are_several() and self.goes_on)
        if again or not waits:
            raise KeyboardInterrupt
        self.wake()
        if is_first:
            say("\nStopping after this step.")
