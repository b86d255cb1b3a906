"""A hundred of the ten thousand damaged and hostile runs of `benchmarks/fuzz.py`."""

from pathlib import Path

from conftest import Run

from benchmarks.fuzz import Sound, fuzz


def test_damaged_and_hostile_runs_are_refused_or_open(teacher: Run, student: Run, scene: Path, tmp_path: Path) -> None:
    sound = [Sound(teacher.folder, scene, is_ours=False), Sound(student.folder, scene, is_ours=True)]
    figures = fuzz(sound, tmp_path, range(100), seed=1)
    assert figures["failures"] == []
    ends = {
        end: sum(count for name, count in figures["ends"].items() if name.endswith(end))
        for end in ("opened", "refused")
    }
    assert sum(ends.values()) == 100 and min(ends.values()) > 5
