"""Muon learns the matrices of networks, AdamW all the rest, and runs are saved and gone on with as ever."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, distil_config
from helpers import OLD_RUNS, start, stop_after, weights_of

from pvd_nerfstudio.commands.demo import train
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.teacher.checkpoint import find_run, load_checkpoint
from pvd_nerfstudio.trainer import PVDTrainer
from pvd_nerfstudio.training.muon import Muon, orthogonal
from pvd_nerfstudio.training.optimizers import (
    GrowingOptimizers,
    MuonOptimizerConfig,
    RootSchedulerConfig,
    check_optimizers,
)


def started(teacher: Run, output: Path, *options: str) -> PVDTrainer:
    steps = () if "--max-num-iterations" in options else ("--max-num-iterations", "30")
    return start(distil_config(output, "--teacher-checkpoint", str(teacher.folder), *steps, *options))


def learned_by(trainer: PVDTrainer, group: str) -> set[str]:
    ours = {id(value) for value in trainer.optimizers.parameters.get(group, [])}
    return {name for name, value in trainer.pipeline.student.field.named_parameters() if id(value) in ours}


@pytest.mark.parametrize("name", ["mlp", "hash", "vm", "sparse", "hybrid"])
def test_matrices_are_those_of_networks(name: str, teacher: Run, tmp_path: Path) -> None:
    """Neither tables and factors, nor biases, nor the layer of three colours; and each is learned once."""
    trainer = started(teacher, tmp_path, "--student", name)
    field = trainer.pipeline.student.field
    matrices, rest = learned_by(trainer, "matrices"), learned_by(trainer, "fields")
    assert matrices | rest == {name for name, _ in field.named_parameters()} and not matrices & rest
    layers = {f"{name}.weight" for name, layer in field.named_modules() if isinstance(layer, torch.nn.Linear)}
    last = {name for name in layers if len(dict(field.named_parameters())[name]) == 3}
    assert matrices == layers - last
    assert bool(matrices) == (name != "sparse")


def test_a_run_resumes_as_if_it_had_not_stopped(teacher: Run, tmp_path: Path) -> None:
    """Of a student that grows; to the last bit."""
    options = ("--student", "vm", "--pipeline.model.vm.grow-at", "0.1", "0.6", "--max-num-iterations", "30")
    words = ("--teacher-checkpoint", str(teacher.folder), *options)
    straight, _ = train(distil_config(tmp_path, *words, name="straight"), lambda share: None)
    first = start(distil_config(tmp_path, *words, name="first"))
    stop_after(first, 12)
    assert set(load_checkpoint(find_run(first.base_dir).checkpoint_path)["optimizers"]) >= {"matrices", "fields"}
    load = ("--load-dir", str(first.checkpoint_dir))
    second, _ = train(distil_config(tmp_path, *load, name="second"), lambda share: None)
    ours = weights_of(second)
    for name, value in weights_of(straight).items():
        assert not isinstance(value, torch.Tensor) or torch.equal(ours[name], value), name


def test_a_run_of_the_first_release_goes_on_with_its_optimiser(teacher: Run, tmp_path: Path) -> None:
    load = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "42")
    old = OLD_RUNS / "mlp" / "nerfstudio_models"
    trainer = start(distil_config(tmp_path, *load, "--load-dir", str(old)))
    assert not learned_by(trainer, "matrices")
    assert set(trainer.optimizers.optimizers) == {"fields"}
    method = trainer.config.pipeline.distillation
    assert method.start_chunks == method.first_chunks  # its bank was filled before the first step
    trainer.train()


def test_rates_suit_the_student_unless_they_are_typed(teacher: Run, tmp_path: Path) -> None:
    config: Any = distil_config(tmp_path, "--teacher-checkpoint", str(teacher.folder))
    chosen = config.pipeline.model.chosen
    assert config.optimizers["matrices"]["optimizer"].lr == chosen.matrix_learning_rate
    assert config.optimizers["fields"]["optimizer"].lr == chosen.learning_rate
    typed = ("--optimizers.matrices.optimizer.lr", "0.3", "--optimizers.matrices.optimizer.momentum", "0.5")
    config = distil_config(tmp_path, "--teacher-checkpoint", str(teacher.folder), *typed)
    muon = config.optimizers["matrices"]["optimizer"]
    assert (muon.lr, muon.momentum) == (0.3, 0.5)
    with pytest.raises(InputError, match=r"--optimizers\.matrices\.optimizer\.momentum is 1"):
        distil_config(tmp_path, "--teacher-checkpoint", str(teacher.folder), *typed[2:3], "1.0")


def test_mixed_precision_scales_the_gradients_of_both() -> None:
    """GradScaler hands Muon what AdamW gets: gradients as large as they are; a step that overflowed changes nothing."""
    matrix, bias = torch.nn.Parameter(torch.randn(8, 8)), torch.nn.Parameter(torch.randn(8))
    config = distilled_optimizers()
    optimizers = GrowingOptimizers(config, {"matrices": [matrix], "fields": [bias]})
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for factor in (1.0, float("inf")):
        before = matrix.detach().clone(), bias.detach().clone()
        optimizers.zero_grad_all()
        scaler.scale(factor * (matrix.square().sum() + bias.square().sum())).backward()
        optimizers.optimizer_scaler_step_all(scaler)
        scaler.update()
        moved = [not torch.equal(old, new) for old, new in zip(before, (matrix, bias))]
        assert moved == [factor == 1.0] * 2


def test_muon_is_torchs_but_for_its_precision() -> None:
    """The same steps for wide, square and tall matrices, and each goes on from the other's state."""
    generator, shapes = torch.Generator().manual_seed(0), [(32, 48), (32, 32), (32, 32), (48, 16)]
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    theirs, ours = ([torch.nn.Parameter(value.clone()) for value in start] for _ in range(2))
    options: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.1}
    optimizers = torch.optim.Muon(theirs, **options), Muon(ours, **options)
    for step in range(6):
        gradients = [torch.randn(shape, generator=generator) for shape in shapes]
        for parameters, optimizer in zip((theirs, ours), optimizers):
            for parameter, gradient in zip(parameters, gradients):
                parameter.grad = gradient.clone() if step != 4 or gradient.shape != (48, 16) else None
            optimizer.step()
        if step == 2:
            states = [copy.deepcopy(optimizer.state_dict()) for optimizer in optimizers]
            for optimizer, state in zip(optimizers, reversed(states)):
                optimizer.load_state_dict(state)
    for before, one, other in zip(start, theirs, ours):
        assert (one - other).norm() < 0.01 * (one - before).norm()


def test_orthogonal_has_singular_values_near_one() -> None:
    matrices = torch.randn(3, 24, 16, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrices, (3.4445, -4.775, 2.0315), 5, 1e-7))
    assert values.min() > 0.6 and values.max() < 1.3


def distilled_optimizers() -> dict[str, Any]:
    from pvd_nerfstudio.registry import pvd_distill

    config = copy.deepcopy(pvd_distill.config.optimizers)
    for group in config.values():
        group["optimizer"].lr, group["scheduler"].max_steps = 1e-2, 10
    return config


def test_an_optimiser_of_another_kind_is_refused() -> None:
    config = distilled_optimizers()
    check_optimizers(config, ("fields",), "config.yml")
    config["fields"] = config["fields"] | {"optimizer": MuonOptimizerConfig(lr=1.0)}
    with pytest.raises(InputError, match=r"optimizers\.fields"):
        check_optimizers(config, ("fields",), "config.yml")


def test_the_rate_falls_with_the_root_of_the_steps_and_linearly_to_its_end() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    config = RootSchedulerConfig(max_steps=10_000, flat_steps=100, warmup_steps=10, lr_final=1e-4)
    schedule = config.setup().get_scheduler(torch.optim.SGD([parameter], lr=1.0), 1.0)
    rate = schedule.lr_lambdas[0]
    assert rate(0) == pytest.approx(0.1) and rate(50) == pytest.approx(1.0, rel=0.01)
    assert rate(400) == pytest.approx(0.96 / 2) and rate(1600) == pytest.approx(0.84 / 4)
    assert rate(10_000) == rate(20_000) == pytest.approx(1e-4)
    assert all(type(value) is float for value in map(rate, range(0, 20_000, 999)))
