"""`pvd`: the entry point, which imports nothing before it can be interrupted without a traceback."""

import os
import signal
from types import FrameType


def main() -> None:
    """Entry point of `pvd`; nerfstudio takes seconds to import, and some of what it imports catches any exception."""
    signal.signal(signal.SIGINT, _end)
    from pvd_nerfstudio.commands.every import run  # noqa: PLC0415

    signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _end(number: int, frame: FrameType | None) -> None:
    """There is nothing yet to clean up."""
    del frame
    os.write(1, b"\nInterrupted.\n")
    os._exit(128 + number)


if __name__ == "__main__":
    main()
