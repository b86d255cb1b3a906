"""Edits of trained runs: every family answers with them, and a conversion carries them into the student."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, distil_config
from helpers import refused, start
from nerfstudio.utils.eval_utils import eval_setup
from teachers import FAMILIES

from pvd_nerfstudio.distillation.stages import DistillationConfig
from pvd_nerfstudio.edits.file import parse
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.rendering.occupancy import OccupancyGrid
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.teacher.samples import ball_samples, point_samples

AT_POINTS = [name for name in FAMILIES if name != "neus"]
AROUND = {"kind": "sphere", "center": [0.0, 0.0, 0.0], "radius": 0.2}
LEFT = {"kind": "halfspace", "point": [0.0, 0.0, 0.0], "normal": [-1.0, 0.0, 0.0]}


def document(*entries: dict[str, Any]) -> str:
    return json.dumps({"version": 1, "edits": entries})


def written(folder: Path, *entries: dict[str, Any]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "edits.json").write_text(document(*entries))
    return str(folder / "edits.json")


def frozen(run: Path, *entries: dict[str, Any], data: Path | None = None) -> FrozenTeacher:
    return FrozenTeacher(find_run(run), "cpu", data, edits=parse(document(*entries), "edits"))


@pytest.mark.parametrize("name", AT_POINTS)
def test_every_family_answers_edited(name: str, families: Any, scene: Path) -> None:
    """What is erased is gone, what is moved is where it went, in density and in colour, seen from turned directions."""
    run = families[name]
    plain = frozen(run, data=scene)
    erased = frozen(run, {"kind": "erase", "region": LEFT}, data=scene)
    moved = frozen(run, {"kind": "move", "region": LEFT, "translation": [0.1, 0.2, 0], "scale": 0.5}, data=scene)
    low, high = plain.aabb
    positions = low + torch.rand(400, 3) * (high - low)
    positions[:, 0] = -positions[:, 0].abs().clamp_min(0.01)
    directions = torch.nn.functional.normalize(torch.randn(400, 3), dim=-1)
    assert not erased.density(positions, 0.01).any()
    (edit,) = moved.edits
    there = edit.motion(positions)
    is_new = there[:, 0] > 0
    samples = plain._adapter.around(positions, directions, 0.02)
    wanted = plain.query(samples)
    answer = moved.query(moved._adapter.around(there, directions, 0.01))
    shown = wanted.log_density[:, 0] > -5
    if plain.grid is not None:
        shown &= plain.grid.contains(positions)
    shown &= is_new
    density = answer.log_density.exp() - plain.query(plain._adapter.around(there, directions, 0.01)).log_density.exp()
    assert shown.any()
    torch.testing.assert_close(density[shown], 2 * wanted.log_density.exp()[shown], rtol=0.05, atol=1e-2)
    gone = frozen(run, {"kind": "move", "region": AROUND, "translation": [0, 0, 5.0]}, data=scene)
    place = torch.full((1, 3), 0.01)
    assert not gone.density(place, 0.01).any(), "where all has been moved away nobody needs to be asked"
    assert gone.feature_dim == plain.feature_dim


@pytest.mark.parametrize("name", AT_POINTS)
def test_nobody_is_asked_in_empty_cells_but_for_the_colour_of_the_sky(name: str, families: Any, scene: Path) -> None:
    plain, edited = (frozen(families[name], data=scene) for _ in range(2))
    low, high = plain.aabb
    positions, directions = low + torch.rand(200, 3) * (high - low), torch.tensor([0.0, 0.0, 1.0]).expand(200, 3)
    samples = plain._adapter.around(positions, directions, 0.02)
    empty = OccupancyGrid(plain.aabb, 8, plain.space.contracted)
    empty.occupied.fill_(False)
    edited.edit(parse(document({"kind": "erase", "region": AROUND}), "edits"), empty)
    answer = edited.query(samples)
    assert (answer.log_density < -20).all()
    if plain.space.contracted:
        torch.testing.assert_close(answer.rgb, plain.query(samples).rgb)
    else:
        assert not answer.rgb[1:].any(), "one place is asked, which says how wide a feature is"


@pytest.mark.parametrize("name", [name for name in AT_POINTS if "vanilla" not in name])
def test_every_family_is_inserted(name: str, families: Any, teacher: Run, scene: Path) -> None:
    """Far beside the scene there is the other run alone, in density and in colour."""
    other = frozen(families[name], data=scene)
    far = [5.0, 0.0, 0.0]
    low, high = other.aabb
    region = {"kind": "box", "center": ((low + high) / 2).tolist(), "scale": (high - low).tolist()}
    both = frozen(teacher.folder, {"kind": "insert", "run": str(families[name]), "region": region, "translation": far})
    positions = low + (0.05 + 0.9 * torch.rand(300, 3)) * (high - low)
    directions = torch.nn.functional.normalize(torch.randn(300, 3), dim=-1)
    wanted = other.query(ball_samples(positions, directions, 0.02))
    answer = both.query(ball_samples(positions + torch.tensor(far), directions, 0.02))
    shown = wanted.log_density[:, 0] > -5
    if other.grid is not None:
        shown &= other.grid.contains(positions)
    assert shown.any()
    torch.testing.assert_close(answer.log_density.exp()[shown], wanted.log_density.exp()[shown], rtol=0.05, atol=1e-2)
    torch.testing.assert_close(answer.rgb[shown], wanted.rgb[shown], rtol=0, atol=0.02)
    assert both.densities(positions + torch.tensor(far), 0.02).isfinite().all()


def test_who_has_no_density_is_not_edited(families: Any, scene: Path) -> None:
    with pytest.raises(InputError, match="has no density at points"):
        frozen(families["neus"], {"kind": "erase", "region": LEFT}, data=scene)


@pytest.fixture(scope="module")
def erased(teacher: Run, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A student of half the scene, trained for a few steps."""
    folder = tmp_path_factory.mktemp("erased")
    trainer = start(
        distil_config(
            folder,
            *("--teacher-checkpoint", str(teacher.folder), "--student", "hash", "--max-num-iterations", "40"),
            *("--edits", written(folder / "edits", {"kind": "erase", "region": LEFT})),
        )
    )
    trainer.train()
    return trainer


def opacity_left(pipeline: Any) -> torch.Tensor:
    """Of rays that see the left half alone."""
    from nerfstudio.cameras.rays import RayBundle

    heights = torch.linspace(-0.8, 0.8, 30)
    origins = torch.stack([torch.full_like(heights, -0.3), torch.full_like(heights, -4.0), heights], dim=-1)
    directions = torch.tensor([0.0, 1.0, 0.0]).expand_as(origins)
    rays = RayBundle(origins=origins, directions=directions, pixel_area=torch.zeros(30, 1))
    with torch.no_grad():
        return pipeline.student.eval()(rays)["accumulation"]


def test_the_erased_is_not_sampled_and_not_there(erased: Any, teacher: Run) -> None:
    grid = erased.pipeline.student.grid
    middles = (torch.nonzero(grid.occupied) + 0.5) / grid.resolution
    assert grid.occupied.any() and (grid.to_world(middles)[:, 0] > -2 * 3 / grid.resolution).all()
    assert opacity_left(erased.pipeline).max() < 0.01


def test_the_run_knows_its_edits_wherever_the_file_is(erased: Any) -> None:
    """Evaluation is against the edited teacher, which is loaded for it."""
    erased.config.edits.unlink()
    _, pipeline, _, _ = eval_setup(erased.base_dir / "config.yml", test_mode="test")
    metrics = pipeline.get_average_eval_image_metrics()
    assert pipeline.comparison.teacher.edits and "psnr_to_teacher" in metrics


def test_images_count_where_no_edit_has_changed_them(teacher: Run, tmp_path: Path) -> None:
    """In evaluation, and as what is learned from in place of the teacher."""
    ball = {"kind": "sphere", "center": [0.0, 0.0, 0.3], "radius": 0.3}
    options = ("--teacher-checkpoint", str(teacher.folder), "--student", "hash", "--max-num-iterations", "4")
    edits = written(tmp_path, {"kind": "erase", "region": ball})
    trainer = start(
        distil_config(tmp_path / "run", *options, "--edits", edits, "--pipeline.distillation.training-images", "True")
    )
    data = trainer.pipeline.datamanager
    trainer.train()
    camera, batch = data.next_eval_image(0)
    mask = batch["mask"][..., 0]
    plain = frozen(teacher.folder).render(camera)
    assert mask.any() and not mask.all()
    assert (batch["teacher"] - plain).abs()[mask].mean() < 0.25 * (batch["teacher"] - plain).abs()[~mask].mean()
    cameras = torch.zeros(mask.numel(), dtype=torch.long)
    pixels = torch.cartesian_prod(*map(torch.arange, mask.shape))
    seen = data.seen(cameras, pixels)
    assert seen.any() and torch.equal(seen.view(mask.shape), data.train_dataset.untouched(0))
    metrics = trainer.pipeline.get_average_eval_image_metrics()
    assert {"psnr", "psnr_to_teacher", "teacher_psnr"} <= metrics.keys()


def test_a_resumed_run_goes_on_with_its_edits(erased: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = distil_config(tmp_path / "on", "--load-dir", str(erased.checkpoint_dir), "--max-num-iterations", "42")
    assert again.pipeline.datamanager.edits == erased.config.pipeline.datamanager.edits
    edits = written(tmp_path / "other", {"kind": "keep", "region": LEFT})
    said = refused(tmp_path / "no", capsys, "--load-dir", str(erased.checkpoint_dir), "--edits", edits)
    assert "the edits that it began with" in said


def test_edits_of_a_chain_add_up(erased: Any, tmp_path: Path) -> None:
    """The next student copies the half that is left beside itself: its box is larger, and fewer pixels count."""
    right = {"kind": "copy", "region": {"kind": "complement", "of": LEFT}, "translation": [-2.0, 0, 0]}
    options = ("--teacher-checkpoint", str(erased.base_dir), "--student", "sparse", "--max-num-iterations", "4")
    trainer = start(distil_config(tmp_path / "run", *options, "--edits", written(tmp_path, right)))
    student, data = trainer.pipeline.student, trainer.pipeline.datamanager
    before = erased.pipeline.student.field.aabb
    assert student.field.aabb[0].tolist() == pytest.approx([float(before[0, 0]) - 2, *before[0, 1:].tolist()])
    assert torch.equal(data.frame_box.aabb, before)
    earlier = erased.pipeline.datamanager.eval_dataset.untouched(0)
    assert not (data.eval_dataset.untouched(0) & ~earlier).any()
    last = find_run(start_and_save(trainer))
    following = distil_config(tmp_path / "last", "--teacher-checkpoint", str(last.config_path), "--student", "mlp")
    assert len(parse(following.pipeline.datamanager.earlier_edits, "chain")) == 2
    start(following)


def start_and_save(trainer: Any) -> Path:
    trainer.train()
    return trainer.base_dir


def test_another_run_is_inserted(teacher: Run, erased: Any, tmp_path: Path) -> None:
    """A student beside its teacher, in a larger box; where a run's reach is unknown a part of it is asked for."""
    insert = {"kind": "insert", "run": str(erased.base_dir), "translation": [0.0, 0.0, 4.0]}
    options = ("--teacher-checkpoint", str(teacher.folder), "--student", "hash", "--max-num-iterations", "4")
    trainer = start(distil_config(tmp_path / "run", *options, "--edits", written(tmp_path, insert)))
    above = trainer.pipeline.student.field.aabb[1, 2]
    plain, other = (frozen(run) for run in (teacher.folder, erased.base_dir))
    assert above == other.aabb[1, 2] + 4
    eyes, cameras = trainer.pipeline.datamanager.eyes, trainer.pipeline.datamanager.train_cameras
    assert len(eyes) == 2 * len(cameras), "and where they would be if they had moved along"
    torch.testing.assert_close(eyes[len(cameras) :], eyes[: len(cameras)] + torch.tensor([0.0, 0.0, 4.0]))
    poses = trainer.pipeline.datamanager.pseudo_views(8, torch.Generator().manual_seed(0)).camera_to_worlds
    assert (poses[1::2, 2, 3].mean() - poses[::2, 2, 3].mean()) > 2, "every second one looks at what was inserted"
    asked = torch.rand(500, 3) - 0.5
    both = trainer.pipeline._teacher
    torch.testing.assert_close(both.density(asked, 0.01), plain.densities(asked, 0.01), rtol=1e-4, atol=1e-4)
    moved = asked + torch.tensor([0.0, 0.0, 4.0])
    torch.testing.assert_close(both.density(moved, 0.01), other.densities(asked, 0.01), rtol=1e-4, atol=1e-4)


def test_cells_and_samples_stay_as_small_in_a_larger_box(erased: Any, tmp_path: Path) -> None:
    """Also in the next conversion of the chain; sizes are taken as they are where detail need not be kept."""
    low, high = erased.pipeline.student.field.aabb
    side = float((high - low).max())
    (far, near) = ([-shift * side, 0, 0] for shift in (40.0, 0.25))
    copies = {shift[0]: written(tmp_path / str(shift[0]), {"kind": "copy", "region": LEFT, "translation": shift})
              for shift in (far, near)}  # fmt: skip
    left_out = ("--pipeline.model.render-step-size", "None")
    options = (
        "--teacher-checkpoint",
        str(erased.base_dir),
        "--student",
        "sparse",
        *left_out,
        "--edits",
        copies[near[0]],
    )
    config = distil_config(tmp_path / "run", *options)
    plain = distil_config(tmp_path / "run", *options, "--pipeline.keep-detail", "False").pipeline.model
    model, length = config.pipeline.model, float((high - low).norm()) / 400
    assert model.render_step_size == pytest.approx(length) and plain.render_step_size is None
    assert model.grid_resolution == pytest.approx(1.25 * plain.grid_resolution, abs=1)
    assert model.sparse.resolution == pytest.approx(1.25 * plain.sparse.resolution, abs=4)
    assert model.sparse.resolution % 4 == 0
    student = start(config).pipeline.student
    assert student.grid.resolution == model.grid_resolution and student.spacing.step_size == pytest.approx(length)
    trained = start(distil_config(tmp_path / "next", *options, "--max-num-iterations", "2"))
    following = ("--teacher-checkpoint", str(start_and_save(trained)), "--student", "vm", *left_out)
    after = distil_config(tmp_path / "last", *following).pipeline
    assert after.model.render_step_size == pytest.approx(length)
    assert after.model.vm.resolution == pytest.approx(1.25 * plain.vm.resolution, abs=1)
    assert after.sized_for == config.pipeline.sized_for == pytest.approx(torch.stack([low, high]).flatten().tolist())
    most = distil_config(tmp_path / "far", *options[:-1], copies[far[0]]).pipeline.model
    assert most.grid_resolution == 2 * plain.grid_resolution, "no more than twice as many"
    assert most.render_step_size > 15 * length, "samples grow as cells do"


def test_a_step_learns_from_more_where_there_is_more_to_learn(
    teacher: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The scene twice: about twice the rays and points; new chunks come twice as often, unless it is said how often."""
    insert = {"kind": "insert", "run": str(teacher.folder), "translation": [4.0, 0.0, 0.0]}
    options = ("--teacher-checkpoint", str(teacher.folder), "--student", "vm", "--edits", written(tmp_path, insert))
    left_out = [f"--pipeline.distillation.{name}" for name in ("rays-per-step", "points-per-step")]
    options = (*options, left_out[0], "-1", left_out[1], "-1", "--pipeline.distillation.refresh-every", "10000")
    method = start(distil_config(tmp_path / "run", *options)).pipeline.config.distillation
    usual = DistillationConfig().resolved()
    assert method.rays_per_step / usual.rays_per_step == pytest.approx(2, abs=0.2)
    assert method.points_per_step / usual.points_per_step == pytest.approx(2, abs=0.2)
    assert method.fill_every == usual.fill_every / 2 and method.refresh_every == 10000
    assert "Edits make 2" in capsys.readouterr().out


def test_a_box_that_is_not_to_grow(teacher: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edits = written(tmp_path, {"kind": "move", "region": LEFT, "translation": [9.0, 0, 0]})
    options = ("--teacher-checkpoint", str(teacher.folder), "--edits", edits)
    said = refused(tmp_path / "out", capsys, *options, "--pipeline.datamanager.enlarge-box", "False")
    assert "out of the scene box" in said


def test_the_wrong_stops_before_anything_is_built(
    teacher: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--edits")
    gone = {"kind": "insert", "run": str(tmp_path / "gone")}
    for edits, words in (
        (str(tmp_path / "missing.json"), "there is no such file"),
        (written(tmp_path, {"kind": "erase"}), 'edit 1 (erase): "region" is missing'),
        (written(tmp_path / "b", gone), "does not exist"),
    ):
        assert words in refused(tmp_path / "out", capsys, *options, edits)


def test_points_answer_as_rays_do(teacher: Run) -> None:
    edited = frozen(teacher.folder, {"kind": "copy", "region": LEFT, "translation": [0.5, 0, 0], "rotation": [0, 0, 1]})
    positions, directions = torch.rand(300, 3) * 2 - 1, torch.nn.functional.normalize(torch.randn(300, 3), dim=-1)
    answer = edited.query(point_samples(positions, directions), chunk=64)
    torch.testing.assert_close(answer.log_density.exp(), edited.density(positions, 0.01), rtol=1e-4, atol=1e-6)
