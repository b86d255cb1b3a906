"""Data sets of every kind that keeps its poses in files, their images gone: the poses are those that were there."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import in_words
from nerfstudio.data.dataparsers.arkitscenes_dataparser import ARKitScenesDataParserConfig
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfosr_dataparser import NeRFOSRDataParserConfig
from nerfstudio.data.dataparsers.phototourism_dataparser import PhototourismDataParserConfig
from nerfstudio.data.dataparsers.scannetpp_dataparser import ScanNetppDataParserConfig
from nerfstudio.data.dataparsers.sdfstudio_dataparser import SDFStudioDataParserConfig
from nerfstudio.data.dataparsers.sitcoms3d_dataparser import Sitcoms3DDataParserConfig
from PIL import Image

from pvd_nerfstudio.data.poses import SPLITS, find
from pvd_nerfstudio.data.reviewed import check_outputs, reading
from pvd_nerfstudio.data.views import sphere

VIEWS, WIDTH, HEIGHT, FOCAL = 12, 32, 24, 30.0
INTRINSICS = [[FOCAL, 0.0, WIDTH / 2, 0.0], [0.0, FOCAL, HEIGHT / 2, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]


def poses() -> np.ndarray:
    """Camera to world, in the convention of OpenCV."""
    found = torch.eye(4).repeat(VIEWS, 1, 1)
    found[:, :3] = sphere(VIEWS, 3.0, torch.zeros(3))
    found[:, :3, 1:3] *= -1
    return found.numpy().astype(np.float64)


def picture(path: Path, number: int, scale: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH * scale, HEIGHT * scale), (number * 10, 0, 0)).save(path)


def quaternion(rotation: np.ndarray) -> tuple[float, float, float, float]:
    """Scalar first; of the matrix's eigenvector, which exists for every rotation."""
    (a, b, c), (d, e, f), (g, h, i) = rotation
    matrix = [[a - e - i, b + d, c + g, h - f], [b + d, e - a - i, f + h, c - g]]
    matrix += [[c + g, f + h, i - a - e, d - b], [h - f, c - g, d - b, a + e + i]]
    x, y, z, w = np.linalg.eigh(np.array(matrix))[1][:, -1]
    return w, x, y, z


def colmap_binary(folder: Path, suffix: str = ".jpg", scale: int = 1) -> None:
    """cameras.bin and images.bin, one camera an image, as Phototourism has them."""
    folder.mkdir(parents=True)
    cameras, images = [struct.pack("<Q", VIEWS)], [struct.pack("<Q", VIEWS)]
    for number, pose in enumerate(poses(), start=1):
        pinhole = [scale * value for value in (FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2)]
        cameras.append(struct.pack("<iiQQ4d", number, 1, scale * WIDTH, scale * HEIGHT, *pinhole))
        world_to_camera = np.linalg.inv(pose)
        turn, shift = quaternion(world_to_camera[:3, :3]), world_to_camera[:3, 3]
        name = f"{number:03}{suffix}".encode()
        images.append(struct.pack("<i7di", number, *turn, *shift, number) + name + b"\0" + struct.pack("<Q", 0))
    (folder / "cameras.bin").write_bytes(b"".join(cameras))
    (folder / "images.bin").write_bytes(b"".join(images))
    (folder / "points3D.bin").write_bytes(struct.pack("<Q", 0))


def colmap(data: Path) -> DataParserConfig:
    colmap_binary(data / "colmap/sparse/0")
    for number in range(1, VIEWS + 1):
        picture(data / f"images/{number:03}.jpg", number)
        picture(data / f"masks/{number:03}.png", number)
    return ColmapDataParserConfig(data=data, masks_path=Path("masks"), load_3D_points=False)


def colmap_of_large_images(data: Path) -> DataParserConfig:
    """The smaller copies are what it is read with."""
    colmap_binary(data / "colmap/sparse/0", scale=64)
    picture(data / "images/001.jpg", 1, scale=64)
    for number in range(1, VIEWS + 1):
        picture(data / f"images_2/{number:03}.jpg", number, scale=32)
    return ColmapDataParserConfig(data=data, load_3D_points=False)


def colmap_made_smaller(data: Path) -> DataParserConfig:
    """A factor that was typed, so that nerfstudio would ask whether to make the copies."""
    colmap_binary(data / "colmap/sparse/0", scale=4)
    for number in range(1, VIEWS + 1):
        picture(data / f"images_4/{number:03}.jpg", number)
    return ColmapDataParserConfig(data=data, downscale_factor=4, load_3D_points=False)


def phototourism(data: Path) -> DataParserConfig:
    colmap_binary(data / "dense/sparse")
    for number in range(1, VIEWS + 1):
        picture(data / f"dense/images/{number:03}.jpg", number)
    return PhototourismDataParserConfig(data=data)


def arkitscenes(data: Path) -> DataParserConfig:
    frames = data / f"{data.name}_frames"
    (frames / "lowres_wide_intrinsics").mkdir(parents=True)
    lines = []
    for number, pose in enumerate(poses()):
        name = f"{data.name}_{number}.000"
        picture(frames / f"lowres_wide/{name}.png", number)
        picture(frames / f"lowres_depth/{name}.png", number)
        pincam = f"{WIDTH} {HEIGHT} {FOCAL} {FOCAL} {WIDTH / 2} {HEIGHT / 2}"
        (frames / f"lowres_wide_intrinsics/{name}.pincam").write_text(pincam)
        w, x, y, z = quaternion(pose[:3, :3].T)
        angle = 2 * np.arctan2(np.linalg.norm([x, y, z]), w)
        turn = angle * np.array([x, y, z]) / max(np.linalg.norm([x, y, z]), 1e-9)
        lines.append(" ".join(map(str, [float(number), *turn, *(-pose[:3, :3].T @ pose[:3, 3])])))
    (frames / "lowres_wide.traj").write_text("\n".join(lines) + "\n")
    return ARKitScenesDataParserConfig(data=data)


def nerfosr(data: Path) -> DataParserConfig:
    for split, chosen in {"train": range(8), "validation": range(8, 10), "test": range(10, VIEWS)}.items():
        folder = data / "site/final" / split
        (folder / "pose").mkdir(parents=True)
        (folder / "intrinsics").mkdir()
        for number in chosen:
            for kind, matrix in (("pose", poses()[number]), ("intrinsics", np.array(INTRINSICS))):
                (folder / kind / f"{number:03}.txt").write_text(" ".join(map(str, matrix.flatten())))
            picture(folder / f"rgb/{number:03}.jpg", number)
    return NeRFOSRDataParserConfig(data=data, scene="site")


def scannetpp(data: Path) -> DataParserConfig:
    frames = [
        {"file_path": f"DSC{number:03}.JPG", "transform_matrix": pose.tolist()} for number, pose in enumerate(poses())
    ]
    meta = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2, "w": WIDTH, "h": HEIGHT}
    (data / "dslr/nerfstudio").mkdir(parents=True)
    text = json.dumps(meta | {"frames": frames[:10], "test_frames": frames[10:]})
    (data / "dslr/nerfstudio/transforms.json").write_text(text)
    for number in range(VIEWS):
        picture(data / f"dslr/resized_images/DSC{number:03}.JPG", number)
    return ScanNetppDataParserConfig(data=data)


def sdfstudio(data: Path) -> DataParserConfig:
    data.mkdir()
    box = {"aabb": [[-1, -1, -1], [1, 1, 1]]}
    frames = []
    for number, pose in enumerate(poses()):
        picture(data / f"{number:03}_rgb.png", number)
        frames.append({"rgb_path": f"{number:03}_rgb.png", "camtoworld": pose.tolist(), "intrinsics": INTRINSICS})
    meta = {"frames": frames, "scene_box": box, "height": HEIGHT, "width": WIDTH}
    (data / "meta_data.json").write_text(json.dumps(meta))
    return SDFStudioDataParserConfig(data=data)


def sitcoms(data: Path) -> DataParserConfig:
    frames = []
    for number, pose in enumerate(poses()):
        picture(data / f"images_4/{number:03}.jpg", number)
        wide = [[4 * value for value in row[:3]] for row in INTRINSICS[:2]] + [[0.0, 0.0, 1.0]]
        frames.append({"image_name": f"{number:03}.jpg", "camtoworld": pose.tolist(), "intrinsics": wide})
    (data / "cameras.json").write_text(json.dumps({"frames": frames, "bbox": [[-1.0] * 3, [1.0] * 3]}))
    return Sitcoms3DDataParserConfig(data=data, include_semantics=False)


KINDS: list[Callable[[Path], DataParserConfig]] = [
    arkitscenes,
    colmap,
    colmap_made_smaller,
    colmap_of_large_images,
    nerfosr,
    phototourism,
    scannetpp,
    sdfstudio,
    sitcoms,
]


def read(config: DataParserConfig, split: str) -> DataparserOutputs:
    """As the data manager reads what a stranger's config.yml names."""
    with reading(config, named_by_user=False):
        outputs = config.setup().get_dataparser_outputs(split=split)
    check_outputs(outputs)
    return outputs


@pytest.mark.parametrize("only_one", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_poses_are_those_that_were_there(
    kind: Callable[[Path], DataParserConfig], only_one: bool, tmp_path: Path
) -> None:
    config = kind(tmp_path / "41069021")
    with reading(config, named_by_user=False):
        assert in_words(find(config, size=7)) == (config, None)
    before = {split: read(config, split) for split in SPLITS}
    assert len(before["train"].cameras) > 7  # noqa: PLR2004
    images = before["train"].image_filenames
    gone = images[1:2] if only_one else [path for split in SPLITS for path in before[split].image_filenames]
    for path in set(gone):
        Path(path).unlink()
    written = sorted(config.data.rglob("*"))
    with reading(config, named_by_user=False):
        found, _ = in_words(find(config, size=7))
    assert found is not None
    for split in SPLITS:
        after = read(found, split)
        assert [Path(path).stem for path in after.image_filenames] == [
            Path(path).stem for path in before[split].image_filenames
        ]
        for name in ("camera_to_worlds", "fx", "cx", "width", "height"):
            torch.testing.assert_close(getattr(after.cameras, name), getattr(before[split].cameras, name))
        torch.testing.assert_close(after.scene_box.aabb, before[split].scene_box.aabb)
    assert sorted(config.data.rglob("*")) == written


@pytest.mark.parametrize("kind", [scannetpp, sdfstudio, sitcoms])
def test_paths_of_windows_are_read(kind: Callable[[Path], DataParserConfig], tmp_path: Path) -> None:
    config = kind(tmp_path / "data")
    file = next(config.data.rglob("*.json"))
    meta = json.loads(file.read_text())
    name = {scannetpp: "file_path", sdfstudio: "rgb_path", sitcoms: "image_name"}[kind]
    for frame in [*meta["frames"], *meta.get("test_frames", [])]:
        frame[name] = f".\\{frame[name]}"
    file.write_text(json.dumps(meta))
    assert all(Path(path).is_file() for path in read(config, "train").image_filenames)
