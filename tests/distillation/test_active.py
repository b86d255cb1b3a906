"""Active learning: a known pattern of errors gives the known priorities; what is saved comes back; off is off."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, distil_config, quiet
from helpers import start, stop_after, weights_of
from nerfstudio.utils.eval_utils import eval_setup
from nerfstudio.viewer.utils import parse_object
from nerfstudio.viewer.viewer_elements import ViewerCheckbox
from torch import Generator

from pvd_nerfstudio.commands.demo import small_nerfacto
from pvd_nerfstudio.distillation.active import points
from pvd_nerfstudio.distillation.active.levels import ActiveLearning, ActiveLearningConfig, ChunkNotes
from pvd_nerfstudio.distillation.active.poses import HardPoses, perturbed
from pvd_nerfstudio.distillation.active.rays import HardRayPool, RayErrors
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.teacher.building import no_lpips


def seeded(number: int = 0) -> Generator:
    return Generator().manual_seed(number)


def poses_at(*places: float) -> torch.Tensor:
    """Upright cameras that stand at these places of the x axis."""
    poses = torch.eye(3, 4).repeat(len(places), 1, 1)
    poses[:, 0, 3] = torch.tensor(places)
    return poses


def test_half_of_the_rays_follow_the_errors_and_half_are_uniform() -> None:
    rays = RayErrors(4)
    rays.update(torch.arange(4), torch.tensor([0.1, 0.2, 0.3, 0.4]))
    uniform, hard = rays.draw(200_000, seeded())
    for drawn, share in ((uniform, [0.25] * 4), (hard, [0.1, 0.2, 0.3, 0.4])):
        assert len(drawn) == 100_000
        assert (torch.bincount(drawn) / len(drawn)).tolist() == pytest.approx(share, abs=0.006)


@pytest.mark.parametrize("fairness", [0.0, 0.5, 1.0])
def test_fair_weights_leave_the_expected_loss_that_of_uniform_rays(fairness: float) -> None:
    errors, values = torch.tensor([0.1, 0.2, 0.3, 3.0]), torch.tensor([5.0, 1.0, 2.0, 0.5])
    rays = RayErrors(4, fairness=fairness)
    rays.update(torch.arange(4), errors)
    drawn = torch.cat(rays.draw(200_000, seeded()))
    weights = rays.weights(drawn)[:, 0]
    assert float(weights.mean()) == pytest.approx(1.0)
    loss = float((weights * values[drawn]).mean())
    biased = float(values[drawn].mean())
    if fairness == 1:
        assert loss == pytest.approx(float(values.mean()), rel=0.01)
    else:  # towards the hard ray, whose value is small
        assert biased - 1e-4 < loss < 0.97 * float(values.mean())


def test_a_ray_of_unknown_error_counts_as_an_average_one() -> None:
    rays = RayErrors(3, share=1.0)
    rays.update(torch.tensor([0, 1]), torch.tensor([0.1, 0.3]))
    share = torch.bincount(rays.draw(100_000, seeded())[1]) / 100_000
    assert share.tolist() == pytest.approx([1 / 6, 3 / 6, 2 / 6], abs=0.006)
    rays.replace(1, 2)
    share = torch.bincount(rays.draw(100_000, seeded())[1]) / 100_000
    assert share.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3], abs=0.006)
    rays.replace(1, 3, torch.tensor([0.2, 0.7]))
    assert rays.errors.tolist() == pytest.approx([0.1, 0.2, 0.7])


def test_errors_are_a_running_mean() -> None:
    rays = RayErrors(5, memory=0.75)
    rays.update(torch.tensor([2, 2, 4]), torch.tensor([0.3, 0.7, 0.2]))
    rays.update(torch.tensor([2]), torch.tensor([0.1]))
    assert rays.errors.tolist() == pytest.approx([-1, -1, 0.75 * 0.5 + 0.25 * 0.1, -1, 0.2])
    assert rays.summary() == pytest.approx({"size": 2, "age": 0.5, "error": (0.4 + 0.2) / 2})


def test_rays_that_end_in_one_place_share_their_error_also_with_those_that_come_later() -> None:
    rays = RayErrors(4, share=1.0, places=3)
    rays.locate(0, torch.tensor([2, 2, 1]))
    rays.update(torch.tensor([0, 2, 3]), torch.tensor([0.4, 0.1, 0.2]))
    share = torch.bincount(rays.draw(100_000, seeded())[1]) / 100_000
    assert share.tolist() == pytest.approx([4 / 11, 4 / 11, 1 / 11, 2 / 11], abs=0.006)
    rays.update(torch.tensor([0, 1]), torch.tensor([0.2, 0.4]))
    assert rays.errors[4:].tolist() == pytest.approx([-1, 0.1, 0.9 * 0.4 + 0.1 * 0.3])
    rays.locate(2, torch.tensor([2, 2]))
    rays.replace(2, 4)
    assert torch.bincount(rays.draw(100_000, seeded())[1]).tolist() == pytest.approx([25_000] * 4, rel=0.05)
    assert rays.summary()["size"] == 2


def test_the_banks_rays_end_where_the_teachers_surface_is(teacher: Run, tmp_path: Path) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "24", *on("rays"))
    pipeline = start(distil_config(tmp_path, *options, "--pipeline.active.ray-cells", "16")).pipeline
    bank, known = pipeline.bank_at(0), pipeline.active.rays
    rays = bank.rays(torch.arange(bank.num_rays))
    cell = known.place[: bank.num_rays].long() - known.capacity
    assert (cell >= 0).all()
    unit = (torch.stack([cell // 256, cell // 16 % 16, cell % 16], dim=-1) + 0.5) / 16
    ends = pipeline.student.grid.to_world(unit)
    along = ((ends - rays.origins) * rays.directions).sum(dim=-1, keepdim=True)
    half_diagonal = float((pipeline.student.grid.aabb[1] - pipeline.student.grid.aabb[0]).norm()) / 32
    assert (rays.origins + along * rays.directions - ends).norm(dim=-1).max() < half_diagonal
    seen = rays.opacity[:, 0] > 0.9
    assert (
        seen.any()
        and (along > rays.start - half_diagonal)[seen].all()
        and (along < rays.end + half_diagonal)[seen].all()
    )


def test_rays_are_drawn_among_the_first_alone() -> None:
    for rays in (RayErrors(100), HardRayPool(10)):
        assert torch.cat(rays.draw(1000, seeded(), among=7)).max() == 6


def test_errors_of_zero_and_no_errors_at_all_still_give_rays() -> None:
    rays = RayErrors(10)
    assert len(rays.draw(1000, seeded())[1].unique()) == 10
    rays.update(torch.arange(10), torch.zeros(10))
    assert len(rays.draw(1000, seeded())[1].unique()) == 10


def test_the_papers_pool_holds_the_worst_tenth_and_replaces_what_it_gave() -> None:
    pool = HardRayPool(size=4)
    errors = torch.arange(100.0)
    for first in (0, 20):
        uniform, hard = pool.draw(20, seeded(), among=100)
        assert len(uniform) == 20 and not len(hard)
        pool.update(torch.arange(first, first + 20), errors[first : first + 20])
    assert sorted(pool.rays.tolist()) == [18, 19, 38, 39]
    uniform, hard = pool.draw(20, seeded(), among=100)
    given = set(hard.tolist())
    assert len(uniform) == 18 and len(given) == 2 and given < {18, 19, 38, 39}
    pool.update(torch.arange(60, 80), errors[60:80])
    assert set(pool.rays.tolist()) == {18, 19, 38, 39} - given | {78, 79}
    pool.replace(70, 79)
    assert 78 not in pool.rays and 79 in pool.rays


def test_pool_of_poses_holds_the_worst_and_forgets_what_is_not_found_bad_again() -> None:
    pool = HardPoses(size=2)
    pool.offer(poses_at(0, 1, 2), torch.tensor([0.1, 0.5, 0.4]))
    assert pool.poses[:, 0, 3].tolist() == [1, 2]
    pool.offer(poses_at(3), torch.tensor([0.37]))
    assert pool.poses[:, 0, 3].tolist() == [1, 3]
    assert pool.errors.tolist() == pytest.approx([0.45, 0.37])
    assert pool.summary() == pytest.approx({"size": 2, "age": 0.5, "error": 0.41})


def test_poses_are_drawn_in_proportion_to_their_error() -> None:
    pool = HardPoses(size=2, degrees=0)
    pool.offer(poses_at(0, 1), torch.tensor([0.1, 0.3]))
    drawn = pool.draw(20_000, seeded())[:, 0, 3]
    assert drawn.mean() == pytest.approx(0.75, abs=0.02)


def test_the_papers_pool_of_poses_waits_until_it_is_full_then_the_oldest_leave() -> None:
    pool = HardPoses(size=3, rule="papers", degrees=0)
    errors = torch.arange(20.0)
    pool.offer(poses_at(*range(20)), errors)
    assert pool.poses[:, 0, 3].tolist() == [19, 18] and not len(pool.draw(5, seeded()))
    pool.offer(poses_at(), torch.zeros(0))
    pool.offer(poses_at(*range(20, 40)), -errors)
    assert pool.poses[:, 0, 3].tolist() == [20, 21, 19]
    assert set(pool.draw(200, seeded())[:, 0, 3].tolist()) == {19, 20, 21}


def test_perturbed_poses_stay_rotations_within_the_limits() -> None:
    poses = perturbed(poses_at(*range(500)), degrees=9.0, shift=0.25, generator=seeded())
    turns = poses[:, :, :3]
    torch.testing.assert_close(turns @ turns.mT, torch.eye(3).expand(500, 3, 3), atol=1e-5, rtol=0)
    assert torch.linalg.det(turns).min() > 0
    angle = torch.rad2deg(torch.acos(turns[:, 2, 2].clamp(-1, 1)))
    assert 5 < angle.max() < 9 * 2**0.5
    moved = poses[:, :, 3] - poses_at(*range(500))[:, :, 3]
    assert 0.2 < moved.abs().max() <= 0.25


def test_points_by_both_weights_and_a_share_of_empty_space() -> None:
    teacher, student = torch.tensor([[0.6], [0.2], [0.0], [0.0]]), torch.tensor([[0.0], [0.0], [0.8], [0.0]])
    index = torch.tensor([0, 0, 1, 1])
    alone = points.probability(teacher, None, index, "error", 0.2)
    assert alone.tolist() == pytest.approx([0.65, 0.25, 0.05, 0.05], abs=1e-4)
    both = points.probability(teacher, student, index, "error", 0.2)
    assert both.tolist() == pytest.approx([0.35, 0.15, 0.45, 0.05], abs=1e-4)


def test_points_are_drawn_from_more_samples_than_multinomial_takes() -> None:
    probability = torch.zeros((1 << 24) + 10)
    probability[[3, 1 << 20, (1 << 24) + 9]] = torch.tensor([0.5, 0.3, 0.2])
    drawn = points.draw(probability, 20000, seeded())
    values, counts = drawn.unique(return_counts=True)
    assert values.tolist() == [3, 1 << 20, (1 << 24) + 9]
    torch.testing.assert_close(counts / 20000, torch.tensor([0.5, 0.3, 0.2]), atol=0.02, rtol=0)


def test_weightiest_points_of_each_ray() -> None:
    weights = torch.tensor([0.1, 0.5, 0.3, 0.0, 0.9, 0.2, 0.2])
    index = torch.tensor([0, 0, 0, 0, 2, 3, 3])
    got = points.weightiest(weights, index)
    assert got.tolist() == [False, True, True, False, True, True, False]
    assert points.weightiest(weights, index, share=1.0).all()
    top = points.probability(weights[:, None], None, index, "papers", 0.5)
    assert (top > 0).tolist() == got.tolist() and len(top[top > 0].unique()) == 1


@pytest.mark.parametrize("rule", ["error", "papers"])
def test_state_comes_back(rule: str) -> None:
    config = ActiveLearningConfig(poses=True, rays=True, points=True, rule=rule, pose_pool=2, ray_pool=6)
    first, second = ActiveLearning(config, 50), ActiveLearning(config, 50)
    first.poses.offer(poses_at(0, 1, 2), torch.tensor([0.1, 0.5, 0.4]))
    for _ in range(4):
        first.learn(torch.cat(first.draw_rays(20, seeded(), 50)), torch.rand(20, generator=seeded()))
    first.poses.offer(poses_at(4, 5, 6), torch.tensor([0.1, 0.5, 0.4]))
    first.note(3, ChunkNotes(19, poses_at(7), torch.arange(5).int()))
    second.config = ActiveLearningConfig(rule=rule)
    second.load_state_dict(first.state_dict())
    assert second.config.on == ["poses", "rays", "points"]
    assert second.summary() == first.summary() != ActiveLearning(config, 50).summary()
    drawn = [torch.cat(one.draw_rays(64, seeded(1), 50)) for one in (first, second)]
    assert torch.equal(*drawn)
    assert torch.equal(second.hard_poses(9, seeded(1)), first.hard_poses(9, seeded(1)))
    notes = second.notes(3, 19)
    assert notes is not None and torch.equal(notes.points, torch.arange(5).int()) and second.notes(3, 20) is None


def test_levels_that_are_off_change_nothing_and_remember_nothing() -> None:
    active = ActiveLearning(ActiveLearningConfig(), 1000)
    active.poses.offer(poses_at(0, 1), torch.tensor([0.1, 0.5]))
    active.learn(torch.arange(10), torch.rand(10))
    assert active.summary() == {} and not len(active.hard_poses(10, seeded()))
    assert (active.rays.errors < 0).all()
    uniform = torch.randint(500, (100,), generator=seeded())
    drawn, hard = active.draw_rays(100, seeded(), 500)
    assert torch.equal(drawn, uniform) and not len(hard)
    active.replace_rays(0, 10, torch.ones(10))
    assert (active.rays.errors < 0).all() and not active.matters
    weights, student, index = torch.rand(6, 1), torch.rand(6, 1), torch.arange(6)
    assert torch.equal(
        active.point_probability(weights, student, index, 0.2), points.probability(weights, None, index, "error", 0.2)
    )


LEVELS = ("poses", "rays", "points")


def on(*levels: str) -> tuple[str, ...]:
    return tuple(word for level in levels for word in (f"--pipeline.active.{level}", "True"))


@pytest.mark.parametrize("rule", ["error", "papers"])
def test_a_run_with_all_levels_resumes_as_if_it_had_not_stopped(rule: str, teacher: Run, tmp_path: Path) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "48", *on(*LEVELS))
    options += ("--pipeline.active.rule", rule, "--pipeline.active.pose-pool", "8", "--pipeline.active.ray-pool", "24")
    options += ("--pipeline.datamanager.pseudo-views-per-chunk", "10")
    straight = start(distil_config(tmp_path, *options, name="straight"))
    straight.train()
    assert {"hard_poses_size", "hard_rays_error"} <= set(straight.pipeline.get_train_loss_dict(47)[2])
    first = start(distil_config(tmp_path, *options, name="first"))
    stop_after(first, 26)
    saved = weights_of(first.base_dir)
    assert saved["active.poses._extra_state"]["poses"].shape[0] > 0
    _, viewed, _, _ = eval_setup(first.base_dir / "config.yml")  # the stock loader opens it
    assert viewed.active is None
    second = start(distil_config(tmp_path, "--load-dir", str(first.checkpoint_dir), name="second"))
    second.train()
    theirs = weights_of(straight.base_dir)
    assert not [name for name in theirs if name.startswith("active")]
    for key, value in weights_of(second.base_dir).items():
        torch.testing.assert_close(value, theirs[key], atol=1e-6, rtol=1e-5)


def test_each_level_alone_changes_the_run_and_off_is_off(teacher: Run, tmp_path: Path) -> None:
    """A run without any level is the same whatever their numbers are; with one, another one."""
    options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "40")
    numbers = ("--pipeline.active.pose-share", "0.9", "--pipeline.active.ray-share", "0.9")
    runs = {"plain": (), "off": numbers} | {level: (*numbers, *on(level)) for level in LEVELS}
    last: dict[str, torch.Tensor] = {}
    for name, chosen in runs.items():
        trainer = start(distil_config(tmp_path, *options, *chosen, name=name))
        trainer.train()
        last[name] = torch.cat([weight.flatten() for weight in trainer.pipeline.student.field.parameters()])
    assert torch.equal(last["plain"], last["off"])
    for level in LEVELS:
        assert not torch.equal(last[level], last["off"]), level


def test_check_boxes_switch_the_levels(teacher: Run, tmp_path: Path) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "24", *on("rays"))
    pipeline = start(distil_config(tmp_path, *options)).pipeline
    boxes = {name: box for name, box in parse_object(pipeline, ViewerCheckbox, "Custom Elements") if "Hard" in box.name}
    assert {box.name: box.value for box in boxes.values()} == {
        "Hard poses": False,
        "Hard rays": True,
        "Hard points": False,
    }
    box = next(box for box in boxes.values() if box.name == "Hard rays")
    box.value = False
    box.cb_hook(box)
    assert pipeline.active.config.on == []
    pipeline.get_train_loss_dict(23)
    pipeline._after_step(23)
    assert (pipeline.active.rays.errors < 0).all()


def test_errors_of_an_interrupted_step_are_not_learned(teacher: Run, tmp_path: Path) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "24", *on("rays"))
    pipeline = start(distil_config(tmp_path, *options)).pipeline
    pipeline.bank_at(23)  # its newest chunks are known from the start
    before = pipeline.active.rays.errors.clone()
    pipeline.get_train_loss_dict(23)
    assert torch.equal(pipeline.active.rays.errors, before)
    pipeline._after_step(23)
    assert not torch.equal(pipeline.active.rays.errors, before)


def test_rays_know_their_views(teacher: Run, tmp_path: Path) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "24")
    data = start(distil_config(tmp_path, *options)).pipeline.datamanager
    hard = data.train_cameras.camera_to_worlds[:2] + 7.0
    views = data.viewpoints(hard, seeded())
    rays = views.rays(1000, seeded())
    assert torch.equal(views.poses[:2], hard)
    torch.testing.assert_close(rays.origins, views.poses[rays.camera_indices[:, 0]][:, :, 3])
    pseudo = rays.camera_indices[:, 0] < data.config.pseudo_views_per_chunk
    assert pseudo.sum() == 500


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--pipeline.active.ray-share", "1.0"), "ray-share is 1.0"),
        (("--pipeline.active.pose-pool", "0"), "pose-pool"),
        (("--pipeline.active.rays", "True", "--pipeline.distillation.preset", "pvd"), "holds one chunk alone"),
    ],
)
def test_levels_that_make_no_sense_are_refused(
    options: tuple[str, ...], said: str, teacher: Run, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        distil_config(tmp_path, "--teacher-checkpoint", str(teacher.folder), *options)


def test_the_example_of_the_documentation_finds_hard_pixels(scene: Path, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "active_learning.md").read_text("utf8")
    example = text.split("```python\n")[1].split("```")[0]
    made: dict[str, Any] = {"__name__": "example"}
    exec(example, made)  # noqa: S102
    config = small_nerfacto(scene, steps=40)
    made["look_hard"](config)
    with no_lpips():
        torch.manual_seed(0)
        trainer = quiet(config, tmp_path, "hard").setup(local_rank=0, world_size=1)
        trainer.setup()
        trainer.train()
    rays = trainer.pipeline.datamanager.train_pixel_sampler.rays
    assert len(rays.errors) == 12 * 40 * 40 and 4000 < rays.summary()["size"] < 15000
    uniform, hard = rays.draw(4000, seeded())
    assert rays.errors[hard].clamp_min(0).mean() > 1.5 * rays.errors[uniform].clamp_min(0).mean()
