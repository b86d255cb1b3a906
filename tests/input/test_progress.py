"""Bars over the grid and the bank."""

import io

import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from pvd_nerfstudio.input import progress
from pvd_nerfstudio.input.progress import with_bar
from pvd_nerfstudio.rendering.occupancy import OccupancyGrid


@pytest.fixture()
def terminal(monkeypatch: pytest.MonkeyPatch) -> Console:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(progress, "CONSOLE", console)
    return console


def test_a_grid_is_filled_under_a_bar(terminal: Console) -> None:
    grid = OccupancyGrid(torch.tensor([[-1.0] * 3, [1.0] * 3]), 16)
    grid.fill(lambda points: points[:, 0] > 0, chunk=50)
    assert grid.share > 0.4
    assert "Filling the occupancy grid" in terminal.file.getvalue()  # type: ignore[attr-defined]


def test_within_another_bar_nothing_is_lost(terminal: Console) -> None:
    with Progress(console=terminal) as outer:
        outer.add_task("Loading", total=None)
        assert list(with_bar(range(5), "Inner")) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="inside"):
        for _ in with_bar(range(5), "Inner"):
            raise ValueError("inside")
    assert list(with_bar(range(2), "Again")) == [0, 1]
