"""The table of a GPU, on a CPU: all that is in it is measured."""

import json
import os
import re
from pathlib import Path

import pytest
from conftest import SMALL, Run

from benchmarks import fidelity, gpu


def test_the_table_of_a_gpu(teacher: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PILOT", 6)
    monkeypatch.setattr(gpu, "SIZES", {})
    monkeypatch.setattr(fidelity, "VIEWS", 10)
    table = tmp_path / "gpu.md"
    gpu.GPU(teacher.folder, table, students=("mlp", "splat"), seconds=4.0, pixels=40, options=" ".join(SMALL)).run()
    rows = [line.split(" | ") for line in table.read_text().splitlines() if re.match(r"\| (mlp|splat)", line)]
    assert [row[0].strip("| ") for row in rows] == ["mlp", "splat"]
    figures = json.loads(table.with_suffix(".json").read_text())
    for row, figure in zip(rows, figures):
        assert int(row[2].replace(",", "")) == figure["curve"][-1]["steps"] >= 6
        assert 5 < float(row[5]) < 60 and 5 < float(row[6]) < 60 and float(row[3]) > 0.5
    assert re.search(r"no GPU; Python .*commit .*teacher teacher, \d+\.\d+ dB", table.read_text())


def test_the_script_is_one_command() -> None:
    assert os.access(Path(gpu.__file__).with_suffix(".sh"), os.X_OK)
