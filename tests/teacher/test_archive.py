"""Checkpoints are read as torch reads them, without executing, crashing, waiting or growing for any file."""

import io
import os
import struct
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.mutations import COMMAND, MARKER, mutate_checkpoint, pickles
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.teacher.archive import StoredTensor, loaded, read_checkpoint

RUNS = sorted(Path(__file__).parents[1].glob("runs/*/nerfstudio_models/*.ckpt"))
TEXT = b"X" + struct.pack("<I", len(COMMAND)) + COMMAND.encode()


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def with_pickle(pickled: bytes, others: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of a pickle built by hand."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in {"archive/data.pkl": pickled, "archive/byteorder": b"little", **(others or {})}.items():
            archive.writestr(name, content)
    return file.getvalue()


def view(offset: int, size: tuple[int, ...], stride: tuple[int, ...], count: int = 4) -> bytes:
    """The pickle of a tensor on four numbers."""

    def number(value: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", value)

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + number(count) + b"tQ"
    )
    arguments = storage + number(offset) + numbers(size) + numbers(stride) + b"\x89ccollections\nOrderedDict\n)R"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR."


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, torch.Tensor):
        return ours.dtype == theirs.dtype and ours.shape == theirs.shape and torch.equal(ours, theirs.detach())
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[key], value) for key, value in theirs.items())
    if isinstance(theirs, (list, tuple)):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return type(ours) is type(getattr(theirs, "item", lambda: theirs)()) and ours == theirs


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.parents[1].name)
def test_checkpoints_of_runs_are_what_torch_reads(path: Path) -> None:
    assert same(loaded(read_checkpoint(path)), torch.load(path, map_location="cpu", weights_only=False))


def test_all_that_a_checkpoint_can_hold(tmp_path: Path) -> None:
    base = torch.arange(24.0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {
        "pipeline": OrderedDict(model.state_dict()),
        "optimizers": {"fields": optimizer.state_dict()},
        "tensors": [base.view(4, 6).T, base[3:7], base[::2], torch.tensor(2.5), torch.zeros(0, 3), base.expand(3, 24)],
        "kinds": [torch.ones(3).to(dtype) for dtype in (torch.float16, torch.bfloat16, torch.int8, torch.uint8)],
        "more": [
            torch.tensor([True, False]),
            torch.ones(2, dtype=torch.float64),
            torch.arange(3),
            torch.nn.Parameter(base),
        ],
        "numbers": [
            np.float64(0.5),
            np.float32(0.25),
            np.int64(7),
            np.bool_(True),
            1.5,
            -3,
            2**60,
            None,
            True,
            "text",
            b"x",
        ],
        "milestones": torch.optim.lr_scheduler.MultiStepLR(optimizer, [5, 9]).state_dict(),
        "rest": (torch.float32, torch.Size([2, 3]), (), {}, [], ("a", ("b",))),
    }
    path = tmp_path / "all.ckpt"
    path.write_bytes(saved(content))
    assert same(loaded(read_checkpoint(path)), torch.load(path, weights_only=False))


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numbers_of_numpy_1_and_2(module: bytes, tmp_path: Path) -> None:
    data = np.float64(0.0094).tobytes().decode("latin1").encode()
    kind = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8\x89\x88tR"
    kind += b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    number = b"c_codecs\nencode\n(X" + struct.pack("<I", len(data)) + data + b"X\x06\x00\x00\x00latin1tR"
    path = tmp_path / "number.ckpt"
    path.write_bytes(with_pickle(b"\x80\x02c" + module + b"\nscalar\n(" + kind + number + b"tR."))
    assert read_checkpoint(path) == 0.0094


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "large.ckpt"
    path.write_bytes(saved({"a": torch.zeros(5_000_000), "b": torch.ones(3)}))
    tracemalloc.start()
    tree = read_checkpoint(path)
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()
    assert isinstance(tree["a"], StoredTensor) and tree["a"].shape == (5_000_000,)
    assert torch.equal(tree["b"].load(), torch.ones(3))


HOSTILE = {
    "reduce": b"cposix\nsystem\n(" + TEXT + b"tR",
    "inst": b"(" + TEXT + b"iposix\nsystem\n",
    "obj": b"(cposix\nsystem\n" + TEXT + b"o",
    "new": b"cposix\nsystem\n" + TEXT + b"\x85\x81",
    "stack": b"\x8c\x05posix\x8c\x06system\x93" + TEXT + b"\x85R",
    "eval": b"cbuiltins\neval\n(" + TEXT + b"tR",
    "extension": b"\x82\x01" + TEXT + b"\x85R",
    "torch": b"ctorch\nload\n(" + TEXT + b"tR",
    "dotted": b"ctorch\nserialization.os.system\n(" + TEXT + b"tR",
    "getattr": b"c__builtin__\ngetattr\n(" + TEXT + b"tR",
    "word": b"ccollections\nOrderedDict\n(" + TEXT + b"tR",
    "persistent": b"P" + COMMAND.encode() + b"\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_is_executed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "step-000000001.ckpt"
    path.write_bytes(with_pickle(b"\x80\x02" + HOSTILE[name] + b"."))
    with pytest.raises(InputError, match="nothing was executed|damaged"):
        loaded(read_checkpoint(path))
    assert not (tmp_path / MARKER).exists()


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (COMMAND,)


def test_parts_of_one_storage_are_read_as_parts(tmp_path: Path) -> None:
    """Thousands of small views of a large storage do not read it thousands of times."""
    path, base = tmp_path / "step-000000001.ckpt", torch.arange(2_000_000.0)
    path.write_bytes(saved([base[number : number + 3] for number in range(3000)]))
    start = time.process_time()
    tree = loaded(read_checkpoint(path))
    assert torch.equal(tree[2999], base[2999:3002]) and time.process_time() - start < 5


def test_what_it_asks_for_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "step-000000001.ckpt"
    path.write_bytes(saved({"pipeline": {"_model.field.bias": Hostile()}}))
    with pytest.raises(InputError, match=rf"asks for '{os.system.__module__}.system'; nothing was executed"):
        read_checkpoint(path)
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize("pickled", pickles(), ids=lambda pickled: pickled[:24].hex())
def test_programs_that_crash_grow_or_do_not_end(pickled: bytes, tmp_path: Path) -> None:
    """Among them numpy's dtype with an object in it, over bytes of the file: reading it crashed the process."""
    path = tmp_path / "step-000000001.ckpt"
    for program in (pickled, b"\x80\x02" + pickled + b"."):
        path.write_bytes(with_pickle(program))
        start = time.process_time()
        try:
            read_checkpoint(path)
        except InputError:
            pass
        assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("offset", "size", "stride", "count"),
    [
        (0, (2, 2), (2, 2), 4),
        (3, (2,), (1,), 4),
        (0, (-1,), (1,), 4),
        (0, (2,), (-1,), 4),
        (-1, (2,), (1,), 4),
        (0, (2**40,), (0,), 4),
        (0, (2**20, 2**20), (0, 0), 4),
        (0, (2,), (2**61,), 4),
        (0, (2, 2), (1,), 4),
        (0, (1,) * 40, (1,) * 40, 4),
        (0, (5,), (1,), 5),
        (0, (4,), (1,), 2**40),
        (5, (0,), (1,), 4),
    ],
)
def test_tensors_stay_within_their_numbers(offset, size, stride, count, tmp_path: Path) -> None:
    path = tmp_path / "step-000000001.ckpt"
    numbers = {"archive/data/0": torch.arange(4.0).numpy().tobytes()}
    path.write_bytes(with_pickle(view(0, (2, 2), (2, 1)), numbers))
    assert torch.equal(loaded(read_checkpoint(path)), torch.arange(4.0).view(2, 2))
    path.write_bytes(with_pickle(view(offset, size, stride, count), numbers))
    with pytest.raises(InputError, match="empty, cut short or damaged"):
        read_checkpoint(path)


def packed(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in members if name.endswith("data.pkl"))
    return with_pickle(members[name], members | {"archive/data/0": bytes(2**27)}, zipfile.ZIP_DEFLATED)


def overlapping(data: bytes) -> bytes:
    """Two records of the list point to one place."""
    changed = bytearray(data)
    first = changed.find(b"PK\1\2")
    second = changed.find(b"PK\1\2", first + 4)
    changed[second + 42 : second + 46] = changed[first + 42 : first + 46]
    return bytes(changed)


def twice(data: bytes) -> bytes:
    file = io.BytesIO(data)
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning):
        archive.writestr(archive.namelist()[0], b"")
    return file.getvalue()


@pytest.mark.parametrize(
    "change",
    [packed, overlapping, twice, lambda data: data[:-1], lambda data: data + b"x", lambda data: b"", bytes.swapcase],
)
def test_archives_that_torch_does_not_write(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "step-000000001.ckpt"
    path.write_bytes(change(saved({"pipeline": {"_model.a": torch.ones(9), "_model.b": torch.ones(7)}})))
    with pytest.raises(InputError, match=f"damaged, {path.stat().st_size} bytes .*Use an earlier checkpoint"):
        loaded(read_checkpoint(path))


def test_numbers_that_changed_are_not_used(tmp_path: Path) -> None:
    path = tmp_path / "step-000000001.ckpt"
    data = bytearray(saved({"a": torch.full((100,), 3.0)}))
    data[data.find(np.float32(3.0).tobytes() * 4) + 8] ^= 1
    path.write_bytes(data)
    tree = read_checkpoint(path)
    with pytest.raises(InputError, match="is damaged"):
        tree["a"].load()


def test_old_formats_are_named(tmp_path: Path) -> None:
    path = tmp_path / "step-000000001.ckpt"
    torch.save({"pipeline": {}}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"torch before 1\.6.*save it again"):
        read_checkpoint(path)


def test_damaged_checkpoints_are_refused_or_read(tmp_path: Path) -> None:
    """A seeded walk over truncations, flipped bytes, changed tensors and planted programs."""
    path, data, ends = tmp_path / "step-000000001.ckpt", RUNS[0].read_bytes(), set()
    for number in range(120):
        path.write_bytes(mutate_checkpoint(data, Random(number)))
        try:
            loaded(read_checkpoint(path))
            ends.add("read")
        except InputError:
            ends.add("refused")
    assert ends == {"read", "refused"}
