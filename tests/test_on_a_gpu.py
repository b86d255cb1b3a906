"""Whole conversions on a pretended GPU: nothing lies on the wrong device, and the CPU waits where it is known."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import Run, distil_config
from helpers import start, weights_of
from pretended import CUDA, GPU, OnGPU, a_gpu

from pvd_nerfstudio.student.registry import BUILT_IN
from pvd_nerfstudio.trainer import LOOK_EVERY, PVDTrainer

STEPS = 14
IN_A_STEP = {"points": {}, "pixels": {"occupancy.march: nonzero": 1}}
"""What the CPU waits for in a step, as docs/gpu.md has it: how many samples the rays have."""
OF_A_PICTURE = {"picture_step._draw", "splatting.rasterize", "splatting.pair", "splatting.portions"}
"""Functions in which it waits where a splat is drawn without gsplat's kernels, also for how much goes on behind."""


def on_a_gpu(output: Path, *options: str) -> PVDTrainer:
    """A trainer there, begun."""
    config = distil_config(output, *options)
    config.machine.device_type = "cuda"
    return start(config)


def told_by(trainer: PVDTrainer, gpu: GPU) -> list[Counter[str]]:
    """Train, and say what the CPU waited for in each step."""
    told: list[Counter[str]] = []

    def listen(step: int) -> None:
        told.append(gpu.waits)
        gpu.waits = Counter()

    gpu.waits = Counter()
    trainer.on_step(listen)
    trainer.train()
    return told


def to(teacher: Run, student: str, *options: str) -> tuple[str, ...]:
    return (
        *("--teacher-checkpoint", str(teacher.folder), "--student", student),
        *("--max-num-iterations", str(STEPS), *options),
    )


@pytest.mark.parametrize("student", BUILT_IN)
def test_the_cpu_waits_for_a_gpu_where_it_is_known(student: str, teacher: Run, tmp_path: Path) -> None:
    with a_gpu() as gpu:
        trainer = on_a_gpu(tmp_path, *to(teacher, student))
        pipeline, bank = trainer.pipeline, trainer.pipeline.bank_at(0)
        told = told_by(trainer, gpu)
        quiet = [
            step
            for step in range(1, STEPS)
            if bank.wanted(step) == bank.wanted(step - 1) and step % LOOK_EVERY and (step - 1) % LOOK_EVERY
        ]
        grown = [step for step in quiet if any("grow" in place or "sparse" in place for place in told[step])]
        assert len(quiet) >= STEPS / 3 and len(grown) <= len(getattr(pipeline.config.model.chosen, "prune_at", ()))
        for step in set(quiet) - set(grown):
            if student == "splat":
                assert {place.split(":")[0].replace("_portions_of", "portions") for place in told[step]} == OF_A_PICTURE
            else:
                assert told[step] == IN_A_STEP[pipeline.stage(step).name], step
        camera, _ = pipeline.datamanager.next_eval_image(0)
        pipeline.eval()
        images = pipeline.student.get_outputs_for_camera(camera)
        assert all(isinstance(image, OnGPU) and image.isfinite().all() for image in images.values())
    assert not any(isinstance(value, OnGPU) for value in weights_of(trainer.base_dir).values())


def test_a_run_on_a_gpu_comes_out_as_on_a_cpu(teacher: Run, tmp_path: Path) -> None:
    """Its samples are found in another way, and resuming goes from one to the other."""
    options = to(teacher, "vm", "--steps-per-save", "5", "--save-only-latest-checkpoint", "False")
    start(distil_config(tmp_path / "cpu", *options)).train()
    with a_gpu():
        on_a_gpu(tmp_path / "gpu", *options).train()
        saved = next((tmp_path / "cpu").rglob("*0005.ckpt"))
        resumed = on_a_gpu(tmp_path / "on", "--load-checkpoint", str(saved))
        assert resumed.pipeline.student.device == CUDA and resumed._start_step == 6
        resumed.train()
    expected = weights_of(next((tmp_path / "cpu").rglob("config.yml")).parent)
    for where in ("gpu", "on"):
        weights = weights_of(next((tmp_path / where).rglob("config.yml")).parent)
        for name, value in expected.items():
            if torch.is_tensor(value) and value.is_floating_point():
                torch.testing.assert_close(
                    weights[name], value, atol=1e-4, rtol=1e-3, msg=lambda told: f"{name}: {told}"
                )


@pytest.mark.parametrize(
    "options",
    [
        ("--pipeline.distillation.preset", "pvd"),
        ("--pipeline.active.poses", "True", "--pipeline.active.rays", "True", "--pipeline.active.points", "True"),
        ("--pipeline.distillation.training-images", "True", "--pipeline.active.rule", "papers"),
        ("--pipeline.model.contracted", "True", "--pipeline.model.background-color", "last_sample"),
        ("--pipeline.datamanager.pseudo-views", "path"),
    ],
    ids=lambda options: options[0].rpartition(".")[2],
)
def test_other_ways_to_learn_run_on_a_gpu(options: tuple[str, ...], teacher: Run, tmp_path: Path) -> None:
    with a_gpu():
        on_a_gpu(tmp_path, *to(teacher, "mlp", *options)).train()


def test_teachers_without_a_density_run_on_a_gpu(families, tmp_path: Path) -> None:
    """Gaussians, asked at points and not, are the student's teacher."""
    for number, asked in enumerate(("True", "False")):
        with a_gpu():
            options = to(Run(families["splatfacto"]), "mlp", "--pipeline.splat-density", asked)
            on_a_gpu(tmp_path / str(number), *options).train()


def test_edits_run_on_a_gpu(teacher: Run, tmp_path: Path) -> None:
    """Of all kinds, with regions of all kinds."""
    ball = {"kind": "sphere", "center": [0.0, 0.0, 0.3], "radius": 0.3, "edge": 0.05}
    box = {"kind": "box", "center": [0.2, 0.0, 0.3], "scale": [0.5, 0.5, 0.5], "rotation": [0.1, 0.2, 0.3]}
    half = {"kind": "halfspace", "point": [0.0, 0.0, 0.0], "normal": [1.0, 1.0, 0.0]}
    entries = [
        {"kind": "erase", "region": ball},
        {"kind": "keep", "region": {"kind": "complement", "of": {"kind": "union", "of": [ball, box]}}},
        {"kind": "move", "region": half, "translation": [0.1, 0.0, 0.0], "rotation": [0.0, 0.0, 0.5]},
        {"kind": "recolor", "region": half, "hue": 40},
        {"kind": "recolor", "region": box, "color": [1.0, 0.0, 0.0]},
        {"kind": "insert", "run": str(teacher.folder), "scale": 0.5},
    ]
    (tmp_path / "edits.json").write_text(json.dumps({"version": 1, "edits": entries}))
    options = to(
        teacher, "hash", "--edits", str(tmp_path / "edits.json"), "--pipeline.distillation.feature-weight", "1"
    )
    with a_gpu():
        trainer = on_a_gpu(tmp_path / "run", *options)
        trainer.train()
        trainer.pipeline.eval()
        assert trainer.pipeline.get_average_eval_image_metrics()["psnr_to_teacher"] > 5
