"""Files that are whole or not there."""

from collections.abc import Callable
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
