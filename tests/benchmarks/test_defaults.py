"""Tables say which defaults they were made with, and a changed default shows."""

import re
from pathlib import Path

import pytest

from benchmarks import defaults
from pvd_nerfstudio.distillation import stages
from pvd_nerfstudio.distillation.active.levels import ActiveLearningConfig
from pvd_nerfstudio.student.fields.mlp import MLPFieldConfig

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def test_tables_were_made_with_the_present_defaults() -> None:
    """A table whose defaults are others now is made again, or goes."""
    stated = re.findall(r"defaults of `(\w+)`: `([0-9a-f]{8})`", DOCS.read_text("utf8"))
    assert stated
    for student, digest in stated:
        assert digest == defaults.digest(student), f"docs/benchmarks.md has a table of {student} with other defaults"


def test_any_default_of_method_sizes_and_optimisers_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {student: defaults.digest(student) for student in ("mlp", "hash")}
    monkeypatch.setattr(MLPFieldConfig, "learning_rate", property(lambda self: 0.123))
    assert defaults.digest("mlp") != before["mlp"] and defaults.digest("hash") == before["hash"]
    monkeypatch.setitem(stages.PRESETS["bank"], "refresh_every", 47)
    assert defaults.digest("hash") != before["hash"]


def test_active_learning_counts_where_it_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    before = defaults.digest("mlp")
    monkeypatch.setattr(ActiveLearningConfig, "on", property(lambda self: ["rays"]))
    assert defaults.digest("mlp") != before
