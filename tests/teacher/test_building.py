"""A model is built no larger than its weights, and its code only computes."""

import shutil
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run, distil_config
from helpers import OLD_RUNS
from nerfstudio.models.nerfacto import NerfactoModel

from pvd_nerfstudio.commands.report.command import find_conversion, load_student
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.rendering.occupancy import OccupancyGrid
from pvd_nerfstudio.teacher.checkpoint import TeacherRun, find_run
from pvd_nerfstudio.teacher.frozen import FrozenTeacher


def with_model(teacher: Run, **changes: Any) -> TeacherRun:
    """The run with another model in its config."""
    run = find_run(teacher.folder)
    config = replace(run.config)
    config.pipeline = replace(config.pipeline, model=replace(config.pipeline.model, **changes))
    return replace(run, config=config)


@pytest.mark.parametrize(
    "changes",
    [
        {"log2_hashmap_size": 33},
        {"log2_hashmap_size": 60},
        {"num_levels": 100_000},
        {"hidden_dim": 30_000},
        {"hidden_dim_color": 10_000_000},
        {"num_levels": 10**12},
        {"features_per_level": 2**24},
        {"proposal_net_args_list": [{"hidden_dim": 16, "log2_hashmap_size": 33, "num_levels": 5, "max_res": 64}] * 2},
        {"appearance_embed_dim": 10**7},
    ],
    ids=str,
)
def test_sizes_beyond_the_weights_are_refused_before_they_are_taken(changes: dict[str, Any], teacher: Run) -> None:
    run = with_model(teacher, **changes)
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(InputError, match=r"config\.yml"):
        FrozenTeacher(run, "cpu")
    assert time.process_time() - start < 5
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()


@pytest.mark.parametrize("resolution", [16, 320])
def test_a_student_with_a_fine_grid_is_a_teacher(resolution: int, tmp_path: Path) -> None:
    """Its cells are eight in a byte: the file is smaller than what is built from it."""
    run = Run(tmp_path / "run")
    shutil.copytree(OLD_RUNS / "mlp", run.folder)
    assert "grid_resolution: 16" in run.config.read_text()
    run.config.write_text(run.config.read_text().replace("grid_resolution: 16", f"grid_resolution: {resolution}"))
    (place,) = run.checkpoints.glob("*.ckpt")
    content = torch.load(place, weights_only=False)
    cells = torch.from_numpy(np.packbits(np.ones(resolution**3, dtype=bool)))
    content["pipeline"]["_model.grid._extra_state"] = {"contracted": False, "cells": cells}
    torch.save(content, place)
    grid = FrozenTeacher(find_run(run.folder), "cpu").grid
    assert isinstance(grid, OccupancyGrid) and grid.resolution == resolution and grid.share == 1


@pytest.mark.parametrize("size", ["hidden_dim: 64", "grid_resolution: 32"])
def test_a_run_that_is_resumed_is_built_no_larger_than_it_was_saved(
    size: str, student: Run, scene: Path, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    shutil.copytree(student.folder, run.folder)
    text, name = run.config.read_text(), size.partition(":")[0]
    assert f"  {size}\n" in text
    larger = {"hidden_dim": 6000, "grid_resolution": 400}[name]
    run.config.write_text(text.replace(f"  {size}\n", f"  {name}: {larger}\n"))
    for command in (
        lambda: distil_config(tmp_path / "out", "--load-dir", str(run.checkpoints)).setup().setup(),
        lambda: load_student(find_conversion(run.config)[0]),
    ):
        with pytest.raises(InputError, match="describes a larger model than the weights"):
            command()


class Exits(NerfactoModel):
    def populate_modules(self) -> None:
        raise SystemExit(0)


class Writes(NerfactoModel):
    def populate_modules(self) -> None:
        super().populate_modules()
        try:
            Path("marker").write_text("x")
        except OSError:
            pass


class Fails(NerfactoModel):
    def populate_modules(self) -> None:
        raise KeyError("[/no]\x1b[31m")


@pytest.mark.parametrize(
    ("model", "said"), [(Exits, "end the program"), (Writes, "wanted to write"), (Fails, "could not be built")]
)
def test_a_models_code_only_computes(model: type, said: str, teacher: Run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said) as error:
        FrozenTeacher(with_model(teacher, _target=model), "cpu")
    assert not (tmp_path / "marker").exists() and "\x1b" not in str(error.value)


def test_what_fits_is_built_as_before(teacher: Run) -> None:
    frozen = FrozenTeacher(find_run(teacher.folder), "cpu")
    assert frozen.num_parameters == sum(value.numel() for value in frozen.model.parameters())
    assert torch.isfinite(frozen.query_points(torch.zeros(3, 3), torch.ones(3, 3), 0.01)[0]).all()
