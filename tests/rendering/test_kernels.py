"""Kernels of other packages: which path is taken is said once, and a build that fails is not tried at each start."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pvd_nerfstudio.rendering.kernels import kernels_run


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """As if there were a GPU; what was tried to be built."""
    names: list[str] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "built"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    kernels_run.cache_clear()
    yield names
    kernels_run.cache_clear()


def build(monkeypatch: pytest.MonkeyPatch, tried: list[str], result: Any) -> None:
    def import_module(name: str) -> Any:
        tried.append(name)
        if isinstance(result, Exception):
            raise result
        return SimpleNamespace(_C=result)

    monkeypatch.setattr(importlib, "import_module", import_module)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_a_build_that_fails_is_said_and_remembered(
    monkeypatch: pytest.MonkeyPatch, tried: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(monkeypatch, tried, RuntimeError("Error building extension 'nerfacc_cuda'\nfour hundred lines"))
    assert not kernels_run("nerfacc") and not kernels_run("nerfacc")
    text = said(capsys)
    assert text.count("Without nerfacc") == 1 and "Error building extension" in text and "four hundred" not in text
    kernels_run.cache_clear()  # the next start
    assert not kernels_run("nerfacc")
    assert tried == ["nerfacc.cuda._backend"] and "Error building extension" in said(capsys)
    (tmp_path / "built" / "nerfacc_cuda" / "nerfacc_cuda.so").touch()  # by another process
    kernels_run.cache_clear()
    build(monkeypatch, tried, object())
    assert kernels_run("nerfacc") and len(tried) == 2
    assert "are used" in said(capsys)


def test_a_missing_compiler_is_looked_for_again(
    monkeypatch: pytest.MonkeyPatch, tried: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    build(monkeypatch, tried, None)
    assert not kernels_run("gsplat") and "no nvcc" in said(capsys)
    kernels_run.cache_clear()
    build(monkeypatch, tried, object())
    assert kernels_run("gsplat")


def test_a_folder_that_cannot_be_written_is_no_matter(
    monkeypatch: pytest.MonkeyPatch, tried: list[str], tmp_path: Path
) -> None:
    (tmp_path / "pvd_nerfstudio").write_text("a file")
    build(monkeypatch, tried, OSError("no"))
    assert not kernels_run("nerfacc")


def test_without_a_gpu_nothing_is_built(monkeypatch: pytest.MonkeyPatch, tried: list[str], capsys: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    build(monkeypatch, tried, object())
    assert not kernels_run("nerfacc") and not tried and not said(capsys)
