"""The splat student: begins on the teacher's surfaces, learns from its pictures, and is a run like the others."""

import copy
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run, distil_config
from helpers import refused, start, stop_after, weights_of
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.scripts.exporter import ExportGaussianSplat
from nerfstudio.utils.eval_utils import eval_setup
from plyfile import PlyData
from scipy.spatial.transform import Rotation

from pvd_nerfstudio import trainer_config
from pvd_nerfstudio.commands.demo import train
from pvd_nerfstudio.commands.export.command import Export
from pvd_nerfstudio.commands.export.gaussians import write_ply
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.student.metrics import image_metrics
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.teacher.frozen import FrozenTeacher


@pytest.fixture(scope="module")
def splat(teacher: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    options = ("--teacher-checkpoint", str(teacher.folder), "--student", "splat", "--max-num-iterations", "150")
    options += ("--pipeline.model.splat.num-gaussians", "1500", "--pipeline.model.splat.picture-size", "40")
    folder, _ = train(distil_config(tmp_path_factory.mktemp("splat"), *options), lambda share: None)
    return Run(folder)


def test_it_comes_close_to_its_teacher(splat: Run, teacher: Run) -> None:
    _, pipeline, _, _ = eval_setup(splat.config)
    own = FrozenTeacher(find_run(teacher.folder), "cpu")
    camera = pipeline.datamanager.eval_dataset.cameras[:1]
    image, target = pipeline.model.get_outputs_for_camera(camera)["rgb"], own.render(camera)
    assert image_metrics(image, target)["psnr"] > 25


def test_gaussians_begin_on_surfaces_and_lie_flat_on_them(teacher: Run, tmp_path: Path) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--student", "splat", "--max-num-iterations", "10")
    trainer = start(distil_config(tmp_path, *options))
    field, frozen = trainer.pipeline.student.field, trainer.pipeline._teacher
    assert len(field) == 400
    density = frozen.densities(field.means.detach(), 0.05)[:, 0]
    anywhere = frozen.densities(2 * torch.rand(4000, 3) - 1, 0.05)[:, 0]
    assert density.mean() > 3 * anywhere.mean()
    thickness = (field.scales.amin(dim=-1) - field.scales.amax(dim=-1)).exp()
    assert ((thickness < 0.5).float().mean()) > 0.9


@pytest.mark.parametrize("refinements", [0, 5])
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(teacher: Run, tmp_path: Path, refinements: int) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--student", "splat", "--max-num-iterations", "24")
    if refinements:
        options += ("--pipeline.model.splat.refinements", "5", "--pipeline.model.splat.start-share", "0.5")
    straight, _ = train(distil_config(tmp_path, *options, name="straight"), lambda share: None)
    first = start(distil_config(tmp_path, *options, name="first"))
    stop_after(first, 11)
    load = ("--load-dir", str(first.checkpoint_dir))
    second, _ = train(distil_config(tmp_path, *load, name="second"), lambda share: None)
    ours = weights_of(second)
    for key, value in weights_of(straight).items():
        torch.testing.assert_close(ours[key], value, atol=1e-6, rtol=1e-5)


def test_the_run_opens_without_the_teacher_and_shows_it_as_one(splat: Run, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(splat.folder, folder)
    names = {key.split(".")[1] for key in weights_of(folder)}
    assert names == {"field", "grid", "device_indicator_param"}
    _, pipeline, _, _ = eval_setup(splat.config)
    camera = pipeline.datamanager.eval_dataset.cameras[:1]
    images = pipeline.model.get_outputs_for_camera(camera)
    assert set(images) >= {"rgb", "accumulation", "depth"} and images["normals"].shape == images["rgb"].shape
    as_teacher = FrozenTeacher(find_run(folder), "cpu")
    assert as_teacher.has_density and as_teacher.shows_views
    torch.testing.assert_close(as_teacher.render(camera), images["rgb"])
    metrics = pipeline.get_average_eval_image_metrics()
    assert metrics["psnr"] > 10


def test_nerfstudios_exporter_writes_what_is_drawn(splat: Run, tmp_path: Path) -> None:
    ExportGaussianSplat(load_config=splat.config, output_dir=tmp_path).main()
    vertices = PlyData.read(tmp_path / "splat.ply")["vertex"]
    _, pipeline, _, _ = eval_setup(splat.config)
    assert isinstance(pipeline.model, SplatfactoModel)
    field = pipeline.student.field
    kept = field.opacities[:, 0] >= -5.5373  # as nerfstudio's exporter does
    assert len(vertices) == int(kept.sum())
    for names, values in (
        (("x", "y", "z"), field.means),
        (("scale_0", "scale_1", "scale_2"), field.scales),
        (("rot_0", "rot_1", "rot_2", "rot_3"), field.quats),
        (("f_dc_0", "f_dc_1", "f_dc_2"), field.features_dc),
        (("f_rest_0", "f_rest_8"), field.features_rest[:, [0, 0], [0, 1]]),
    ):
        written = np.stack([vertices[name] for name in names], axis=-1)
        torch.testing.assert_close(torch.from_numpy(written), values[kept].detach())


def test_our_ply_is_nerfstudios_and_shows_the_same_in_the_data_sets_own_coordinates(splat: Run, tmp_path: Path) -> None:
    """A camera that is moved as the Gaussians are sees what it saw before."""
    ExportGaussianSplat(load_config=splat.config, output_dir=tmp_path).main()
    theirs = PlyData.read(tmp_path / "splat.ply")["vertex"]
    Export(splat.config, ply=True, output_dir=tmp_path / "ours").run()
    ours = PlyData.read(tmp_path / "ours" / "splat.ply")["vertex"]
    assert ours.data.dtype == theirs.data.dtype and len(ours) == len(theirs)
    for name in ours.data.dtype.names:
        scale = 1.0
        if name.startswith("rot_"):
            scale = np.linalg.norm([theirs[f"rot_{number}"] for number in range(4)], axis=0)
        np.testing.assert_allclose(ours[name] * scale, theirs[name], atol=1e-5)
    _, pipeline, _, _ = eval_setup(splat.config)
    field, camera = pipeline.student.field, pipeline.datamanager.eval_dataset.cameras[:1]
    before = pipeline.model.get_outputs_for_camera(camera)["rgb"]
    turn = torch.from_numpy(Rotation.from_euler("xyz", [0.3, -1.1, 2.0]).as_matrix()).float()
    outputs = replace(
        pipeline.datamanager.train_dataparser_outputs,
        dataparser_transform=torch.cat([turn, torch.tensor([[0.5], [-2.0], [1.0]])], dim=1),
        dataparser_scale=0.25,
    )
    write_ply(field, tmp_path / "world.ply", outputs)
    world = PlyData.read(tmp_path / "world.ply")["vertex"]

    def columns(*names: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([world[name] for name in names], axis=-1))

    field.means.data = columns("x", "y", "z")
    field.scales.data = columns("scale_0", "scale_1", "scale_2")
    field.quats.data = columns("rot_0", "rot_1", "rot_2", "rot_3")
    field.opacities.data = columns("opacity")
    field.features_dc.data = columns("f_dc_0", "f_dc_1", "f_dc_2")
    field.features_rest.data = columns(*(f"f_rest_{number}" for number in range(24))).view(-1, 3, 8).transpose(1, 2)
    pose = outputs.transform_poses_to_original_space(camera.camera_to_worlds, "opengl")
    moved = copy.deepcopy(camera)
    moved.camera_to_worlds = pose
    after = pipeline.model.get_outputs_for_camera(moved)["rgb"]
    torch.testing.assert_close(after, before, atol=2e-3, rtol=0)


def test_exports_that_a_student_has_not_are_refused(splat: Run, student: Run, tmp_path: Path) -> None:
    for run, asked in ((splat, {"mesh": True}), (splat, {"ply": True, "html": True}), (student, {"ply": True})):
        with pytest.raises(InputError, match="--ply, which has all of it"):
            Export(run.config, output_dir=tmp_path / "none", **asked).run()
    assert not (tmp_path / "none").exists()


def test_a_crop_box_leaves_out_what_lies_outside(splat: Run) -> None:
    _, pipeline, _, _ = eval_setup(splat.config)
    camera = pipeline.datamanager.eval_dataset.cameras[:1]
    whole, cropped = (
        pipeline.model.get_outputs_for_camera(camera, obb_box=box)["accumulation"]
        for box in (None, OrientedBox.from_params((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.4, 0.4, 0.4)))
    )
    assert 0 < cropped.sum() < 0.5 * whole.sum()


def test_no_single_rays(splat: Run) -> None:
    _, pipeline, _, _ = eval_setup(splat.config)
    rays, _ = pipeline.datamanager.next_train(0)
    with pytest.raises(InputError, match="ns-export gaussian-splat"):
        pipeline.model(rays)


def test_nothing_that_nerfstudio_does_in_training_asks_for_rays(teacher: Run, tmp_path: Path) -> None:
    """Its evaluation of single rays comes at step 500 by default."""
    options = ("--teacher-checkpoint", str(teacher.folder), "--student", "splat", "--max-num-iterations", "5")
    config = distil_config(tmp_path, *options, "--steps-per-eval-batch", "2")
    config.steps_per_eval_image = config.steps_per_eval_all_images = 2
    folder, _ = train(config, lambda share: None)
    assert (folder / "nerfstudio_models" / "step-000000004.ckpt").is_file()


def test_what_does_not_go_with_it_is_refused(teacher: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--student", "splat")
    for more, said in (
        (("--pipeline.active.rays", "True"), "active"),
        (("--optimizers.fields.optimizer.lr", "0.1"), "splat.*-lr"),
        (("--pipeline.model.splat.sh-degree", "4"), "sh-degree"),
        (("--pipeline.model.splat.start-share", "0.5"), "refinements"),
        (("--pipeline.model.splat.num-gaussians", "100000000000"), "memory|GB"),
    ):
        text = refused(tmp_path / "out", capsys, *options, *more)
        assert any(word in text for word in said.split("|")), text


def test_several_gpus_are_not_for_it(teacher: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config: Any = copy.deepcopy(all_methods["pvd-distill"])
    config.teacher_checkpoint, config.student = teacher.folder, "splat"
    monkeypatch.setattr(trainer_config, "check_fits", lambda *given: None)  # asks the GPU
    config.machine.device_type, config.machine.num_devices = "cuda", 2
    with pytest.raises(InputError, match="one process"):
        config.resolve()


def test_training_images_stand_in_for_the_teacher_and_go_on_without_it(
    teacher: Run, scene: Path, tmp_path: Path
) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--student", "splat", "--max-num-iterations", "12")
    options += ("--pipeline.distillation.training-images", "True", "--pipeline.datamanager.pseudo-view-share", "0")
    options += ("--pipeline.model.splat.picture-size", "24")
    trainer = start(distil_config(tmp_path, *options, name="first"))
    data, bank = trainer.pipeline.datamanager, trainer.pipeline.bank_at(0)
    target = bank.pictures(torch.tensor([1]))
    poses = data.train_cameras.camera_to_worlds.flatten(1)
    number = int((poses - target.poses).abs().sum(dim=1).argmin())
    right, down = (round(20.0 - float(value)) for value in target.intrinsics[0, 2:])
    image = data.train_dataset.get_image_float32(number)[down : down + 24, right : right + 24]
    torch.testing.assert_close(target.opacity.view(24, 24, 1), image[..., 3:], atol=1e-6, rtol=0)
    torch.testing.assert_close(target.rgb.view(24, 24, 3), image[..., :3] * image[..., 3:], atol=1e-6, rtol=0)
    stop_after(trainer, 5)
    config = distil_config(tmp_path, "--load-dir", str(trainer.checkpoint_dir), name="second")
    config.pipeline.teacher = None
    again = start(config)
    again.train()
    assert again.pipeline._teacher is None and all(
        value.isfinite().all() for value in again.pipeline.student.parameters()
    )


def test_a_teacher_without_density_is_converted_by_its_depth(families: Mapping[str, Path], tmp_path: Path) -> None:
    options = ("--teacher-checkpoint", str(families["neus"]), "--student", "splat", "--max-num-iterations", "4")
    trainer = start(distil_config(tmp_path, *options))
    trainer.train()
    field = trainer.pipeline.student.field
    assert len(field) == 400 and field.means.isfinite().all()
