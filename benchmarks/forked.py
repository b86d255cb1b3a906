"""Runs something in a process of its own, which may be stopped, or die."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch


def fork(what: Callable[[], object]) -> int:
    """Start something, silent but for its errors; the process's number."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        torch.set_num_threads(1)  # the threads that OpenMP has started are not in this process, and would be waited for
        try:
            with Path(os.devnull).open("w", encoding="utf8") as nothing, contextlib.redirect_stdout(nothing):
                what()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except KeyboardInterrupt:
            status = 130
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(status)
    return child


def wait(child: int) -> int:
    """The exit status of a process, -9 for one that SIGKILL ended."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_a_process(what: Callable[[], object], kind: signal.Signals | None = None, after: float = 0.0) -> int:
    """Run something to its end, or send it a signal after some seconds; its exit status."""
    child = fork(what)
    if kind is not None:
        time.sleep(after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, kind)
    return wait(child)
