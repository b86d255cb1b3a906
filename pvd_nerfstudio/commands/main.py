"""`pvd`: the entry point, which imports nothing before it can be interrupted without a traceback."""

import signal
import sys


def main() -> None:
    """Entry point of `pvd`; nerfstudio takes seconds to import."""
    try:
        from pvd_nerfstudio.commands.every import run  # noqa: PLC0415

        run()
    except KeyboardInterrupt:
        print("\nInterrupted.")
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
