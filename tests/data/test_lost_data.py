"""Images that are gone while their poses remain, and runs of which nothing else is left."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import Run, distil_config
from helpers import start
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from pvd_nerfstudio.data.llff import LLFFDataParserConfig
from pvd_nerfstudio.data.nsvf import NSVFDataParserConfig
from pvd_nerfstudio.data.poses import readable
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
    assert readable(config, size=40) == (config, None)
    size = {"llff": 20}.get(name, 40)  # the fixture's images are half the size, not a quarter
    before = config.setup().get_dataparser_outputs(split="train")
    for path in config.data.rglob("*.png"):
        path.unlink()
    poses, problem = readable(config, size=40)
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
    poses, problem = readable(parsers[name], size=40)
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
    assert 5 < metrics["psnr"] < 60


def test_views_stand_about_what_the_teacher_shows(teacher: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = FrozenTeacher(find_run(teacher.folder), "cpu")
    region = occupied_region(frozen)
    assert region is not None
    low, high = torch.tensor(region).view(2, 3)
    assert (low >= frozen.aabb[0]).all() and (high <= frozen.aabb[1]).all()
    monkeypatch.setattr(frozen, "density", lambda positions, extent: 50.0 * (positions[:, :1] > 0.5).float())
    region = occupied_region(frozen)
    assert region is not None and 0.4 < region[0] < 0.51 and region[1] == pytest.approx(-1.5)
