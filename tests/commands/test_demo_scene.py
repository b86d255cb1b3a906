"""The demo scene is written as nerfstudio's `blender-data` reads it, and its renderings agree with its poses."""

import json
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from scipy import ndimage

from pvd_nerfstudio.commands.demo_scene import HANDLE_CENTRE, KNOB_CENTRE, write_scene
from pvd_nerfstudio.errors import InputError

TRAIN, VAL, TEST, SIZE = 12, 2, 3, 48


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small copy of the scene."""
    folder = tmp_path_factory.mktemp("demo") / "scene"
    write_scene(folder, TRAIN, VAL, TEST, SIZE)
    return folder


def read(folder: Path, split: str) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Image, camera-to-world matrix and focal length in pixels of each view, as the files tell."""
    meta = json.loads((folder / f"transforms_{split}.json").read_text())
    focal = 0.5 * SIZE / np.tan(0.5 * meta["camera_angle_x"])
    return [
        (imageio.imread(folder / f"{frame['file_path']}.png"), np.array(frame["transform_matrix"]), focal)
        for frame in meta["frames"]
    ]


def project(point: tuple[float, ...], pose: np.ndarray, focal: float) -> tuple[int, int]:
    """Row and column of the pixel that sees a world point, for an OpenGL camera."""
    x, y, z = (np.linalg.inv(pose) @ [*point, 1.0])[:3]
    assert z < 0, "the point is behind the camera"
    return int(SIZE / 2 + focal * y / z), int(SIZE / 2 - focal * x / z)


def is_red(pixel: np.ndarray) -> bool:
    """Whether it is the paint of the knob: nothing else in the scene is as red."""
    red, green, blue, alpha = (int(value) for value in pixel)
    return alpha == 255 and red > 1.75 * max(green, blue)


@pytest.mark.parametrize(("split", "count"), [("train", TRAIN), ("val", VAL), ("test", TEST)])
def test_layout(scene: Path, split: str, count: int) -> None:
    views = read(scene, split)
    assert sorted(path.name for path in (scene / split).iterdir()) == sorted(f"r_{i}.png" for i in range(count))
    assert len(views) == count
    for image, pose, _ in views:
        assert image.shape == (SIZE, SIZE, 4) and image.dtype == np.uint8
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-9)
        assert np.linalg.det(pose[:3, :3]) == pytest.approx(1.0)


def test_splits_share_no_view(scene: Path) -> None:
    places = np.array([pose[:3, 3] for split in ("train", "val", "test") for _, pose, _ in read(scene, split)])
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1) + 9.0 * np.eye(len(places))
    assert apart.min() > 0.1


def test_alpha_and_framing(scene: Path) -> None:
    for image, _, _ in read(scene, "train"):
        alpha = image[..., 3]
        assert (alpha == 0).any() and (alpha == 255).any() and ((alpha > 0) & (alpha < 255)).any()
        assert not alpha[[0, -1]].any() and not alpha[:, [0, -1]].any(), "the object touches the border"
        assert 0.55 < np.ptp(np.flatnonzero(alpha.any(axis=0))) / SIZE < 0.75


def test_colour_is_straight(scene: Path) -> None:
    """Premultiplied colour would be dark at the silhouette."""
    for image, _, _ in read(scene, "train"):
        edge = (image[..., 3] > 0) & (image[..., 3] < 64)
        assert image[edge][:, :3].max(axis=1).mean() > 90


def test_poses_agree_with_images(scene: Path) -> None:
    """The red knob, which every camera sees, lies where the pose says, and only there."""
    for image, pose, focal in read(scene, "train") + read(scene, "val") + read(scene, "test"):
        row, column = project(KNOB_CENTRE, pose, focal)
        assert is_red(image[row, column])
        red = np.argwhere([[is_red(pixel) for pixel in line] for line in image])
        assert np.abs(red - [row, column]).max() <= 3


def test_handle_has_a_hole(scene: Path) -> None:
    """Some view from the side shows the background inside the handle's ring."""
    seen_through = 0
    for image, pose, focal in read(scene, "train"):
        background = np.zeros((SIZE, SIZE), np.int32)
        ndimage.label(image[..., 3] == 0, output=background)
        row, column = project((HANDLE_CENTRE[0] - 0.12, *HANDLE_CENTRE[1:]), pose, focal)
        if background[row, column]:
            seen_through += 1
            assert background[row, column] != background[0, 0], "the hole must be closed all around"
    assert seen_through >= 1


def test_glaze_depends_on_the_view(scene: Path) -> None:
    """A point in the blue upper part of the teapot is much brighter where it mirrors the light."""
    normal = np.array([0.35, -0.45, 0.82]) / np.linalg.norm([0.35, -0.45, 0.82])
    radii = np.array([0.48, 0.48, 0.42])
    point = np.array([-0.04, 0.2, -0.05]) + radii**2 * normal / np.linalg.norm(radii * normal)
    brightness = []
    for image, pose, focal in read(scene, "train"):
        to_camera = pose[:3, 3] - point
        if normal @ to_camera > 0.6 * np.linalg.norm(to_camera):
            row, column = project(tuple(point), pose, focal)
            brightness.append(int(image[row, column, :3].min()))
    assert len(brightness) >= 2
    assert max(brightness) - min(brightness) > 40


def test_is_deterministic(tmp_path: Path) -> None:
    for name in "ab":
        write_scene(tmp_path / name, 2, 1, 1, SIZE)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 7
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_reports_progress(tmp_path: Path) -> None:
    fractions: list[float] = []
    write_scene(tmp_path, 2, 1, 1, 8, fractions.append)
    assert fractions == [0.25, 0.5, 0.75, 1.0]


def test_refuses_a_folder_in_use(tmp_path: Path) -> None:
    keep = tmp_path / "mine.txt"
    keep.write_text("precious")
    for taken in (tmp_path, keep):
        with pytest.raises(InputError, match="not an empty folder"):
            write_scene(taken, 1, 1, 1, 8)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"] and keep.read_text() == "precious"


def test_nerfstudio_reads_it(scene: Path) -> None:
    """nerfstudio's own ray through the knob's pixel passes through the knob."""
    from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig  # noqa: PLC0415

    outputs = BlenderDataParserConfig(data=scene).setup().get_dataparser_outputs("train")
    assert len(outputs.image_filenames) == TRAIN
    _, pose, focal = read(scene, "train")[0]
    rays = outputs.cameras.generate_rays(camera_indices=0)[project(KNOB_CENTRE, pose, focal)]
    to_knob = np.array(KNOB_CENTRE) - rays.origins.numpy()
    assert np.linalg.norm(np.cross(to_knob, rays.directions.numpy())) < 0.05
