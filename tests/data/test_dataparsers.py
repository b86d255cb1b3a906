"""LLFF and NSVF scenes: what is read is where it should be, stock methods train on it, and broken ones say why."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, distil_config, quiet, train_stock
from nerfstudio.configs.dataparser_configs import all_dataparsers
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image

from pvd_nerfstudio.commands.demo import small_nerfacto, train
from pvd_nerfstudio.data.llff import LLFFDataParserConfig
from pvd_nerfstudio.data.nsvf import NSVFDataParserConfig
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.teacher.building import no_lpips


def outputs(config, split: str = "train"):
    return config.setup().get_dataparser_outputs(split=split)


def test_llff_is_recentred_and_scaled_and_every_eighth_view_is_a_test_view(llff: Path) -> None:
    train, test = outputs(LLFFDataParserConfig(data=llff)), outputs(LLFFDataParserConfig(data=llff), "test")
    assert [path.stem for path in test.image_filenames] == ["0", "8"] and len(train.cameras) == 7
    scale = 4 / 3 / 4
    where = torch.cat([train.cameras.camera_to_worlds, test.cameras.camera_to_worlds])[:, :, 3]
    assert sorted(where[:, 0].tolist()) == pytest.approx([scale * (x - 4) for x in range(9)], abs=1e-5)
    torch.testing.assert_close(where[:, 1:], torch.zeros(9, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.cameras.camera_to_worlds[0, :, :3], torch.eye(3), atol=1e-5, rtol=0)
    assert train.cameras.fx.unique().tolist() == [50.0] and float(train.cameras.cx[0]) == 20.0
    low, high = train.scene_box.aabb
    assert float(high[2]) == pytest.approx(-0.9 * 4 / 3, abs=1e-4)
    assert float(low[2]) == pytest.approx(-1.1 * 40 * scale, abs=1e-3)
    point = train.dataparser_transform[:, :3] @ torch.tensor([4.0, 5.0, -3.0]) + train.dataparser_transform[:, 3]
    torch.testing.assert_close(scale * point, torch.tensor([0.0, 0.0, -10 * scale]), atol=1e-5, rtol=0)
    assert train.dataparser_scale == pytest.approx(scale)


def test_nsvf_shows_the_same_scene(nsvf: Path, scene: Path) -> None:
    config = NSVFDataParserConfig(data=nsvf)
    train, test = outputs(config), outputs(config, "test")
    assert len(train.cameras) == 12 and [path.name[:2] for path in test.image_filenames] == ["2_", "2_"]
    poses = np.array(
        [frame["transform_matrix"] for frame in json.loads((scene / "transforms_train.json").read_text())["frames"]]
    )
    expected = torch.from_numpy(poses[:, :3]).float()
    expected[:, 2, 3] -= 0.5
    torch.testing.assert_close(train.cameras.camera_to_worlds, expected, atol=1e-4, rtol=0)
    assert train.scene_box.aabb.tolist() == [[-1, -1, -1], [1, 1, 1]]
    for path in nsvf.glob("*/2_*"):
        path.unlink()
    assert [path.name[:2] for path in outputs(config, "test").image_filenames] == ["1_", "1_"]


@pytest.mark.parametrize("line", ["50 20 15", "50 20 15 0\n0 0 0\n0\n1\n30 40", "50 20 15 0\n0 0 0\n0\n1"])
def test_nsvf_intrinsics_in_a_line(nsvf: Path, line: str) -> None:
    (nsvf / "intrinsics.txt").write_text(line)
    cameras = outputs(NSVFDataParserConfig(data=nsvf)).cameras
    assert (float(cameras.fx[0]), float(cameras.cx[0]), float(cameras.cy[0])) == (50, 20, 15)


@pytest.mark.parametrize("name", ["llff-data", "nsvf-data"])
def test_stock_methods_train_on_them(name: str, llff: Path, nsvf: Path, tmp_path: Path) -> None:
    parser = copy.deepcopy(all_dataparsers[name])
    parser.data = {"llff-data": llff, "nsvf-data": nsvf}[name]
    config = copy.deepcopy(all_methods["tensorf"])
    config.pipeline.datamanager = VanillaDataManagerConfig(dataparser=parser, train_num_rays_per_batch=64)
    config.pipeline.model.init_resolution = config.pipeline.model.final_resolution = 16
    config.pipeline.model.eval_num_rays_per_chunk = 512
    config.max_num_iterations, config.steps_per_save = 3, 2
    with no_lpips():
        trainer = quiet(config, tmp_path, "stock").setup(local_rank=0, world_size=1)
        trainer.setup()
        trainer.train()
    assert list(trainer.checkpoint_dir.glob("*.ckpt"))


def test_a_scene_in_nsvfs_layout_is_converted(nsvf: Path, tmp_path: Path) -> None:
    config = small_nerfacto(nsvf, steps=100)
    config.pipeline.datamanager.dataparser = NSVFDataParserConfig(data=nsvf, alpha_color=None)
    config.pipeline.model = replace(config.pipeline.model, **TINY)
    teacher = train_stock(config, tmp_path / "teacher")
    options = ("--teacher-checkpoint", str(teacher.folder), "--student", "hash", "--max-num-iterations", "80")
    folder, _ = train(distil_config(tmp_path / "student", *options), lambda share: None)
    _, pipeline, _, _ = eval_setup(folder / "config.yml")
    assert pipeline.get_average_eval_image_metrics()["psnr"] > 15


def break_table(path: Path, how: str) -> None:
    table = np.load(path)
    if how == "missing":
        path.unlink()
    elif how == "cut off":
        path.write_bytes(path.read_bytes()[:200])
    elif how == "archive":
        np.savez(path.with_suffix(".npz"), table)
        path.with_suffix(".npz").rename(path)
    else:
        column, value = {"bounds": (15, -1), "focal": (14, 0)}.get(how, (0, table[0, 0]))
        table[3, column] = value
        np.save(path, {"shape": table[:, :15], "count": table[:5]}.get(how, table))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing", "poses_bounds.npy is missing"),
        ("cut off", "cut off"),
        ("archive", "cannot be read as an array"),
        ("shape", r"\(9, 15\)"),
        ("count", "9 images, but poses_bounds.npy has 5"),
        ("bounds", "bounds"),
        ("focal", "focal length that is not above 0"),
    ],
)
def test_broken_poses_say_why(llff: Path, how: str, said: str) -> None:
    break_table(llff / "poses_bounds.npy", how)
    with pytest.raises(InputError, match=said):
        outputs(LLFFDataParserConfig(data=llff))


def break_images(folder: Path, how: str) -> None:
    path = folder / "5.png"
    if how == "no folder":
        folder.rename(folder.with_name("others"))
    elif how == "shape":
        for image in folder.iterdir():
            Image.new("RGB", (40, 40)).save(image)
    elif how == "size":
        Image.new("RGB", (40, 32)).save(path)
    elif how == "PNG":
        path.write_bytes(path.read_bytes()[:-30])
    elif how == "JPEG":
        noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path, format="jpeg")
        path.write_bytes(path.read_bytes()[:-300])


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no folder", "images_4 or images_8 or images"),
        ("shape", "another shape than the 80 x 60"),
        ("size", "5.png is 40 x 32, 0.png beside it is 40 x 30"),
        ("PNG", "5.png .*cut off"),
        ("JPEG", "5.png .*cut off"),
    ],
)
def test_broken_images_say_why(llff: Path, how: str, said: str) -> None:
    break_images(llff / "images_4", how)
    with pytest.raises(InputError, match=said):
        outputs(LLFFDataParserConfig(data=llff))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("bbox.txt", None, "bbox.txt is missing"),
        ("bbox.txt", "0 0 0 1", "cut off"),
        ("bbox.txt", "1 1 1 0 0 0", "no box"),
        ("intrinsics.txt", "fifty", "numbers alone"),
        ("intrinsics.txt", "50 200 15", "principal point at 200, 15"),
        ("pose/0_0003.txt", "1 2 3", "cut off"),
        ("pose/0_0003.txt", None, "0_0003.txt is missing"),
    ],
)
def test_broken_nsvf_scenes_say_why(nsvf: Path, name: str, text: str | None, said: str) -> None:
    path = nsvf / name
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(InputError, match=said):
        outputs(NSVFDataParserConfig(data=nsvf))
