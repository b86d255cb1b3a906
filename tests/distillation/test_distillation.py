"""Losses, stages and bank: their arithmetic, and that they depend on the step and the seed alone."""

import math

import pytest
import torch
from torch import Generator

from pvd_nerfstudio.distillation import losses
from pvd_nerfstudio.distillation.bank import BankChunk, PointTargets, RayTargets, TargetBank
from pvd_nerfstudio.distillation.stages import DistillationConfig
from pvd_nerfstudio.errors import InputError


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None]


def test_norms() -> None:
    difference = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert losses.norm_of(difference, "mean") == pytest.approx(25 / 4)
    assert losses.norm_of(difference, "frobenius") == pytest.approx(5.0)


def test_frobenius_norm_of_nothing_has_a_finite_gradient() -> None:
    same = torch.zeros(4, 3, requires_grad=True)
    losses.norm_of(same, "frobenius").backward()
    assert same.grad is not None and torch.isfinite(same.grad).all()


def test_log_density_beyond_the_same_bound_costs_nothing() -> None:
    student, teacher = column(-9.0, 12.0), column(-5.0, 9.0)
    assert losses.log_density_loss(student, teacher, "mean") == 0


def test_log_density_beyond_a_bound_is_pulled_back_to_a_teacher_within() -> None:
    student = column(-9.0, 12.0).requires_grad_()
    losses.log_density_loss(student, column(1.0, 1.0), "mean").backward()
    assert student.grad is not None and student.grad[0] < 0 < student.grad[1]


def test_opacity_loss_is_bounded_and_what_a_step_shows() -> None:
    assert losses.opacity_loss(column(7.0), column(-20.0), 10.0, "mean") == pytest.approx(1.0)
    got = losses.opacity_loss(column(math.log(2.0)), column(math.log(5.0)), 0.1, "mean")
    assert got == pytest.approx((math.exp(-0.2) - math.exp(-0.5)) ** 2, rel=1e-4)


def test_color_counts_by_weight() -> None:
    student, teacher = torch.zeros(2, 3), torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    heavy = losses.color_loss(student, teacher, column(1.0, 0.0), "mean")
    light = losses.color_loss(student, teacher, column(0.0, 1.0), "mean")
    assert heavy == pytest.approx(1.0) and light == 0


def test_pixels_with_the_same_look_on_black_differ_by_their_opacity() -> None:
    rgb, white = torch.full((5, 3), 0.25), torch.ones(5, 3)
    half, full = torch.full((5, 1), 0.5), torch.ones(5, 1)
    assert losses.pixel_loss(rgb, half, rgb, full, torch.zeros(5, 3), "mean") == 0
    assert losses.pixel_loss(rgb, half, rgb, full, white, "mean") == pytest.approx(0.25)


def test_the_papers_schedule() -> None:
    method = DistillationConfig(preset="pvd").resolved()
    steps = 30000
    names = [method.stage(step / steps).name for step in (0, 1999, 2000, 4999, 5000, 29999)]
    assert names == ["features", "features", "points", "points", "pixels", "pixels"]
    first, second, third = (method.stage(step / steps) for step in (0, 2000, 5000))
    assert first.weights.color == first.weights.log_density == 0 and not first.uses_rays
    assert (second.weights.feature, second.weights.color, second.weights.log_density) == (2e-3, 2e-3, 2e-3)
    assert third.weights.pixel == 1 and third.weights.feature == 2e-3 and third.uses_points


def test_what_the_user_sets_wins_over_the_preset() -> None:
    method = DistillationConfig(point_end=0.9, pixel_weight=3.0).resolved()
    assert method.stage(0.89).name == "points"
    assert method.stage(0.9).weights.pixel == 3.0


def test_what_a_student_prefers_comes_between_the_preset_and_the_user() -> None:
    preferred = {"rays_per_step": 7, "points_per_step": 8}
    method = DistillationConfig(points_per_step=9).resolved(preferred)
    assert (method.rays_per_step, method.points_per_step) == (7, 9)
    assert DistillationConfig(preset="pvd").resolved(preferred).rays_per_step == 4096


def test_a_weight_of_zero_leaves_the_term_out() -> None:
    method = DistillationConfig(preset="pvd", pixel_weight=0.0).resolved()
    assert not method.stage(0.99).uses_rays
    method = DistillationConfig(point_loss_in_pixels=0.0).resolved()
    assert not method.stage(0.99).uses_points


def test_a_stage_without_any_loss_is_refused() -> None:
    with pytest.raises(InputError, match="pixels"):
        DistillationConfig(pixel_weight=0.0).resolved()
    with pytest.raises(InputError, match="features"):
        DistillationConfig(feature_end=0.1).resolved()
    assert DistillationConfig(pixel_weight=0.0, point_end=1.0).resolved().stage(0.99).name == "points"


class CountingSource:
    """A source whose chunks tell their number by their random content."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, number: int, slot: int, generator: Generator) -> BankChunk:
        self.calls += 1
        three, one = torch.rand(4, 3, generator=generator), torch.rand(4, 1, generator=generator)
        rays = RayTargets(three, three, three, one, one, one)
        return BankChunk(rays, PointTargets(three, three, one, three, one, None))


def make_bank(**options: int) -> tuple[TargetBank, CountingSource]:
    source = CountingSource()
    numbers = {"seed": 3, "chunks": 3, "start_chunks": 2, "fill_every": 4, "first_chunks": 2, "refresh_every": 10}
    numbers |= options
    return TargetBank(source, **numbers), source


def everything(bank: TargetBank) -> torch.Tensor:
    return bank.rays(torch.arange(bank.num_rays)).origins


def test_bank_asks_for_the_first_chunks_then_for_one_now_and_then() -> None:
    bank, source = make_bank()
    assert bank.advance(0) == 2
    assert [bank.advance(step) for step in range(1, 21)] == [0] * 9 + [1] + [0] * 9 + [1]
    assert source.calls == 4
    assert bank.wanted(20) == range(1, 4)


def test_bank_fills_while_training_goes_on() -> None:
    bank, source = make_bank(start_chunks=1, first_chunks=3, chunks=4)
    assert [bank.advance(step) for step in range(20)] == [1] + [0] * 3 + [1] + [0] * 3 + [1] + [0] * 9 + [1, 0]
    assert bank.wanted(18) == range(4) and source.calls == 4
    resumed, _ = make_bank(start_chunks=1, first_chunks=3, chunks=4)
    resumed.advance(6)
    assert resumed.num_rays == 8


def test_bank_draws_only_from_what_is_filled() -> None:
    bank, _ = make_bank(chunks=64)
    bank.advance(0)
    drawn = everything(bank)
    assert (drawn != 0).all() and len(drawn.unique(dim=0)) == 8


def test_oldest_part_makes_room() -> None:
    bank, _ = make_bank()
    bank.advance(0)
    before = everything(bank).unique(dim=0)
    for step in range(31):
        bank.advance(step)
    after = everything(bank).unique(dim=0)
    assert len(after) == 12
    assert not any((row == before).all(dim=1).any() for row in after)


def test_resumed_bank_is_the_one_that_never_stopped() -> None:
    steady, _ = make_bank()
    for step in range(47):
        steady.advance(step)
    resumed, _ = make_bank()
    resumed.advance(46)
    assert torch.equal(everything(steady), everything(resumed))


def test_seeds_give_different_banks() -> None:
    first, second = make_bank()[0], make_bank(seed=4)[0]
    first.advance(0)
    second.advance(0)
    assert not torch.equal(everything(first), everything(second))
