"""CUDA kernels of other packages. They compile themselves at first use, which needs nvcc, takes minutes and may fail.

A build that failed is remembered, and not tried again with the same versions: else each start would wait for it.
"""

import functools
import importlib
import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import torch
from torch.utils.cpp_extension import _get_build_directory

from pvd_nerfstudio.input.text import plain, say
from pvd_nerfstudio.processes import any_of_them, are_several, rank

INSTEAD = {"nerfacc": "our own march and compositing run in their place", "gsplat": "our own rasteriser runs instead"}
"""Whose kernels we know, and what runs where they do not."""


@functools.cache
def kernels_run(package: str) -> bool:
    """Whether a package's kernels are there; the first time it says which path is taken and why.

    Args:
        package: one of `INSTEAD`.
    """
    if not torch.cuda.is_available():
        return False
    problem = _remembered(package)
    if problem is None:
        try:
            if importlib.import_module(f"{package}.cuda._backend")._C is not None:
                say(f"{package}'s CUDA kernels are used.")
                return True
            say(f"Without {package}'s CUDA kernels, for there is no nvcc to compile them: {INSTEAD[package]}.")
            return False
        except Exception as error:  # a compiler may fail in any way
            problem = plain(f"{type(error).__name__}: {error}".splitlines()[0])
            _remember(package, problem)
    say(f"Without {package}'s CUDA kernels ({problem}): {INSTEAD[package]}. To try again, delete {_record(package)}.")
    return False


def build_kernels(packages: Iterable[str], device: torch.device) -> None:
    """Where there are several processes, the first builds what all of them use, lest they build it at once."""
    for turn in (True, False):
        if device.type == "cuda" and are_several() and (rank() == 0) == turn:
            for package in packages:
                kernels_run(package)
        any_of_them(False, device)


def _record(package: str) -> Path:
    """The file that says that a build has failed here, with these versions."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "pvd_nerfstudio"
    versions = f"{package}-{version(package)}-torch-{torch.__version__}"
    return cache / f"{versions}-{platform.node()}.failed"


def _remembered(package: str) -> str | None:
    """Why the build failed; None where it has not been tried, or another process has had success."""
    built = Path(_get_build_directory(f"{package}_cuda", verbose=False)) / f"{package}_cuda.so"
    try:
        return None if built.exists() else plain(_record(package).read_text("utf8"))
    except OSError:
        return None


def _remember(package: str, problem: str) -> None:
    """Write it down, where one may."""
    try:
        _record(package).parent.mkdir(parents=True, exist_ok=True)
        _record(package).write_text(problem, "utf8")
    except OSError:
        return
