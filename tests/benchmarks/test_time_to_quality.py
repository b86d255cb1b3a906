"""The benchmark of time to quality: its clock, its arms on a tiny scene, its table."""

import json
from pathlib import Path

import pytest
import torch
import tyro
from conftest import SMALL, Run

from benchmarks import fidelity, time_to_quality
from benchmarks.arm import Arm, ImagePipeline
from benchmarks.stock import Stock
from benchmarks.time_to_quality import TimeToQuality, seconds_until
from benchmarks.timed import Stopwatch
from pvd_nerfstudio.pipeline.handover import shared_samples

CURVE = [
    {"seconds": 10.0, "steps": 5, "psnr": 20.0, "worst": 18.0},
    {"seconds": 30.0, "steps": 15, "psnr": 24.0, "worst": 20.0},
]


def test_when_a_curve_reaches_a_quality() -> None:
    assert seconds_until(CURVE, 15.0) == 10.0
    assert seconds_until(CURVE, 23.0) == pytest.approx(25.0)
    assert seconds_until(CURVE, 24.5) is None


def test_the_watch_stands_still_while_it_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 2.0, 10.0, 13.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    watch = Stopwatch()
    watch.start()
    watch.hold()
    assert watch.seconds == 2.0
    watch.start()
    assert watch.seconds == 5.0


def test_table_compares_with_the_end_of_scratch() -> None:
    scratch = {"arm": "scratch", "seed": 0, "curve": CURVE}
    ours = {"arm": "all", "curve": [CURVE[0] | {"psnr": 22.0}, CURVE[1] | {"psnr": 26.0}], "teacher_share": 0.1}
    ours |= {"step_ratio": 1.08, "fidelity": {"mean": 31.0, "worst": 29.0, "p99": 0.1}}
    first, second = time_to_quality.table_cells([scratch, ours | {"seed": 0}, ours | {"seed": 1}])
    assert first == ["scratch", "24.00", "20.00", "30", "15", "30", "1/1.0", *"-----"]
    assert second[:7] == ["all", "26.00 ± 0.00", "20.00 ± 0.00", "30", "15", "20", "1/1.5"]
    assert second[7:] == ["31.00 ± 0.00", "29.00 ± 0.00", "0.100 ± 0.000", "10%", "1.08"]


def parsed(tmp_path: Path, teacher: Run, name: str) -> Arm:
    words = ["--name", name, "--teacher", str(teacher.folder), f"--options={' '.join(SMALL)}", "--steps", "30"]
    words += ["--pixels", "40", "--output", str(tmp_path / f"{name}.json"), "--times", "0", "1000"]
    return tyro.cli(Arm, args=words)


def test_arms_train_and_are_measured(teacher: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "VIEWS", 10)
    for name in ("scratch", "all"):
        parsed(tmp_path, teacher, name).run()
        result = json.loads((tmp_path / f"{name}.json").read_text())
        first, last = result["curve"]
        assert first["steps"] == 0 and last["steps"] == 30 and last["seconds"] > first["seconds"] > 0
        assert last["psnr"] > last["worst"] > 0
    assert 0 < result["teacher_share"] < 1 and result["step_ratio"] > 0.5


def test_scratch_learns_from_images_alone(teacher: Run, tmp_path: Path) -> None:
    config = parsed(tmp_path, teacher, "scratch")._distillation()
    config.output_dir, config.vis = tmp_path, "tensorboard"
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    pipeline = trainer.pipeline
    assert isinstance(pipeline, ImagePipeline) and pipeline.stage(0).name == "pixels"
    rays = pipeline.bank_at(0).rays(torch.arange(200))
    assert (rays.start == 0).all() and rays.end.isinf().all()
    samples = shared_samples(pipeline.student).march(rays.origins, rays.directions)
    assert len(samples.ray_indices.unique()) > 190


def test_results_of_other_settings_are_not_mixed(teacher: Run, tmp_path: Path) -> None:
    TimeToQuality(teacher.folder, arms=(), output=tmp_path / "out").run()
    with pytest.raises(SystemExit, match="choose another folder"):
        TimeToQuality(teacher.folder, student="hash", arms=(), output=tmp_path / "out").run()


def test_a_student_without_a_stock_method(teacher: Run, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no method of its own for 'sparse'"):
        Stock(teacher.folder, student="sparse", output=tmp_path).run()


def test_stock_nerfacto_gets_the_scenes_bounds(teacher: Run, tmp_path: Path) -> None:
    arm = Arm("nerfacto", teacher.folder, tmp_path / "a.json", steps=7)
    model = arm._stock().pipeline.model
    assert (model.near_plane, model.far_plane, model.disable_scene_contraction) == (2.0, 6.0, True)
