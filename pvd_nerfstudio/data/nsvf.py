"""NSVF scenes for every nerfstudio method: `nsvf-data`. Tanks and Temples is published in this layout, too.

Source of the format: Liu et al., Neural Sparse Voxel Fields: rgb/NAME.png, pose/NAME.txt (camera to world, axes right,
down and forwards), intrinsics.txt, bbox.txt; names begin with 0_ (training), 1_ (validation) or 2_ (test).
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.plugins.registry_dataparser import DataParserSpecification
from nerfstudio.utils.colors import get_color
from torch import Tensor

from pvd_nerfstudio.data.images import common_size, images_in
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.renamed import Renamed

PREFIXES = {"train": ("0_",), "val": ("1_", "2_"), "test": ("2_", "1_")}
"""Of a split's file names; the second where there is none of the first: Tanks and Temples has two splits."""


@dataclass
class NSVFDataParserConfig(Renamed, DataParserConfig):
    """A folder with rgb, pose, intrinsics.txt and bbox.txt."""

    old_names = {"photographs": "images"}

    _target: type = field(default_factory=lambda: NSVF)
    data: Path = Path("data/TanksAndTemple/Ignatius")
    """The folder."""
    images: bool = True
    """Whether there are images; without them the poses are read alone."""
    alpha_color: str | None = "white"
    """Colour that transparent images are blended with; None: they keep their alpha channel."""


class NSVF(DataParser):
    """Scaled and moved so that the bounding box lies around the origin and its longest half side is 1."""

    config: NSVFDataParserConfig

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: dict | None) -> DataparserOutputs:
        del kwargs
        data = self.config.data
        images = self._images(split)
        box = numbers(data / "bbox.txt", at_least=6)[:6].view(2, 3)
        if (box[1] <= box[0]).any():
            raise InputError(f"{data / 'bbox.txt'} is no box: {box.tolist()}.")
        middle, scale = box.mean(dim=0), 2 / float((box[1] - box[0]).max())
        poses = torch.stack([self._pose(path) for path in images])
        poses[..., 1:3] *= -1  # nerfstudio's axes: right, up, backwards
        poses[..., 3] = scale * (poses[..., 3] - middle)
        focal_x, focal_y, cx, cy = read_intrinsics(data / "intrinsics.txt")
        width, height = common_size(images) if self.config.images else (round(2 * cx), round(2 * cy))
        if not (focal_x > 0 and focal_y > 0 and 0 < cx < width and 0 < cy < height):
            raise InputError(
                f"{data / 'intrinsics.txt'} has focal lengths of {focal_x:g} and {focal_y:g} pixels and its principal "
                f"point at {cx:g}, {cy:g}; that does not fit images of {width} x {height}, as {images[0]} is."
            )
        cameras = Cameras(
            camera_to_worlds=poses.float(),
            fx=focal_x,
            fy=focal_y,
            cx=cx,
            cy=cy,
            width=width,
            height=height,
            camera_type=CameraType.PERSPECTIVE,
        )
        return DataparserOutputs(
            image_filenames=images,
            cameras=cameras,
            alpha_color=None if self.config.alpha_color is None else get_color(self.config.alpha_color),
            scene_box=SceneBox(aabb=(scale * (box - middle)).float()),
            dataparser_scale=scale,
            dataparser_transform=torch.cat([torch.eye(3), -middle[:, None].float()], dim=1),
        )

    def _images(self, split: str) -> list[Path]:
        folder = self.config.data / "rgb"
        if not self.config.images:
            poses = self._of_split(sorted(self.config.data.glob("pose/*.txt")), split)
            return [folder / f"{path.stem}.png" for path in poses]
        if not folder.is_dir():
            raise InputError(f"{folder} is missing: is {folder.parent} the folder of an NSVF scene?")
        return self._of_split(images_in(folder), split)

    def _of_split(self, paths: list[Path], split: str) -> list[Path]:
        for prefix in PREFIXES[split]:
            chosen = [path for path in paths if path.name.startswith(prefix)]
            if chosen:
                return chosen
        folder = self.config.data / ("rgb" if self.config.images else "pose")
        raise InputError(f"{folder} has no file whose name begins with {' or '.join(PREFIXES[split])}.")

    def _pose(self, image: Path) -> Float[Tensor, "3 4"]:
        path = self.config.data / "pose" / f"{image.stem}.txt"
        pose = numbers(path, at_least=12)
        if len(pose) not in (12, 16):
            raise InputError(f"{path} holds {len(pose)} numbers; a pose has 12 or 16.")
        return pose.view(-1, 4)[:3].clone()


def read_intrinsics(path: Path) -> tuple[float, float, float, float]:
    """Focal lengths and principal point in pixels, from a 3 x 3 or 4 x 4 matrix, or from a first line of `f cx cy`.

    Raises:
        InputError: the file is missing or holds something else.
    """
    values = numbers(path, at_least=3)
    rows = [len(line.split()) for line in path.read_text("utf8").splitlines() if line.strip()]
    if rows in ([3] * 3, [4] * 4):
        matrix = values.view(len(rows), len(rows))
        return float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 2]), float(matrix[1, 2])
    return float(values[0]), float(values[0]), float(values[1]), float(values[2])


def numbers(path: Path, at_least: int) -> Float[Tensor, "count"]:
    """All numbers of a text file.

    Raises:
        InputError: it is missing, holds something else, or fewer.
    """
    try:
        values = torch.tensor([float(word) for word in path.read_text("utf8").split()], dtype=torch.float64)
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing.") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path} should hold numbers alone: {error}.") from error
    if len(values) < at_least or not torch.isfinite(values).all():
        raise InputError(f"{path} holds {len(values)} numbers, {at_least} or more are needed; is it cut off?")
    return values


nsvf_data = DataParserSpecification(
    config=NSVFDataParserConfig(), description="NSVF's layout, in which Tanks and Temples is published."
)
"""What nerfstudio discovers."""
