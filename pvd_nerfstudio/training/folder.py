"""A run's folder: one process owns it, and what is written there is whole or not there.

The owner holds a lock on a file in the folder, which the system drops when the process ends, however it ends.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pvd_nerfstudio.errors import InputError

try:
    import fcntl
except ImportError:  # Windows, whose nerfstudio runs come without a lock
    fcntl = None

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Numbers of the errors of a disk that takes no more."""
LOCK = ".in-use"
UNFINISHED = ".unfinished-"


class RunFolder:
    """The folder that a run is written to.

    Args:
        path: of the folder.
        checkpoints: the folder in it that holds the checkpoints.
    """

    def __init__(self, path: Path, checkpoints: Path) -> None:
        self.path, self._checkpoints = path, checkpoints
        self._lock: IO[str] | None = None
        self._missing = [folder for folder in (path, *path.parents) if not folder.exists()]

    @property
    def is_claimed(self) -> bool:
        """Whether it is this process's."""
        return self._lock is not None

    def claim(self, resumes: bool) -> None:
        """Make the folder this process's, before anything is written there.

        Args:
            resumes: whether the run in it is gone on with.

        Raises:
            InputError: it is another's, holds a run already, or cannot be made.
        """
        if self._lock is not None:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / LOCK).open("w", encoding="utf8")
        except OSError as error:
            raise InputError(
                f"The run cannot be written to {self.path}: {error.strerror}. Choose another --output-dir."
            ) from error
        if not _is_ours(lock):
            lock.close()
            raise InputError(
                f"Another process is writing to {self.path}. Wait for its end, or choose another --timestamp or "
                "--experiment-name."
            )
        self._lock = lock
        if not resumes and any(self._checkpoints.glob("*.ckpt")):
            self.release()
            raise InputError(
                f"{self.path} already holds a run. Choose another --timestamp or --experiment-name, "
                f"or resume it with --load-dir {self._checkpoints}."
            )
        for left in self.path.glob(f"{UNFINISHED}*"):  # by a process that was killed while it wrote
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    def release(self) -> None:
        """Let others have it."""
        if self._lock is not None:
            (self.path / LOCK).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def abandon(self) -> None:
        """Take back a folder that was made for a run that cannot begin."""
        is_mine, made = self._lock is not None, self._missing
        self.release()
        if is_mine and self.path in made and not any(self._checkpoints.glob("*.ckpt")):
            shutil.rmtree(self.path, ignore_errors=True)
            for above in made[1:]:
                if not any(above.iterdir()):
                    above.rmdir()

    @contextmanager
    def whole(self, final: Path) -> Iterator[Path]:
        """A place to write a file to; it takes the final one's place when it is complete and on disk.

        Raises:
            InputError: the disk is full, or cannot be written to.
        """
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            place = self.path if final.is_relative_to(self.path) else final.parent
            with tempfile.TemporaryDirectory(dir=place, prefix=UNFINISHED) as folder:
                unfinished = Path(folder) / final.name
                yield unfinished
                with unfinished.open("rb") as file:
                    os.fsync(file.fileno())
                unfinished.replace(final)
        except (OSError, RuntimeError) as error:  # torch has errors of its own for a full disk
            raise self._unwritable(final, error) from error

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Say what a full disk means for the run, whoever meets it first: the logs are written there, too.

        Raises:
            InputError: the disk is full.
        """
        try:
            yield
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise self._unwritable(self.path, error) from error

    def _unwritable(self, place: Path, error: Exception) -> InputError:
        return InputError(
            f"{place} cannot be written: {error}. {_space(place)} What was saved before is untouched: make room, "
            f"or choose another --output-dir, and resume with --load-dir {self._checkpoints}."
        )

    def write(self, final: Path, write: Callable[[Path], object]) -> None:
        """Write a file with a function that takes its place."""
        with self.whole(final) as unfinished:
            write(unfinished)


def _is_ours(lock: IO[str]) -> bool:
    """Take the lock, unless another process has it, or had it when the file was opened and has removed it since."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(lock.fileno()), os.stat(lock.name))
    except OSError:
        return False


def _space(path: Path) -> str:
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        return ""
    return f"{free / 1e6:,.0f} MB are free there."
