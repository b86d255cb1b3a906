"""The error that is meant for the user."""

import signal
import sys
from collections.abc import Callable
from types import TracebackType

from pvd_nerfstudio.input.text import say


class InputError(Exception):
    """What the user gave cannot be used; the message says what, where and what to do.

    No ValueError: tyro would take it for one of its own.
    """


def run_command(command: Callable[[], object]) -> None:
    """Run one of our own commands: its errors are messages, and Ctrl-C ends it in a line."""
    explain_errors()
    try:
        command()
    except KeyboardInterrupt:
        say("\nInterrupted.", "yellow")
        sys.exit(128 + signal.SIGINT)


def explain_errors() -> None:
    """From now on an InputError that nobody catches ends the program with its message alone, and exit status 1."""
    before = sys.excepthook
    if getattr(before, "explains", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        of_another = str(error).rpartition(f"{InputError.__module__}.{InputError.__name__}: ")
        if isinstance(error, InputError):
            say(str(error), "bold red")
        elif kind.__name__ == "ProcessRaisedException" and of_another[1]:  # torch's, which errors do not wait for
            say(of_another[2].strip(), "bold red")
        else:
            before(kind, error, trace)

    hook.explains = True  # type: ignore[attr-defined]
    sys.excepthook = hook
