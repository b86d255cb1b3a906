"""What is contained computes and reads; all else is refused, said, and over when the containment ends."""

import ctypes
import io
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.containment import contained


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture
def attacks(tmp_path: Path) -> dict[str, Callable[[], object]]:
    marker, here = tmp_path / "marker", tmp_path / "here"
    here.write_text("precious")
    os.mkfifo(tmp_path / "pipe")
    evil = np.array([Evil(marker)], dtype=object)
    np.savez(tmp_path / "evil.npz", a=evil)
    torch.save(Evil(marker), tmp_path / "evil.pt")
    (tmp_path / "libevil.so").write_bytes(b"")
    return {
        "pickle": lambda: pickle.loads(pickle.dumps(Evil(marker))),
        "python pickle": lambda: pickle._Unpickler(io.BytesIO(pickle.dumps(Evil(marker)))).load(),
        "numpy": lambda: np.load(tmp_path / "evil.npz", allow_pickle=True)["a"],
        "torch": lambda: torch.load(tmp_path / "evil.pt", weights_only=False),
        "system": lambda: os.system(f"touch {marker}"),
        "popen": lambda: subprocess.Popen(["touch", str(marker)]),
        "run": lambda: subprocess.run(f"touch {marker}", shell=True, check=False),
        "os.popen": lambda: os.popen(f"touch {marker}"),
        "spawn": lambda: os.posix_spawn("/usr/bin/touch", ["touch", str(marker)], {}),
        "fork": lambda: os.fork() or os._exit(0),
        "socket": lambda: socket.create_connection(("127.0.0.1", 9), timeout=0.1),
        "url": lambda: urllib.request.urlopen("http://127.0.0.1:9/"),
        "write": lambda: marker.write_text("x"),
        "append": lambda: here.open("a"),
        "os.open": lambda: os.open(marker, os.O_CREAT | os.O_WRONLY),
        "truncate": lambda: os.truncate(here, 0),
        "remove": here.unlink,
        "rename": lambda: here.rename(marker),
        "mkdir": marker.mkdir,
        "link": lambda: marker.symlink_to(here),
        "chmod": lambda: here.chmod(0),
        "copy": lambda: shutil.copy(here, marker),
        "rmtree": lambda: shutil.rmtree(tmp_path),
        "input": lambda: input("Yes? "),
        "pipe": (tmp_path / "pipe").read_bytes,
        "device": lambda: Path("/dev/zero").open("rb"),
        "library": lambda: ctypes.CDLL(str(tmp_path / "libevil.so")),
        "exit": lambda: sys.exit(0),
    }


NAMES = (
    *("pickle", "python pickle", "numpy", "torch", "system", "popen", "run", "os.popen", "spawn", "fork", "socket"),
    *("url", "write", "append", "os.open", "truncate", "remove", "rename", "link", "chmod", "copy", "rmtree"),
    *("input", "pipe", "device", "exit"),
)
Attacks = dict[str, Callable[[], object]]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_refused_and_said(name: str, attacks: Attacks, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^The file x wanted to .*[Nn]othing was done"):
        with contained("The file x"):
            attacks[name]()
    assert not (tmp_path / "marker").exists() and (tmp_path / "here").read_text() == "precious"


@pytest.mark.parametrize("name", ["mkdir", "library"])
def test_folders_and_libraries_are_refused_and_no_more(name: str, attacks: Attacks, tmp_path: Path) -> None:
    """Readers of images look for theirs when they meet a damaged one, and go on without."""
    with contained("The file x"):
        with pytest.raises(PermissionError):
            attacks[name]()
        with pytest.raises(PermissionError):
            ctypes.CDLL("libnothing.so.3")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", ["numpy", "system", "write", "input"])
def test_swallowing_the_error_does_not_help(name: str, attacks: Attacks, tmp_path: Path) -> None:
    went_on = False
    with pytest.raises(InputError, match="wanted to"):
        with contained("The file x"):
            try:
                attacks[name]()
            except BaseException:
                went_on = True
    assert went_on and not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", ["torch", "popen", "link"])
def test_threads_that_it_starts_are_contained(name: str, attacks: Attacks, tmp_path: Path) -> None:
    def quietly() -> None:
        try:
            attacks[name]()
        except Exception:
            pass

    with pytest.raises(InputError, match="wanted to"):
        with contained("The file x"):
            thread = threading.Thread(target=quietly)
            thread.start()
            thread.join()
    assert not (tmp_path / "marker").exists()


def test_threads_that_were_there_go_on(tmp_path: Path) -> None:
    go, done = threading.Event(), threading.Event()

    def viewer() -> None:
        go.wait(10)
        (tmp_path / "theirs").write_text("x")
        done.set()

    thread = threading.Thread(target=viewer)
    thread.start()
    with contained("The file x"):
        go.set()
        assert done.wait(10)
    thread.join()
    assert (tmp_path / "theirs").read_text() == "x"


def test_reading_computing_and_importing_are_allowed(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    sys.modules.pop("wave", None)
    with contained("The file x"):
        import wave  # noqa: F401

        assert np.load(tmp_path / "a.npy").sum() == 3
        assert torch.rand(3, generator=torch.Generator().manual_seed(0)).sum() > 0


def test_afterwards_all_is_as_before(attacks: Attacks, tmp_path: Path) -> None:
    with contained("The file x"):
        with contained("The file y"):
            pass
    with pytest.raises(InputError, match="The file x"):
        with contained("The file x"):
            with contained("The file y"):
                attacks["write"]()
    attacks["write"]()
    assert (tmp_path / "marker").read_text() == "x" and pickle.loads(pickle.dumps(Path("a"))) == Path("a")


def test_errors_of_its_own_pass(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        with contained("The file x"):
            1 / 0  # noqa: B018
