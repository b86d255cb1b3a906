"""Reads checkpoints that `torch.save` wrote: an archive of numbers and a pickle that says how they belong together.

Neither torch's reader nor Python's takes part. What comes out is made of dictionaries, lists, tuples, text, numbers
and tensors; what the file claims is held against its size before memory is taken.
"""

import io
import math
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.text import plain
from pvd_nerfstudio.teacher.unpickle import ForbiddenError, MalformedError, View, unpickle

LARGEST_PICKLE = 1 << 24
"""Bytes of the pickle, which holds no weights."""
MOST_RECORDS = 20_000
"""Storages in a checkpoint."""
LONGEST_ENTRY = 250
"""Bytes of a record in the list of them."""
CHUNK = 1 << 22
"""Bytes that are read at a time where they are only looked at."""
MOST_DIMENSIONS = 16
SPARE = 1 << 24
"""Numbers by which tensors may exceed what is stored: several may look at one storage."""
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files begin that torch wrote before it wrote archives."""
_END = struct.Struct("<4sHHHHIIH")
_END_64 = struct.Struct("<4sQHHIIQQQQ")
_LOCAL = struct.Struct("<4s5HIIIHH")


@dataclass
class StoredTensor:
    """A tensor in a file, of which nothing is read yet."""

    shape: torch.Size
    dtype: torch.dtype
    _archive: "Archive" = field(repr=False)
    _view: View = field(repr=False)

    def load(self) -> Tensor:
        """Its numbers, in memory of its own, on the CPU.

        Raises:
            InputError: they are damaged.
        """
        return self._archive.tensor(self._view)


def read_checkpoint(path: Path) -> Any:
    """A checkpoint with a `StoredTensor` in the place of each tensor.

    Raises:
        InputError: it is no such file, is damaged or cut short, asks for something to be executed, or claims to hold
            more than it does.
    """
    with explained(path):
        return Archive(path).tree()


def loaded(tree: Any) -> Any:
    """The same with the tensors themselves."""
    if isinstance(tree, StoredTensor):
        return tree.load()
    if isinstance(tree, dict):
        return type(tree)((key, loaded(value)) for key, value in tree.items())
    if isinstance(tree, (list, tuple)):
        return type(tree)(loaded(value) for value in tree)
    return tree


def open_file(path: Path) -> BinaryIO:
    """A file, opened for reading; pipes are not waited for.

    Raises:
        InputError: it is something else.
    """
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise InputError(f"{plain(path)} cannot be read: {error.strerror or error}.") from error
    file = os.fdopen(number, "rb")
    if not stat.S_ISREG(os.fstat(number).st_mode):
        file.close()
        raise InputError(f"{plain(path)} is no file.")
    return file


class Archive:
    """The records of a checkpoint.

    Args:
        path: of the file, which stays open as long as a tensor of it is not read.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, open_file(path)
        self._size = os.fstat(self._file.fileno()).st_size
        self._check_end()
        with zipfile.ZipFile(self._file) as listing:
            entries = listing.infolist()
        pickles = [entry.filename for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise MalformedError("it is another kind of archive")
        self._root = pickles[0].removesuffix("data.pkl")
        self._records = {entry.filename: entry for entry in entries}
        self._sound: set[str] = set()
        self._check_records(entries)

    def tree(self) -> Any:
        """What is in it."""
        order = self._records.get(f"{self._root}byteorder")
        if order is not None and self._bytes(order) != b"little":
            raise MalformedError("its numbers are in another machine's order of bytes")
        pickled = self._records[f"{self._root}data.pkl"]
        if pickled.file_size > LARGEST_PICKLE:
            raise MalformedError("its description is larger than any checkpoint's")
        tree = unpickle(self._bytes(pickled))
        views = list(_views(tree))
        for view in views:
            self._check_view(view)
        stored = sum(entry.file_size for entry in self._records.values())
        if sum(max(math.prod(view.size), _extent(view)) for view in views) > 4 * stored + SPARE:
            raise MalformedError("its tensors are larger than what is stored")
        return self._with_tensors(tree)

    def tensor(self, view: View) -> Tensor:
        """A tensor that is in it."""
        with explained(self._path):
            name, kind, extent = self._name(view), view.storage.dtype, _extent(view)
            entry = self._records[name]
            is_whole = extent == view.storage.count
            if not is_whole and name not in self._sound:
                self._check_sum(entry)
                self._sound.add(name)
            numbers = torch.empty(extent * kind.itemsize, dtype=torch.uint8)
            start = 0 if is_whole else view.offset * kind.itemsize
            self._read_into(entry, memoryview(numbers.numpy().data), start, is_whole)
            flat = numbers.bool() if kind == torch.bool else numbers.view(kind)
            tensor = flat.as_strided(view.size, view.stride, 0)
            return tensor if tensor.numel() == len(flat) and tensor.is_contiguous() else tensor.clone()

    def _check_end(self) -> None:
        """The list of records is at the end, where torch writes it, and not longer than it may be."""
        if self._at(0, len(LEGACY)) == LEGACY:
            raise InputError(
                f"{plain(self._path)} is in the format of torch before 1.6. Where you trust it, open it with "
                "torch.load and save it again with torch.save."
            )
        end = self._at(self._size - _END.size, _END.size)
        signature, *_, count, length, _, comment = _END.unpack(end)
        if signature != b"PK\5\6" or comment:
            raise MalformedError("its end is missing")
        if count == 0xFFFF or length == 0xFFFFFFFF:  # noqa: PLR2004
            large = self._at(self._size - _END.size - 20 - _END_64.size, _END_64.size)
            signature, *_, count, length, _ = _END_64.unpack(large)
            if signature != b"PK\6\6":
                raise MalformedError("its end is missing")
        if count > MOST_RECORDS or length > LONGEST_ENTRY * MOST_RECORDS:
            raise MalformedError("it has more records than any checkpoint")

    def _check_records(self, entries: list[zipfile.ZipInfo]) -> None:
        """None is packed, they do not overlap, and each is in the file."""
        if len(self._records) != len(entries):
            raise MalformedError("two of its records have one name")
        end = 0
        for entry in sorted(entries, key=lambda entry: entry.header_offset):
            if (
                entry.compress_type != zipfile.ZIP_STORED
                or entry.compress_size != entry.file_size
                or entry.flag_bits & 1
            ):
                raise MalformedError(f"its record {plain(entry.filename)} is packed")
            start = entry.header_offset
            if start < end or start + _LOCAL.size + entry.file_size > self._size:
                raise MalformedError("its records overlap")
            end = start + _LOCAL.size + entry.file_size

    def _check_view(self, view: View) -> None:
        storage = view.storage
        entry = self._records.get(self._name(view))
        if entry is None:
            raise MalformedError(f"the numbers {plain(storage.key)} are missing")
        if entry.file_size != storage.count * storage.dtype.itemsize:
            raise MalformedError(f"the numbers {plain(storage.key)} are not as many as it says")
        if len(view.size) > MOST_DIMENSIONS or view.offset + _extent(view) > storage.count:
            raise MalformedError("a tensor reaches beyond its numbers")

    def _name(self, view: View) -> str:
        return f"{self._root}data/{view.storage.key}"

    def _with_tensors(self, tree: Any) -> Any:
        if isinstance(tree, View):
            return StoredTensor(torch.Size(tree.size), tree.storage.dtype, self, tree)
        if isinstance(tree, dict):
            return type(tree)((key, self._with_tensors(value)) for key, value in tree.items())
        if isinstance(tree, (list, tuple)):
            return type(tree)(self._with_tensors(value) for value in tree)
        return tree

    def _bytes(self, entry: zipfile.ZipInfo) -> bytes:
        data = bytearray(min(entry.file_size, LARGEST_PICKLE))
        self._read_into(entry, memoryview(data), 0, is_whole=True)
        return bytes(data)

    def _check_sum(self, entry: zipfile.ZipInfo) -> None:
        """Look at a whole record once, where parts of it are read."""
        found, data = 0, bytearray(CHUNK)
        for start in range(0, entry.file_size, CHUNK):
            part = memoryview(data)[: min(CHUNK, entry.file_size - start)]
            self._read_into(entry, part, start, is_whole=False)
            found = zlib.crc32(part, found)
        if found != entry.CRC:
            raise MalformedError(f"its record {plain(entry.filename)} is damaged")

    def _read_into(self, entry: zipfile.ZipInfo, place: memoryview, start: int, is_whole: bool) -> None:
        head = self._at(entry.header_offset, _LOCAL.size)
        signature, *_, name, extra = _LOCAL.unpack(head)
        if signature != b"PK\3\4":
            raise MalformedError("a record is not where it should be")
        self._file.seek(entry.header_offset + _LOCAL.size + name + extra + start)
        file: Any = self._file
        if file.readinto(place) != len(place):
            raise MalformedError("it ends within its numbers")
        if is_whole and zlib.crc32(place) != entry.CRC:
            raise MalformedError(f"its record {plain(entry.filename)} is damaged")

    def _at(self, place: int, count: int) -> bytes:
        if place < 0:
            raise MalformedError("its end is missing")
        self._file.seek(place, io.SEEK_SET)
        return self._file.read(count)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """What is wrong with a file, in words."""
    try:
        yield
    except ForbiddenError as error:
        raise InputError(
            f"{plain(path)}: refused: the file asks for '{plain(error)}'; nothing was executed. Use a checkpoint that "
            "nerfstudio saved."
        ) from error
    except OSError as error:
        raise InputError(f"{plain(path)} cannot be read: {error.strerror or error}.") from error
    except (MalformedError, zipfile.BadZipFile, struct.error, ValueError, RuntimeError, MemoryError) as error:
        raise InputError(
            f"{plain(path)} is empty, cut short or damaged, {path.stat().st_size} bytes ({plain(error)}); was training "
            "interrupted while it was saved? Use an earlier checkpoint."
        ) from error


def _extent(view: View) -> int:
    """Numbers from a view's first to its last."""
    if 0 in view.size:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(view.size, view.stride))


def _views(tree: Any) -> Iterator[View]:
    """All views in a tree, which is neither deep nor large."""
    todo = [tree]
    while todo:
        value = todo.pop()
        if isinstance(value, View):
            yield value
        elif isinstance(value, (dict, list, tuple)):
            todo += value.values() if isinstance(value, dict) else value
