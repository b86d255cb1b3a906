"""The demo leaves its renderings, says when the student is too far off, and takes nobody's folder."""

from pathlib import Path

import pytest

from pvd_nerfstudio.commands import demo
from pvd_nerfstudio.distillation.stages import PRESETS
from pvd_nerfstudio.errors import InputError


def test_demo_leaves_images_and_table_and_fails_on_a_large_gap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "WORST_GAP", -100.0)
    monkeypatch.setitem(PRESETS["bank"], "first_chunks", 1)  # most of the time would go into filling the bank
    output = tmp_path / "demo"
    with pytest.raises(InputError, match="dB under its teacher"):
        demo.Demo(output=output, teacher_steps=30, student_steps=10, size=32).run()
    assert (output / "compare.png").stat().st_size > 5000
    assert (output / "student.mp4").stat().st_size > 500
    said = capsys.readouterr().out
    for word in ("PSNR", "SSIM", "parameters", "MB", "rays / s", "seconds", "teacher: hash", "student: mlp"):
        assert word in said


def test_demo_keeps_its_hands_off_other_folders(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not empty"):
        demo.Demo(output=tmp_path).run()
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
