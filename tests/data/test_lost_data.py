"""Images that are gone while their poses remain, and runs of which nothing else is left."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run, distil_config
from helpers import in_words, start
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.blender_dataparser import Blender, BlenderDataParserConfig
from nerfstudio.data.dataparsers.dnerf_dataparser import DNeRFDataParserConfig
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGPDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.dataparsers.scannet_dataparser import ScanNetDataParserConfig
from PIL import Image

from pvd_nerfstudio.data.llff import LLFFDataParserConfig
from pvd_nerfstudio.data.nsvf import NSVFDataParserConfig
from pvd_nerfstudio.data.poses import find
from pvd_nerfstudio.data.reviewed import reading
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.pipeline.summary import summarize, table_of
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.teacher.occupancy import occupied_region


@pytest.fixture()
def turntable(tmp_path: Path, scene: Path) -> Path:
    """The demo's scene as nerfstudio's own tools write it."""
    folder = tmp_path / "turntable"
    meta = json.loads((scene / "transforms_train.json").read_text())
    for frame in meta["frames"]:
        frame["file_path"] += ".png"
    size = 40
    focal = 0.5 * size / torch.tensor(0.5 * meta["camera_angle_x"]).tan().item()
    intrinsics = {"fl_x": focal, "fl_y": focal, "cx": size / 2, "cy": size / 2, "w": size, "h": size}
    shutil.copytree(scene, folder)
    (folder / "transforms.json").write_text(json.dumps(meta | intrinsics))
    return folder


@pytest.fixture()
def parsers(turntable: Path, llff: Path, nsvf: Path) -> dict[str, DataParserConfig]:  # noqa: F811
    return {
        "blender": BlenderDataParserConfig(data=turntable),
        "nerfstudio": NerfstudioDataParserConfig(data=turntable),
        "llff": LLFFDataParserConfig(data=llff, downscale=4),
        "nsvf": NSVFDataParserConfig(data=nsvf),
    }


@pytest.mark.parametrize("name", ["blender", "nerfstudio", "llff", "nsvf"])
def test_poses_without_images_are_those_with_them(name: str, parsers: dict[str, DataParserConfig]) -> None:
    config = parsers[name]
    assert in_words(find(config, size=40)) == (config, None)
    size = {"llff": 20}.get(name, 40)  # the fixture's images are half the size, not a quarter
    before = config.setup().get_dataparser_outputs(split="train")
    for path in config.data.rglob("*.png"):
        path.unlink()
    poses, problem = in_words(find(config, size=40))
    assert poses is not None and problem is not None
    after = poses.setup().get_dataparser_outputs(split="train")
    torch.testing.assert_close(after.cameras.camera_to_worlds, before.cameras.camera_to_worlds)
    torch.testing.assert_close(after.scene_box.aabb, before.scene_box.aabb)
    torch.testing.assert_close(after.dataparser_transform, before.dataparser_transform)
    assert after.dataparser_scale == before.dataparser_scale
    assert after.cameras.width.unique().tolist() == [size]
    torch.testing.assert_close((after.cameras.fx / size).float(), (before.cameras.fx / before.cameras.width).float())


@pytest.mark.parametrize("name", ["blender", "nerfstudio", "llff", "nsvf"])
def test_a_broken_data_set_is_not_taken_for_a_lost_one(name: str, parsers: dict[str, DataParserConfig]) -> None:
    """Images are there, but some file is cut off."""
    for path in [*parsers[name].data.rglob("*.json"), *parsers[name].data.rglob("0_0003.txt")]:
        path.write_bytes(path.read_bytes()[:20])
    for path in parsers[name].data.rglob("5.png"):
        path.write_bytes(path.read_bytes()[:40])
    poses, problem = in_words(find(parsers[name], size=40))
    assert poses is None and problem is not None


def test_conversion_with_poses_and_no_images(teacher: Run, turntable: Path, tmp_path: Path, capsys) -> None:
    for path in turntable.rglob("*.png"):
        path.unlink()
    options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "12", "--data", str(turntable))
    options += ("--pipeline.datamanager.orbit.size", "24")
    trainer = start(distil_config(tmp_path, *options))
    trainer.train()
    said = " ".join(capsys.readouterr().out.split())
    assert "are gone" in said and "stand in" not in said
    data = trainer.pipeline.datamanager
    meta = json.loads((turntable / "transforms_train.json").read_text())
    real = torch.tensor([frame["transform_matrix"] for frame in meta["frames"]])[:, :3]
    torch.testing.assert_close(data.train_cameras.camera_to_worlds, real)
    metrics, _ = trainer.pipeline.get_eval_image_metrics_and_images(0)
    assert "psnr" not in metrics and 5 < metrics["psnr_to_teacher"] < 60


def test_views_stand_about_what_the_teacher_shows(teacher: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = FrozenTeacher(find_run(teacher.folder), "cpu")
    region = occupied_region(frozen)
    assert region is not None
    low, high = torch.tensor(region).view(2, 3)
    assert (low >= frozen.aabb[0]).all() and (high <= frozen.aabb[1]).all()
    monkeypatch.setattr(frozen, "density", lambda positions, extent: 50.0 * (positions[:, :1] > 0.5).float())
    region = occupied_region(frozen)
    assert region is not None and 0.4 < region[0] < 0.51 and region[1] == pytest.approx(-1.5)


def convert(teacher: Run, output: Path, *options: str, steps: int = 12):
    trainer = start(
        distil_config(output, "--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", str(steps), *options)
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("kind", ["blender-data", "nerfstudio-data", "instant-ngp-data"])
def test_a_first_image_that_is_missing_costs_no_pose(kind: str, turntable: Path) -> None:
    """Dataparsers open the first image to learn how large all are."""
    (turntable / "train" / "r_0.png").unlink()
    parser = {
        "blender-data": BlenderDataParserConfig(data=turntable),
        "nerfstudio-data": NerfstudioDataParserConfig(data=turntable),
        "instant-ngp-data": InstantNGPDataParserConfig(data=turntable),
    }[kind]
    before = 12 if kind == "blender-data" else 11
    found, _ = in_words(find(parser, size=7))
    assert found is not None
    outputs = found.setup().get_dataparser_outputs(split="train")
    assert len(outputs.cameras) >= before - 1 and outputs.cameras.width.unique().tolist() == [40]


def test_training_goes_on_from_the_images_that_are_there(teacher: Run, turntable: Path, tmp_path: Path, capsys) -> None:
    (turntable / "train" / "r_0.png").unlink()
    options = ("--data", str(turntable), "--pipeline.distillation.training-images", "True")
    data = convert(teacher, tmp_path, *options).pipeline.datamanager
    said = " ".join(capsys.readouterr().out.split())
    assert "Of 12 training images 1 are missing" in said and "r_0.png" in said and "stand in" not in said
    assert len(data.train_cameras) == 12 and data.has_images
    seen = data.seen(torch.arange(12), torch.zeros(12, 2).long())
    assert seen.tolist() == [False] + [True] * 11


def test_an_evaluation_image_that_is_missing_counts_in_no_mean(
    teacher: Run, turntable: Path, tmp_path: Path, capsys
) -> None:
    whole = convert(teacher, tmp_path / "one", "--data", str(turntable)).pipeline
    alone = [whole.get_eval_image_metrics_and_images(step)[0] for step in range(8)]
    (turntable / "val" / "r_0.png").unlink()
    torn = convert(teacher, tmp_path / "other", "--data", str(turntable)).pipeline
    assert "val/r_0.png" in "".join(capsys.readouterr().out.split())
    found = torn.get_average_eval_image_metrics()
    assert any(found["psnr"] == pytest.approx(metrics["psnr"], abs=1e-3) for metrics in alone)
    assert any(found["psnr_to_teacher"] == pytest.approx(metrics["psnr_to_teacher"], abs=1e-3) for metrics in alone)


def test_where_all_images_are_gone_no_psnr_is_that_of_images(teacher: Run, turntable: Path, tmp_path: Path) -> None:
    for path in turntable.rglob("*.png"):
        path.unlink()
    trainer = convert(teacher, tmp_path, "--data", str(turntable))
    pipeline = trainer.pipeline
    _, ours = summarize(pipeline, find_run(trainer.base_dir))
    assert ours.psnr is None and ours.psnr_to_teacher is not None and 5 < ours.psnr_to_teacher < 60
    found = pipeline.get_average_eval_image_metrics()
    assert "psnr" not in found and "ssim" not in found and found["psnr_to_teacher"] > 5


def test_a_data_set_without_an_evaluation_view(teacher: Run, turntable: Path, tmp_path: Path, capsys) -> None:
    copied = tmp_path / "run"
    shutil.copytree(teacher.folder, copied)
    (copied / "dataparser_transforms.json").unlink()
    options = ("nerfstudio-data", "--data", str(turntable), "--train-split-fraction", "1.0", "--scene-scale", "1.5")
    options += ("--orientation-method", "none", "--center-method", "none", "--auto-scale-poses", "False")
    trainer = convert(Run(copied), tmp_path / "out", *options)
    pipeline = trainer.pipeline
    assert "nothing to evaluate on" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(InputError, match="nothing to evaluate on"):
        pipeline.get_average_eval_image_metrics()
    _, ours = summarize(pipeline, find_run(trainer.base_dir))
    assert ours.megabytes > 0 and ours.psnr is ours.psnr_to_teacher is ours.speed.per_second is None
    table_of([ours])


@pytest.mark.parametrize("parser", [NerfstudioDataParserConfig, InstantNGPDataParserConfig, BlenderDataParserConfig])
def test_paths_of_windows(parser, turntable: Path) -> None:
    for path in turntable.glob("*.json"):
        meta = json.loads(path.read_text())
        for frame in meta["frames"]:
            frame["file_path"] = frame["file_path"].replace("/", "\\")
        path.write_text(json.dumps(meta))
    config = parser(data=turntable)
    with reading(config, named_by_user=False):
        outputs = config.setup().get_dataparser_outputs(split="train")
    assert outputs.image_filenames and all(path.is_file() for path in outputs.image_filenames)


@pytest.fixture()
def scannet(tmp_path: Path) -> Path:
    """Twelve posed images in ScanNet's layout."""
    folder = tmp_path / "scannet"
    for name in ("color", "depth", "pose", "intrinsic"):
        (folder / name).mkdir(parents=True)
    np.savetxt(folder / "intrinsic" / "intrinsic_color.txt", np.diag([50.0, 50.0, 1.0, 1.0]))
    for number in range(12):
        pose = np.eye(4)
        pose[:3, 3] = (np.cos(number), np.sin(number), 0.1 * number)
        np.savetxt(folder / "pose" / f"{number}.txt", pose)
        Image.new("RGB", (40, 40)).save(folder / "color" / f"{number}.jpg")
        Image.new("L", (40, 40)).save(folder / "depth" / f"{number}.png")
    return folder


@pytest.mark.parametrize("kind", ["scannet", "instant-ngp", "d-nerf"])
@pytest.mark.parametrize("folders", [False, True])
def test_poses_of_other_data_sets(kind: str, folders: bool, scannet: Path, turntable: Path) -> None:
    config: DataParserConfig = {
        "scannet": ScanNetDataParserConfig(data=scannet, load_3D_points=False),
        "instant-ngp": InstantNGPDataParserConfig(data=turntable),
        "d-nerf": DNeRFDataParserConfig(data=turntable),
    }[kind]
    if kind == "d-nerf":
        for path in turntable.glob("transforms_*.json"):
            meta = json.loads(path.read_text())
            path.write_text(json.dumps(meta | {"frames": [frame | {"time": 0.0} for frame in meta["frames"]]}))
    before = config.setup().get_dataparser_outputs(split="train")
    for path in [*config.data.rglob("*.png"), *config.data.rglob("*.jpg")]:
        path.unlink()
    for name in ("color", "depth", "train", "val", "test"):
        if folders and (config.data / name).is_dir():
            shutil.rmtree(config.data / name)
    poses, problem = in_words(find(config, size=40))
    assert poses is not None and problem is not None
    after = poses.setup().get_dataparser_outputs(split="train")
    torch.testing.assert_close(after.cameras.camera_to_worlds, before.cameras.camera_to_worlds)
    assert after.image_filenames == before.image_filenames


@pytest.mark.parametrize("damage", [{"file_path": 5}, {"w": "wide"}, {"w": None}])
def test_poses_that_hold_anything_are_not_a_data_set(damage: dict, turntable: Path) -> None:
    meta = json.loads((turntable / "transforms.json").read_text())
    meta["frames"][0] |= damage
    (turntable / "transforms.json").write_text(json.dumps({"frames": meta["frames"]}))
    (turntable / "train" / "r_0.png").unlink()
    poses, problem = in_words(find(NerfstudioDataParserConfig(data=turntable), size=40))
    assert poses is None and problem is not None


def test_an_only_evaluation_view_without_a_pose_is_none(teacher: Run, turntable: Path, tmp_path: Path, capsys) -> None:
    """nerfstudio's instant-ngp-data loses the pose where a tenth of the images is one."""
    options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "2")
    options += ("instant-ngp-data", "--data", str(turntable))
    with pytest.raises(InputError, match="scene box"):  # it is another kind of data set than the teacher's
        start(distil_config(tmp_path, *options)).train()
    assert "no evaluation view" in " ".join(capsys.readouterr().out.split())


def test_a_data_set_is_read_once_at_the_start(teacher: Run, scene: Path, tmp_path: Path, monkeypatch) -> None:
    """Each of its splits, by the trainer that checks it; the data manager is told."""
    read: list[str] = []
    generate = Blender._generate_dataparser_outputs

    def counted(self: Blender, split: str = "train"):
        read.append(split)
        return generate(self, split)

    monkeypatch.setattr(Blender, "_generate_dataparser_outputs", counted)
    options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "2", "--data", str(scene))
    start(distil_config(tmp_path, *options))
    assert sorted(read) == ["test", "train", "val"]
