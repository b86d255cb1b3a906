"""`pvd sweep`: several students of one teacher, which is asked once."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, distil_config
from helpers import start, weights_of

from pvd_nerfstudio.commands import sweep
from pvd_nerfstudio.commands.sharing import Shared, SharingPipeline
from pvd_nerfstudio.commands.sweep import Sweep
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.teacher.frozen import FrozenTeacher

STEPS = 30


def converted(teacher: Run, output: Path, student: str, shared: Shared | None) -> Path:
    options = ("--teacher-checkpoint", str(teacher.folder), "--student", student, "--max-num-iterations", str(STEPS))
    config: Any = distil_config(output, *options, name=student)
    if shared is not None:
        config.pipeline._target = partial(SharingPipeline, shared)
    trainer = start(config)
    trainer.train()
    return trainer.base_dir


@pytest.mark.parametrize("second", ["hash", "sparse"])
def test_a_student_is_the_same_whether_it_shares_or_not(
    teacher: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    alone = weights_of(converted(teacher, tmp_path / "alone", second, None))
    shared = Shared()
    converted(teacher, tmp_path / "shared", "mlp", shared)
    asked = set(shared.chunks)

    def built_again(*_: Any, **__: Any) -> None:
        raise AssertionError("the teacher is loaded once")

    monkeypatch.setattr(FrozenTeacher, "__init__", built_again)
    folder = converted(teacher, tmp_path / "shared", second, shared)
    together = weights_of(folder)
    assert all(torch.equal(value, together[name]) for name, value in alone.items() if isinstance(value, torch.Tensor))
    assert asked and asked <= set(shared.chunks) and shared.asked == len(shared.chunks)
    assert "Sharing" not in (folder / "config.yml").read_text()


def test_a_sweep_draws_all_and_any_can_be_gone_on_with(
    teacher: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = {
        "mlp": "--pipeline.model.mlp.hidden-dim 32",
        "cp": "--pipeline.model.cp.resolution 24 --pipeline.model.cp.start-resolution 12",
    }
    small = (
        "--pipeline.model.grid-resolution 32 --pipeline.model.render-step-size 0.05 --machine.device-type cpu "
        "--pipeline.distillation.rays-per-chunk 256 --pipeline.distillation.points-per-chunk 512 "
        "--pipeline.distillation.rays-per-step 64 --pipeline.distillation.points-per-step 256"
    )
    monkeypatch.setattr(sweep, "sizes_of", lambda student, size: f"{tiny[student]} {small}".split())
    monkeypatch.setattr(sweep, "TRIAL_STEPS", 5)
    monkeypatch.setattr(sweep, "size_that_fits", lambda *_: "small")
    options = {"students": ("mlp", "cp"), "minutes": 0.05, "output": tmp_path / "sweep.html"}
    Sweep(teacher.folder, output_dir=tmp_path / "runs", **options).run()
    figures = json.loads((tmp_path / "sweep.json").read_text())
    assert [one["student"] for one in figures] == ["mlp", "cp"]
    assert all(one["psnr"] > 5 and one["megabytes"] > 0 and one["rays_per_second"] > 0 for one in figures)
    html = (tmp_path / "sweep.html").read_text()
    assert html.count("--load-dir") == 2 and "data:image/png" in html and "student: cp" in html
    said = capsys.readouterr().out
    assert "ns-train pvd-distill --load-dir" in "".join(said.split("\n")) or "ns-train" in said
    with pytest.raises(InputError, match="sweep.html exists already"):
        Sweep(teacher.folder, output_dir=tmp_path / "runs", **options).run()

    one = figures[1]
    load = ("--load-dir", str(Path(one["config"]).parent / "nerfstudio_models"))
    more: Any = distil_config(tmp_path / "more", *load, "--max-num-iterations", str(one["steps"] + 2))
    capsys.readouterr()
    trainer = start(more)
    assert "no optimiser state" not in capsys.readouterr().out
    trainer.train()
    assert (trainer.checkpoint_dir / f"step-{one['steps'] + 1:09d}.ckpt").exists()


def test_wrong_options_of_a_sweep_stop_before_any_work(teacher: Run, tmp_path: Path) -> None:
    for options, said in (
        ({"students": ()}, "names none"),
        ({"students": ("mlp", "mlp")}, "twice"),
        ({"output": tmp_path / "sweep.txt"}, "should end with .html"),
        ({"minutes": 0.0}, "minutes"),
    ):
        with pytest.raises(InputError, match=said):
            Sweep(teacher.folder, **options).run()
    with pytest.raises(InputError, match="does not exist"):
        Sweep(tmp_path / "gone", output=tmp_path / "sweep.html").run()
    assert not any(tmp_path.iterdir())
