"""Code that runs with values from a stranger's file may compute and read, and nothing else.

Python tells its audit hooks of what a program does to the machine before it is done. While something is contained,
the hook here refuses to unpickle, to start programs, to connect, to ask on the terminal, to open what is no file, and
to write, remove or rename anything. What was refused ends in an `InputError` also where the code has swallowed it;
folders and libraries, which packages look for by themselves, are refused and no more.

Contained is what happens in the thread that asked for it and in all that begin while it lasts; a thread of the viewer
that was there before goes on as it did. Native code and the import of modules are not looked at: they are those of
installed packages.
"""

import os
import stat
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.text import plain

EXECUTES = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.startfile", "subprocess.", "pty.")
UNPICKLES = ("pickle.find_class",)
CONNECTS = ("socket.", "urllib.", "http.", "ftplib.", "smtplib.", "imaplib.", "poplib.", "telnetlib.", "webbrowser.")
CHANGES = (
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod"),
    *("os.chown", "os.utime", "os.setxattr", "os.removexattr", "os.kill", "shutil.", "tempfile.", "sqlite3."),
)
ASKS = ("builtins.input",)
WORDS = {EXECUTES: "start a program", UNPICKLES: "execute what a file describes", CONNECTS: "use the network"} | {
    CHANGES: "change files",
    ASKS: "ask a question",
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_HARMLESS = (os.devnull, "/dev/urandom", "/dev/random")


class ForbiddenError(PermissionError):
    """What contained code is told where it tries."""


class _Guard:
    def __init__(self) -> None:
        here = threading.current_thread()
        self.outside = [thread for thread in threading.enumerate() if thread is not here]
        self.first: str | None = None

    def is_over(self, thread: threading.Thread) -> bool:
        return all(thread is not other for other in self.outside)


_guards: list[_Guard] = []
_is_installed = False


@contextmanager
def contained(what: str) -> Iterator[None]:
    """Run something that may compute and read alone.

    Args:
        what: on whose behalf it runs, for the message.

    Raises:
        InputError: it tried more, or to end the program.
    """
    _install()
    guard = _Guard()
    _guards.append(guard)
    try:
        yield
    except SystemExit as error:
        raise InputError(f"{what} wanted to end the program. Nothing was done.") from error
    except Exception as error:
        if guard.first is not None:
            raise _refusal(what, guard.first) from error
        raise
    finally:
        _guards.remove(guard)
    if guard.first is not None:
        raise _refusal(what, guard.first)


def _refusal(what: str, tried: str) -> InputError:
    return InputError(
        f"{what} wanted to {tried}, which is refused on a file's behalf; nothing was done. Where you trust what it "
        "comes from, name the dataparser on the command line, which makes it yours."
    )


def _install() -> None:
    global _is_installed  # noqa: PLW0603
    if not _is_installed:
        sys.addaudithook(_hook)
        _is_installed = True


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if not _guards:
        return
    tried = _forbidden(event, args)
    if tried is None or _is_importing():
        return
    is_quiet = event in ("os.mkdir", "ctypes.dlopen")
    thread = threading.current_thread()
    for guard in list(_guards):
        if guard.is_over(thread):
            guard.first = guard.first if is_quiet else guard.first or tried
            raise ForbiddenError(f"refused: wanted to {tried}")


def _is_importing() -> bool:
    """Whether a module is being imported: it is an installed one, and may fill its caches."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "exec_module" and frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _forbidden(event: str, args: tuple[Any, ...]) -> str | None:
    """What an event would do, in words, where that is refused."""
    if event == "open":
        return _opening(*args)
    if event == "ctypes.dlopen":
        name = args[0]
        is_known = name is None or (os.sep in str(name) and _is_of_a_package(Path(str(name))))
        return None if is_known else f"load the library {plain(name)}"
    for kinds, words in WORDS.items():
        if event.startswith(kinds):
            return f"{words} ({event} {plain(args[0] if args else '')})"
    return None


def _opening(path: Any, mode: str | None, flags: int) -> str | None:
    if not isinstance(path, (str, bytes, os.PathLike)):
        return None  # a file that is open already
    name = os.fsdecode(path)
    if name in _HARMLESS:
        return None
    if (any(sign in mode for sign in "wax+") if mode else False) or flags & _WRITING:
        return f"write {plain(name)}"
    try:
        kind = os.stat(name).st_mode
    except (OSError, ValueError):
        return None
    return None if stat.S_ISREG(kind) or stat.S_ISDIR(kind) else f"read {plain(name)}, which is no file"


def _is_of_a_package(path: Path) -> bool:
    places = {Path(place).resolve() for place in sysconfig.get_paths().values()} | {Path("/usr"), Path("/lib")}
    return any(path.resolve().is_relative_to(place) for place in (*places, Path(sys.prefix), Path(sys.base_prefix)))
