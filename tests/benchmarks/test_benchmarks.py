"""The matrix of teachers and students: names, steps, tables, failures, and what is kept of an earlier one."""

import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

import pytest
from conftest import SMALL, Run
from nerfstudio.scripts.eval import entrypoint as ns_eval
from nerfstudio.scripts.train import entrypoint as ns_train

from benchmarks import matrix
from benchmarks.forked import in_a_process
from benchmarks.matrix import FailedError, Matrix, Row, Teacher


def test_every_teacher_has_a_name_of_its_own(tmp_path: Path) -> None:
    stock = tmp_path / "lego" / "nerfacto" / "2026-01-01_000000"
    stock.mkdir(parents=True)
    (stock / "config.yml").write_text("method_name: nerfacto\n")
    paths = [stock, tmp_path / "a" / "hash", tmp_path / "b" / "hash", tmp_path / "vm"]
    names = matrix.distinct_names([matrix.run_path(path) for path in paths])
    assert list(names.values()) == ["lego/nerfacto/2026-01-01_000000", "a/hash", "b/hash", "vm"]
    assert matrix.run_path(stock / "config.yml") == matrix.run_path(stock / "nerfstudio_models") == stock


def test_steps_fill_the_seconds_and_the_start_is_counted_once() -> None:
    assert matrix.steps_that_fit(100.0, steps=50, short=20.0 + 5.0, long=20.0 + 15.0) == pytest.approx(800, abs=1)
    with pytest.raises(FailedError, match="20 s go by before"):
        matrix.steps_that_fit(5.0, steps=50, short=25.0, long=35.0)


def test_the_line_that_says_why() -> None:
    trace = 'Traceback:\n  File "/a/model.py", line 7, in f\n    g()\nValueError: too small\nException ignored in: x\n'
    assert matrix.reason(trace.replace("Exception ignored in: x\n", "bye")) == "ValueError: too small (model.py:7)"
    box = "warning\n╭─ Invalid choice ──╮\n│ invalid choice 'x' │\n│ For help, run y    │\n╰────╯\n"
    assert matrix.reason(box) == "invalid choice 'x'"
    long = "word " * 22
    assert matrix.reason(f"first\n{long}\nend.\n") == f"{long.strip()} end."
    assert matrix.reason("\n") == "it said nothing"


def test_options_of_a_student() -> None:
    assert "--pipeline.model.mlp.num-layers 4" in matrix.student_options("mlp", ())
    assert matrix.student_options("mlp", ("mlp=--x 1", "all=--y=2")) == "--y=2 --x 1"
    assert matrix.student_options("vm", ("mlp=--x 1",)) == ""


def test_table_says_what_failed() -> None:
    teachers = [Teacher("/t", "t", 30.0, problem=""), Teacher("/u", "u", problem="no images")]
    done = Row("/t", "vm", "", 500, "", 29.5, 0.9, 1_000_000, 4.0, 59.0, 1e5)
    rows = [done, Row("/t", "x", "", problem="no such student"), Row("/u", "vm", "", 5, "", 20.0, 0.5, 10, 1, 1, 1)]
    first, failed, alone = matrix.table_cells(teachers, rows)
    assert first == ["t", "vm", "29.50", "0.900", "30.00", "-0.50", "1,000,000", "4.0", "59", "500", "100,000"]
    assert failed[2] == "failed" and alone[4:6] == ["-", "-"]
    assert {len(line) for line in (first, failed, alone)} == {len(matrix.COLUMNS)}
    said = "\n".join(matrix.problems(teachers, rows))
    assert "t → x failed: no such student" in said and "no images" in said


def forked(
    command: list[str], stdout: TextIO, stderr: int, env: dict[str, str], **_: Any
) -> subprocess.CompletedProcess[str]:
    """A command in a fork of this process, which has imported nerfstudio; the one that goes wrong is really started."""
    if "nope" in command:
        with subprocess.Popen(command, stdout=stdout, stderr=stderr, env=env) as process:
            return subprocess.CompletedProcess(command, process.wait())

    def run() -> None:
        os.environ.update(env)
        sys.argv = command
        with redirect_stdout(stdout), redirect_stderr(stdout):
            {"ns-train": ns_train, "ns-eval": ns_eval}[Path(command[0]).name]()
        stdout.flush()

    return subprocess.CompletedProcess(command, in_a_process(run))


def test_a_matrix_of_one_that_works_and_one_that_does_not(
    teacher: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "run", forked)
    options = (f"mlp={' '.join(SMALL)}",)
    queried = Matrix((teacher.config,), ("nope", "mlp"), steps=8, options=options, output=tmp_path / "out", pixels=50)
    queried.run()
    saved = json.loads((tmp_path / "out" / "matrix.json").read_text())
    failed, done = saved["rows"]
    assert "invalid choice 'nope'" in failed["problem"]
    assert done["problem"] == "" and done["steps"] == 8 and done["psnr"] > 5
    assert min(done[name] for name in ("ssim", "parameters", "megabytes", "rays_per_second")) > 0
    assert saved["teachers"][0]["psnr"] > 5
    text = (tmp_path / "out" / "matrix.md").read_text()
    assert "| teacher | student | PSNR |" in text and "invalid choice 'nope'" in text and "hidden-dim 64" in text

    def no_child(*_: object) -> str:
        raise FailedError("a child was started")

    monkeypatch.setattr(Matrix, "_child", no_child)
    again = Matrix((teacher.folder,), ("nope", "mlp"), steps=8, options=options, output=tmp_path / "out")
    again.run()
    failed, kept = json.loads((tmp_path / "out" / "matrix.json").read_text())["rows"]
    assert kept == done and failed["problem"] == "a child was started"
    assert "mlp" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="choose another folder"):
        Matrix((teacher.folder,), ("mlp",), steps=9, options=options, output=tmp_path / "out").run()
