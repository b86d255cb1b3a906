"""Files that are whole or not there."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pvd_nerfstudio.errors import InputError


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write beside a file and only then take its place: what is interrupted leaves nothing behind.

    Args:
        path: the file.
        write: writes to the path that it is given, of the same ending.

    Raises:
        InputError: the disk is full, or the folder cannot be written to.
    """
    unfinished = path.with_name(f".unfinished-{path.name}")
    try:
        write(unfinished)
        unfinished.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        unfinished.unlink(missing_ok=True)


def make_room(paths: Iterable[Path], overwrite: bool, option: str) -> None:
    """See that files may be written, before there is anything to write; their folders are made.

    Args:
        paths: of the files.
        overwrite: whether those that are there may be replaced.
        option: that names another place.

    Raises:
        InputError: one is there already, or a folder cannot be made.
    """
    for path in paths:
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists already; replace it with --overwrite, or choose another {option}.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"The folder {path.parent} cannot be made: {error.strerror}.") from error
