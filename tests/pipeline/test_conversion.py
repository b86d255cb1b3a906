"""A conversion from end to end on a tiny scene, and nerfstudio's own loaders on what comes out."""

from pathlib import Path

import pytest
import torch
from conftest import Run, distil_config
from helpers import start, stop_after, weights_of
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from nerfstudio.utils.eval_utils import eval_setup
from nerfstudio.viewer.viewer import Viewer

from pvd_nerfstudio.commands.demo import train
from pvd_nerfstudio.pipeline import DistillationPipeline
from pvd_nerfstudio.rendering.occupancy import OccupancyGrid
from pvd_nerfstudio.rendering.space import Spacing
from pvd_nerfstudio.student.model import StudentModel
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.teacher.occupancy import fill_grid
from pvd_nerfstudio.teacher.samples import point_samples


def test_teacher_answers_as_its_own_field_does(teacher: Run) -> None:
    frozen = FrozenTeacher(find_run(teacher.folder), "cpu")
    positions = torch.rand(300, 3) * 2 - 1
    directions = torch.nn.functional.normalize(torch.randn(300, 3), dim=-1)
    answer = frozen.query(point_samples(positions, directions), chunk=128)
    torch.testing.assert_close(answer.log_density.exp(), frozen.density(positions, 0.01), rtol=1e-4, atol=1e-6)
    assert answer.feature is not None and answer.feature.shape == (300, 15)
    assert frozen.seconds > 0
    assert not frozen.model.training and not any(p.requires_grad for p in frozen.model.parameters())


@pytest.mark.parametrize("appearance", [False, True])
def test_inherited_colour_head_gives_the_teachers_colours(teacher: Run, appearance: bool, tmp_path: Path) -> None:
    frozen = FrozenTeacher(find_run(teacher.folder), "cpu")
    field = frozen.model.field
    if appearance:
        assert field.embedding_appearance is not None
        torch.nn.init.normal_(field.embedding_appearance.embedding.weight)
        field.use_average_appearance_embedding = True
    config = distil_config(tmp_path, "--teacher-checkpoint", str(teacher.folder)).pipeline.model
    student = config.setup(scene_box=frozen.model.scene_box, num_train_data=1)
    weights = frozen.color_head()
    assert weights is not None
    student.field.color_head.load_state_dict(weights)
    positions, directions = torch.rand(50, 3) - 0.5, torch.nn.functional.normalize(torch.randn(50, 3), dim=-1)
    answer = frozen.query(point_samples(positions, directions))
    torch.testing.assert_close(student.field.deep(answer.feature, directions), answer.rgb, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["mlp", "hash"])
def test_distillation_brings_the_student_to_its_teacher(name: str, teacher: Run, tmp_path: Path) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--student", name, "--max-num-iterations", "300")
    options += ("--pipeline.distillation.points-per-step", "1024", "--pipeline.distillation.rays-per-step", "256")
    trainer = start(distil_config(tmp_path, *options))
    pipeline = trainer.pipeline
    assert isinstance(pipeline, DistillationPipeline)
    with torch.no_grad():
        before = pipeline.get_train_loss_dict(299)[2]["psnr_to_teacher"]
    trainer.train()
    with torch.no_grad():
        after = pipeline.get_train_loss_dict(299)[2]["psnr_to_teacher"]
    assert after > before + 3


def test_checkpoint_holds_field_and_grid_and_nothing_else(student: Run) -> None:
    names = {key.split(".")[1] for key in weights_of(student.folder)}
    assert names == {"field", "grid", "device_indicator_param"}


def test_stock_loader_renders_the_same_without_the_teacher(moved: Run, student: Run) -> None:
    images = []
    for run in (student, moved):
        _, pipeline, _, _ = eval_setup(run.config)
        camera = pipeline.datamanager.eval_dataset.cameras[:1]
        images.append(pipeline.model.get_outputs_for_camera(camera)["rgb"])
        assert isinstance(pipeline.model, StudentModel)
    assert torch.equal(*images)
    assert images[0].std() > 0.05


def test_metrics_have_nerfstudios_names(student: Run) -> None:
    _, pipeline, _, _ = eval_setup(student.config)
    assert isinstance(pipeline, VanillaPipeline)
    metrics = pipeline.get_average_eval_image_metrics()
    assert {"psnr", "ssim", "num_rays_per_sec", "fps"} <= set(metrics)
    camera, batch = pipeline.datamanager.next_eval_image(0)
    _, images = pipeline.model.get_image_metrics_and_images(pipeline.model.get_outputs_for_camera(camera), batch)
    assert {"img", "accumulation", "depth"} == set(images)


def test_evaluation_goes_round_the_views_and_depends_on_the_step_alone(student: Run) -> None:
    _, pipeline, _, _ = eval_setup(student.config)
    views = [pipeline.datamanager.next_eval_image(step)[0].camera_to_worlds for step in range(0, 10000, 500)]
    assert len(torch.cat(views).unique(dim=0)) == len(pipeline.datamanager.eval_dataset)
    again = pipeline.datamanager.next_eval(1500)[0], pipeline.datamanager.next_eval(1500)[0]
    assert torch.equal(again[0].directions, again[1].directions)


def test_exporter_gets_rays_and_a_real_alpha(student: Run) -> None:
    _, pipeline, _, _ = eval_setup(student.config)
    pipeline.datamanager.train_pixel_sampler.num_rays_per_batch = 500
    rays, _ = pipeline.datamanager.next_train(0)
    assert len(rays) == 500
    with torch.no_grad():
        rgba = pipeline.model.get_rgba_image(pipeline.model(rays))
    assert rgba.shape == (500, 4)
    assert rgba[:, 3].min() < 0.1
    assert rgba[:, 3].max() > 0.5


def test_resumed_run_goes_on_as_if_it_had_not_stopped(teacher: Run, tmp_path: Path) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "24")
    straight, _ = train(distil_config(tmp_path, *options, name="straight"), lambda share: None)
    first = start(distil_config(tmp_path, *options, name="first"))
    stop_after(first, 11)
    load = ("--load-dir", str(first.checkpoint_dir))
    second, _ = train(distil_config(tmp_path, *load, name="second"), lambda share: None)
    ours, theirs = weights_of(second), weights_of(straight)
    assert (second / "nerfstudio_models" / "step-000000023.ckpt").is_file()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, atol=1e-6, rtol=1e-5)


def test_a_finished_run_is_left_alone_when_resumed(teacher: Run, tmp_path: Path, capsys) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "5")
    folder, _ = train(distil_config(tmp_path, *options), lambda share: None)
    before = [path.name for path in (folder / "nerfstudio_models").iterdir()]
    start(distil_config(tmp_path, "--load-dir", str(folder / "nerfstudio_models"))).train()
    assert "All 5 steps are done" in capsys.readouterr().out
    assert [path.name for path in (folder / "nerfstudio_models").iterdir()] == before


def test_interruption_while_saving_leaves_the_old_checkpoint(teacher: Run, tmp_path: Path, monkeypatch) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "8")
    trainer = start(distil_config(tmp_path, *options))
    trainer.save_checkpoint(3)

    def half(state, path, **_) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(KeyboardInterrupt):
            trainer.save_checkpoint(5)
    assert [path.name for path in trainer.checkpoint_dir.iterdir()] == ["step-000000003.ckpt"]
    assert [path.name for path in trainer.base_dir.iterdir() if path.name.startswith(".saving")] == []
    torch.load(trainer.checkpoint_dir / "step-000000003.ckpt", weights_only=True)


def test_resuming_without_the_teacher_goes_on_from_the_images(moved: Run, tmp_path: Path) -> None:
    text = moved.config.read_text()
    assert "step-000000149" in text
    moved.config.write_text(text.replace("step-000000149", "step-000000999"))
    options = ("--load-dir", str(moved.checkpoints), "--max-num-iterations", "64")
    trainer = start(distil_config(tmp_path / "resumed", *options))
    assert trainer.pipeline.config.teacher is None
    loss = trainer.pipeline.get_train_loss_dict(60)[1]
    assert set(loss) == {"pixel_loss"}
    trainer.train()
    assert (trainer.checkpoint_dir / "step-000000063.ckpt").is_file()


def test_conversion_runs_without_the_images(teacher: Run, scene: Path, tmp_path: Path) -> None:
    hidden = scene.with_name("hidden")
    scene.rename(hidden)
    try:
        options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "12")
        options += ("--pipeline.datamanager.orbit.size", "24", "--pipeline.datamanager.orbit.views", "10")
        trainer = start(distil_config(tmp_path, *options))
        trainer.train()
        metrics, _ = trainer.pipeline.get_eval_image_metrics_and_images(0)
        assert "psnr" not in metrics and 5 < metrics["psnr_to_teacher"] < 60
        _, pipeline, _, _ = eval_setup(trainer.base_dir / "config.yml", test_mode="inference")
        rgb = pipeline.model.get_outputs_for_camera(pipeline.datamanager.eval_dataset.cameras[:1])["rgb"]
        assert rgb.std() > 0.01
    finally:
        hidden.rename(scene)


def test_teachers_share_of_the_time_is_reported(teacher: Run, tmp_path: Path, capsys) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "4")
    trainer = start(distil_config(tmp_path, *options))
    trainer.train()
    assert "The teacher took" in capsys.readouterr().out


def test_a_student_is_a_teacher_too(student: Run, tmp_path: Path) -> None:
    options = ("--teacher-checkpoint", str(student.folder), "--student", "hash", "--max-num-iterations", "4")
    folder, _ = train(distil_config(tmp_path, *options), lambda share: None)
    assert (folder / "nerfstudio_models" / "step-000000003.ckpt").is_file()


def test_a_student_shows_nothing_outside_its_grid(student: Run) -> None:
    """Its field was never looked at there, and may say anything."""
    frozen = FrozenTeacher(find_run(student.folder), "cpu")
    model, ask = frozen.model, frozen.model.field.get_density
    model.field.get_density = lambda samples: (torch.full_like(ask(samples)[0], 50.0), ask(samples)[1])
    positions = torch.rand(4000, 3) * 2 - 1
    inside = model.grid.contains(positions)
    assert 0 < inside.sum() < 4000
    answer = frozen.query(point_samples(positions, torch.nn.functional.normalize(positions, dim=-1)))
    assert (answer.log_density[~inside] < -10).all() and (answer.log_density[inside] > -10).any()
    for resolution in (16, 32, 48):
        grid = OccupancyGrid(frozen.aabb, resolution)
        fill_grid(grid, frozen, Spacing(0.05), 0.02)
        overlap = torch.nn.functional.interpolate(model.grid.occupied[None, None].float(), (96,) * 3)[0, 0] > 0
        mine = torch.nn.functional.interpolate(grid.occupied[None, None].float(), (96,) * 3)[0, 0] > 0
        assert mine[overlap].all() and grid.share < 1.0
        if resolution >= 32:
            assert mine.sum() < 1.3 * overlap.sum()


def test_the_viewer_starts_in_training_and_on_the_finished_run(teacher: Run, tmp_path: Path) -> None:
    """`--vis viewer` is the default: it must find the folder of a run that is new, and elements in any pipeline."""
    options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "12")
    config = distil_config(tmp_path, *options)
    config.vis, config.viewer.websocket_host = "viewer", "127.0.0.1"
    trainer = start(config)
    trainer.train()
    trainer.viewer_state.viser_server.stop()
    _, pipeline, _, _ = eval_setup(trainer.base_dir / "config.yml")
    viewer = Viewer(config.viewer, trainer.base_dir / "viewer.log", tmp_path, pipeline)
    assert viewer.ready
    viewer.viser_server.stop()


def test_images_take_the_place_of_the_teachers_pixels(teacher: Run, tmp_path: Path) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "24")
    parts = {}
    for name, chosen in {"off": "False", "on": "True"}.items():
        given = (*options, "--pipeline.distillation.training-images", chosen)
        bank = start(distil_config(tmp_path, *given, name=name)).pipeline.bank_at(0)
        parts[name] = bank.rays(torch.arange(bank.num_rays))
    off, on = parts["off"], parts["on"]
    assert torch.equal(off.origins, on.origins) and torch.equal(off.start, on.start)
    same = (off.rgb == on.rgb).all(dim=-1)
    assert 0.4 < same.float().mean() < 0.6  # the other half are training views
    close = (off.rgb - on.rgb)[~same].square().mean()
    shuffled = (off.rgb[~same] - on.rgb[~same].roll(1, 0)).square().mean()
    assert close < 0.3 * shuffled


def test_paper_preset_runs_with_its_features(teacher: Run, tmp_path: Path) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--pipeline.distillation.preset", "pvd")
    trainer = start(distil_config(tmp_path, *options, "--max-num-iterations", "30"))
    terms = [set(trainer.pipeline.get_train_loss_dict(step)[1]) for step in (0, 3, 20)]
    assert terms[0] == {"feature_loss"}
    assert terms[1] == {"feature_loss", "log_density_loss", "color_loss"}
    assert terms[2] == terms[1] | {"pixel_loss"}


def test_features_of_other_widths_meet_in_a_projection_that_is_thrown_away(teacher: Run, tmp_path: Path) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--pipeline.distillation.preset", "pvd")
    options += ("--pipeline.model.mlp.feature-dim", "7", "--max-num-iterations", "24")
    straight = start(distil_config(tmp_path, *options, name="straight"))
    projection = straight.pipeline.projection
    assert projection is not None and projection.weight.shape == (15, 7)
    before = projection.weight.clone()
    straight.train()
    assert not torch.equal(projection.weight, before)
    theirs = weights_of(straight.base_dir)
    assert not [key for key in theirs if "projection" in key]

    first = start(distil_config(tmp_path, *options, name="first"))
    stop_after(first, 11)
    assert "projection.weight" in weights_of(first.base_dir)
    second = start(distil_config(tmp_path, "--load-dir", str(first.checkpoint_dir), name="second"))
    second.train()
    for key, value in weights_of(second.base_dir).items():
        torch.testing.assert_close(value, theirs[key], atol=1e-6, rtol=1e-5)


def test_feature_stage_is_skipped_for_a_student_without_features(teacher: Run, tmp_path: Path, capsys) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--pipeline.distillation.preset", "pvd")
    trainer = start(distil_config(tmp_path, *options, "--student", "sparse", "--max-num-iterations", "30"))
    assert "feature stage is skipped" in " ".join(capsys.readouterr().out.split())
    assert set(trainer.pipeline.get_train_loss_dict(0)[1]) == {"log_density_loss", "color_loss"}
    assert trainer.config.pipeline.distillation.feature_end == 0


@pytest.mark.parametrize("name", ["vm", "sparse"])
def test_a_growing_student_resumes_as_if_it_had_not_stopped(name: str, teacher: Run, tmp_path: Path) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--student", name, "--max-num-iterations", "60")
    options += ("--pipeline.model.vm.grow-at", "0.1", "0.4", "--pipeline.model.sparse.subdivide-at", "0.1", "0.4")
    straight, _ = train(distil_config(tmp_path, *options, name="straight"), lambda share: None)
    first = start(distil_config(tmp_path, *options, name="first"))
    stop_after(first, 15)
    load = ("--load-dir", str(first.checkpoint_dir))
    second, _ = train(distil_config(tmp_path, *load, name="second"), lambda share: None)
    ours, theirs = weights_of(second), weights_of(straight)
    for key, value in theirs.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(ours[key], value, atol=1e-5, rtol=1e-4)


def test_cells_know_the_most_that_any_ray_sees_of_them(teacher: Run, tmp_path: Path) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--student", "sparse", "--max-num-iterations", "30")
    trainer = start(distil_config(tmp_path, *options))
    student = trainer.pipeline.student
    rays = trainer.pipeline.hand_over().some_rays(0)
    carried = student.carried(rays, 16)
    one = student.carried(rays[:1], 16)
    assert carried.shape == (16, 16, 16) and 0.1 < carried.max() <= 1
    assert (carried >= one).all() and one.max() > 0
    samples = student.sample(rays)
    unit = student.field.to_unit(samples.positions(rays.origins, rays.directions))
    hit = torch.zeros(16, 16, 16, dtype=torch.bool)
    hit[tuple((unit * 16).long().clamp(0, 15).T)] = True
    assert not carried[~hit].any()


def test_sparse_student_starts_from_what_the_teacher_says_at_its_vertices(teacher: Run, tmp_path: Path) -> None:
    """And shows to the nearest camera: from elsewhere a teacher has learned nothing."""
    options = ("--teacher-checkpoint", str(teacher.folder), "--student", "sparse", "--max-num-iterations", "30")
    pipeline = start(distil_config(tmp_path, *options)).pipeline
    voxels, box = pipeline.student.field.voxels, pipeline.student.grid.aabb
    unit = voxels.stored.nonzero()[:200] / (len(voxels.index) - 1)
    positions = box[0] + unit * (box[1] - box[0])
    log_density, feature = pipeline.student.field.shallow(positions)
    said = pipeline._teacher.density(positions, 0.01).log().clamp(-8, 7)
    torch.testing.assert_close(log_density, said, atol=2e-2, rtol=1e-2)
    cameras = pipeline.datamanager.train_cameras.camera_to_worlds[:, :, 3]
    nearest = cameras[torch.cdist(positions, cameras).argmin(dim=-1)]
    directions = torch.nn.functional.normalize(positions - nearest, dim=-1)
    _, shown = pipeline._teacher.query_points(positions, directions, 0.01)
    begun = pipeline.student.field.deep(feature, directions)
    torch.testing.assert_close(begun, shown.clamp(0.01, 0.99), atol=2e-2, rtol=1e-2)
