"""LLFF scenes for every nerfstudio method: `llff-data`, images taken in front of a scene.

Source of the format: Mildenhall et al., Local Light Field Fusion; a row of poses_bounds.npy is a 3 x 5 matrix (axes
down, right and backwards, centre, then height, width and focal length of the full resolution) and two depths.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.plugins.registry_dataparser import DataParserSpecification
from torch import Tensor

from pvd_nerfstudio.data.images import common_size, images_in
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.ranges import at_least, between
from pvd_nerfstudio.input.renamed import Renamed

NUMBERS = 17
"""In a row of poses_bounds.npy."""
NEAREST = 4 / 3
"""Where the nearest thing comes to lie, as in NeRF's reference implementation."""
SAME_SHAPE = 0.02
"""By how much the ratio of the sides may differ: sizes are rounded when images are made smaller."""


@dataclass
class LLFFDataParserConfig(Renamed, DataParserConfig):
    """A folder with poses_bounds.npy and images, images_4 or images_8."""

    old_names = {"photographs": "images"}
    ranges = {"downscale": between(0, 8), "test_every": at_least(2), "margin": at_least(0)}

    _target: type = field(default_factory=lambda: LLFF)
    data: Path = Path("data/nerf_llff_data/fern")
    """The folder."""
    downscale: Literal[0, 1, 2, 4, 8] = 0
    """Which images: 1 for images, 8 for images_8; 0: images_4, or else images_8, or else images."""
    test_every: int = 8
    """Every so manyth view is a test view, the first one included; 2 or more."""
    images: bool = True
    """Whether there are images; without them the poses are read alone."""
    margin: float = 0.1
    """How far the scene box reaches beyond the bounds, as a share of them."""


class LLFF(DataParser):
    """Recentred: the mean camera stands at the origin and looks along -z. Scaled: the nearest thing is 4/3 away."""

    config: LLFFDataParserConfig

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: dict | None) -> DataparserOutputs:
        del kwargs
        if self.config.test_every < 2:  # noqa: PLR2004
            raise InputError(
                f"--test-every {self.config.test_every} leaves no view to train on; it should be 2 or more."
            )
        table = read_poses_bounds(self.config.data / "poses_bounds.npy")
        images = self._images(len(table))
        matrix, bounds = table[:, :15].view(-1, 3, 5), table[:, 15:]
        poses = torch.stack([matrix[..., 1], -matrix[..., 0], matrix[..., 2], matrix[..., 3]], dim=-1)
        transform = to_mean_camera(poses)
        poses = transform[:, :3] @ poses + torch.nn.functional.pad(transform[:, 3:], (3, 0))
        scale = NEAREST / float(bounds.min())
        poses[..., 3] *= scale
        whole = float(matrix[0, 1, 4]), float(matrix[0, 0, 4])
        smaller = self.config.downscale or 4
        width, height = (
            common_size(images) if self.config.images else (round(whole[0] / smaller), round(whole[1] / smaller))
        )
        factor = width / whole[0]
        if abs(height / whole[1] / factor - 1) > SAME_SHAPE:
            raise InputError(
                f"{images[0]} is {width} x {height}, another shape than the {whole[0]:.0f} x {whole[1]:.0f} of "
                "poses_bounds.npy."
            )
        cameras = Cameras(
            camera_to_worlds=poses.float(),
            fx=(factor * matrix[:, 2, 4:]).float(),
            fy=(factor * matrix[:, 2, 4:]).float(),
            cx=width / 2,
            cy=height / 2,
            width=width,
            height=height,
            camera_type=CameraType.PERSPECTIVE,
        )
        low, high = (1 - self.config.margin) * scale * bounds[:, 0], (1 + self.config.margin) * scale * bounds[:, 1]
        chosen = torch.tensor(
            [(view % self.config.test_every == 0) != (split == "train") for view in range(len(poses))]
        )
        return DataparserOutputs(
            image_filenames=[path for path, taken in zip(images, chosen.tolist()) if taken],
            cameras=cameras[chosen.nonzero()[:, 0]],
            scene_box=SceneBox(aabb=around_frusta(cameras, low.float(), high.float())),
            dataparser_scale=scale,
            dataparser_transform=transform.float(),
        )

    def _images(self, count: int) -> list[Path]:
        """The images, one for each pose; without images, where they would be.

        Raises:
            InputError: there is no such folder, or it holds more or fewer.
        """
        data = self.config.data
        names = {1: "images", 2: "images_2", 4: "images_4", 8: "images_8"}
        wanted = [names[self.config.downscale]] if self.config.downscale else [names[4], names[8], names[1]]
        folder = next((data / name for name in wanted if (data / name).is_dir()), None)
        images = [] if folder is None else images_in(folder)
        if not self.config.images and not images:
            return [data / "images" / f"{view:03d}.png" for view in range(count)]
        if folder is None:
            raise InputError(f"{data} has no folder {' or '.join(wanted)} with images.")
        if len(images) != count:
            raise InputError(f"{folder} holds {len(images)} images, but poses_bounds.npy has {count} poses.")
        return images


def read_poses_bounds(path: Path) -> Float[Tensor, "views 17"]:
    """The file's table.

    Raises:
        InputError: it is missing, cut off, or something else.
    """
    try:
        table = np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: is {path.parent} the folder of an LLFF scene?") from error
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise InputError(f"{path} cannot be read as an array ({error}); is it cut off?") from error
    if table.ndim != 2 or table.shape[1] != NUMBERS or not len(table):  # noqa: PLR2004
        raise InputError(f"{path} is an array of shape {table.shape}; it should be [views, {NUMBERS}].")
    if not np.isfinite(table).all() or (table[:, 15] <= 0).any() or (table[:, 16] <= table[:, 15]).any():
        raise InputError(f"{path} holds numbers that are not finite, or bounds that are no pair of depths above 0.")
    if (table[:, [4, 9, 14]] <= 0).any():
        raise InputError(f"{path} holds a height, a width or a focal length that is not above 0.")
    return torch.from_numpy(table)


def to_mean_camera(poses: Float[Tensor, "views 3 4"]) -> Float[Tensor, "3 4"]:
    """The transform after which the mean of all cameras stands at the origin, upright, and looks along -z."""
    back, up, middle = poses[..., 2].mean(dim=0), poses[..., 1].mean(dim=0), poses[..., 3].mean(dim=0)
    z = torch.nn.functional.normalize(back, dim=0)
    x = torch.nn.functional.normalize(torch.linalg.cross(up, z), dim=0)
    rotation = torch.stack([x, torch.linalg.cross(z, x), z])
    return torch.cat([rotation, -(rotation @ middle)[:, None]], dim=1)


def around_frusta(cameras: Cameras, near: Float[Tensor, "views"], far: Float[Tensor, "views"]) -> Float[Tensor, "2 3"]:
    """The smallest box around what the cameras see between two depths each."""
    width, height = cameras.width.float(), cameras.height.float()
    corners = []
    for column in (-cameras.cx, width - cameras.cx):
        for row in (-cameras.cy, height - cameras.cy):
            ray = torch.cat([column / cameras.fx, -row / cameras.fy, -torch.ones_like(cameras.fx)], dim=1)
            for depth in (near, far):
                local = ray * depth[:, None]
                corners.append(
                    cameras.camera_to_worlds[..., 3] + (cameras.camera_to_worlds[..., :3] @ local[..., None])[..., 0]
                )
    points = torch.cat(corners)
    return torch.stack([points.amin(dim=0), points.amax(dim=0)])


llff_data = DataParserSpecification(
    config=LLFFDataParserConfig(), description="LLFF: images in front of a scene, with poses_bounds.npy."
)
"""What nerfstudio discovers."""
