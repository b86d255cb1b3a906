"""Ctrl-C and SIGTERM end a run between two steps: within one, weights and their optimiser may not agree."""

import signal
import threading
from types import FrameType
from typing import Any

from pvd_nerfstudio.input.text import say


class Interruption:
    """While entered, a signal that comes within a step waits for its end; a second Ctrl-C does not."""

    signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.number: int | None = None
        """The signal that came; None: none did."""
        self.in_step = False
        """Whether a step is under way. It is set by who runs the steps."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def end_step(self) -> None:
        """A step is done.

        Raises:
            KeyboardInterrupt: a signal came in it.
        """
        self.in_step = False
        if self.number is not None:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        again, self.number = self.number == number == signal.SIGINT, number
        if again or not self.in_step:
            raise KeyboardInterrupt
        say("\nStopping after this step.")
