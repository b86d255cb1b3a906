"""A data set whose images are gone: its poses are worth having all the same."""

from dataclasses import dataclass, field, fields, replace
from math import ceil, log2, tan
from pathlib import Path

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import Blender, BlenderDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import MAX_AUTO_RESOLUTION, NerfstudioDataParserConfig
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.utils.io import load_from_json

from pvd_nerfstudio.data.llff import LLFFDataParserConfig
from pvd_nerfstudio.data.nsvf import NSVFDataParserConfig
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.ranges import above, between
from pvd_nerfstudio.input.text import is_file, plain


def readable(dataparser: DataParserConfig, size: int) -> tuple[DataParserConfig | None, str | None]:
    """What a data set can be read with, and why not with its own dataparser.

    Args:
        dataparser: its own.
        size: width and height of views in pixels, where only the images know.

    Returns:
        Its own and None; or, when every image is gone, one for the poses alone, and what was wrong; or None and
        what was wrong.
    """
    problem = _problem(dataparser)
    if problem is None:
        return dataparser, None
    try:
        poses = _poses_alone(dataparser, size)
    except (OSError, ValueError, InputError):
        return None, problem
    if poses is None or _problem(poses) is not None:
        return None, problem
    there = any(is_file(path) for path in poses.setup().get_dataparser_outputs(split="train").image_filenames)
    return (None if there else poses), problem


def _problem(dataparser: DataParserConfig) -> str | None:
    try:
        outputs = dataparser.setup().get_dataparser_outputs(split="train")
    except Exception as error:  # a dataparser may fail in any way
        return f"{type(error).__name__}: {plain(error)}"
    return None if len(outputs.cameras) else "it has no training view"


def _poses_alone(dataparser: DataParserConfig, size: int) -> DataParserConfig | None:
    """The same data set read without opening an image; None where that is not known how."""
    if isinstance(dataparser, BlenderDataParserConfig):
        kept = {item.name: getattr(dataparser, item.name) for item in fields(dataparser) if item.name != "_target"}
        return BlenderPosesConfig(**kept | {"size": size, "ply_path": None})
    if isinstance(dataparser, NerfstudioDataParserConfig):  # it opens one to choose a scale
        return replace(dataparser, downscale_factor=dataparser.downscale_factor or _downscale(dataparser.data))
    if isinstance(dataparser, (LLFFDataParserConfig, NSVFDataParserConfig)):
        return replace(dataparser, images=False)
    return None


def _downscale(data: Path) -> int:
    """By how much nerfstudio makes images smaller unless it is told."""
    meta = load_from_json(data if data.suffix == ".json" else data / "transforms.json")
    frames = [meta, *meta.get("frames", [])]
    longest = max(max(frame.get("w", 0), frame.get("h", 0)) for frame in frames)
    return 2 ** max(0, ceil(log2(max(1.0, longest) / MAX_AUTO_RESOLUTION)))


@dataclass
class BlenderPosesConfig(BlenderDataParserConfig):
    """A scene in nerfstudio's `blender-data`, without its images."""

    ranges = {"scale_factor": above(0), "size": between(1, 1 << 16)}

    _target: type = field(default_factory=lambda: BlenderPoses)
    size: int = 200
    """Width and height of a view in pixels, which the files with the poses do not tell."""


class BlenderPoses(Blender):
    """nerfstudio's, but for the size of the views."""

    config: BlenderPosesConfig

    def _generate_dataparser_outputs(self, split: str = "train") -> DataparserOutputs:
        meta = load_from_json(self.data / f"transforms_{split}.json")
        poses = torch.tensor([frame["transform_matrix"] for frame in meta["frames"]])[:, :3]
        poses[..., 3] *= self.scale_factor
        size = self.config.size
        focal = 0.5 * size / tan(0.5 * float(meta["camera_angle_x"]))
        return DataparserOutputs(
            image_filenames=[self.data / f"{frame['file_path'].removeprefix('./')}.png" for frame in meta["frames"]],
            cameras=Cameras(poses, focal, focal, size / 2, size / 2, size, size),
            alpha_color=self.alpha_color_tensor,
            scene_box=SceneBox(aabb=torch.tensor([[-1.5, -1.5, -1.5], [1.5, 1.5, 1.5]])),
            dataparser_scale=self.scale_factor,
        )
