"""A data set whose images are gone, or some of them: its poses are worth having all the same."""

from dataclasses import dataclass, field, replace
from math import ceil, log2
from pathlib import Path

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParser, ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import MAX_AUTO_RESOLUTION, NerfstudioDataParserConfig
from nerfstudio.data.dataparsers.scannet_dataparser import ScanNetDataParserConfig
from nerfstudio.utils.io import load_from_json

from pvd_nerfstudio.data.images import image_size
from pvd_nerfstudio.data.llff import LLFFDataParserConfig
from pvd_nerfstudio.data.nsvf import NSVFDataParserConfig
from pvd_nerfstudio.data.stand_ins import missing_images_stood_in
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.ranges import between
from pvd_nerfstudio.input.text import is_file, plain

SPLITS = "train", "val", "test"


def readable(dataparser: DataParserConfig, size: int) -> tuple[DataParserConfig | None, str | None]:
    """What a data set can be read with, and why not with its own dataparser.

    Args:
        dataparser: its own.
        size: width and height of views in pixels, where only the images know.

    Returns:
        Its own and None; or, when images are missing, one that does without them, and what was wrong; or None and
        what was wrong.
    """
    problems = [_problem(dataparser, split) for split in SPLITS]
    if not any(problems):
        return dataparser, None
    problem = next(filter(None, problems))
    # Without its evaluation views alone it is still itself, and says what is wrong when they are wanted.
    otherwise = (None, problem) if problems[0] else (dataparser, None)
    try:
        poses = _without_images(dataparser, size)
    except Exception:  # files of poses may hold anything
        return otherwise
    remain = any(_problem(poses, split) for split, before in zip(SPLITS, problems) if before)
    return otherwise if remain or not _whole(poses) else (poses, problem)


def _problem(dataparser: DataParserConfig, split: str) -> str | None:
    try:
        outputs = without_lost_pose(dataparser.setup().get_dataparser_outputs(split=split))
    except SystemExit:  # colmap-data, where nobody wants images to be made smaller
        return "its images are not there in the size that it asks for"
    except Exception as error:  # a dataparser may fail in any way
        return f"{type(error).__name__}: {plain(error)}"
    images, poses = len(outputs.image_filenames), len(outputs.cameras)
    if images != poses:
        return f"it has {images} images for {poses} poses"
    return None if images or split != "train" else "it has no training view"


def without_lost_pose(outputs: DataparserOutputs) -> DataparserOutputs:
    """A split without its only view, where that has no pose: nerfstudio's instant-ngp-data takes a list of one index
    for a number, and gives the rows of one matrix in place of one pose."""
    if outputs.cameras.shape:
        return outputs
    zero = torch.zeros(0, 1)
    nobody = Cameras(torch.zeros(0, 3, 4), zero, zero, zero, zero)
    return replace(outputs, image_filenames=[], mask_filenames=None, cameras=nobody)


def _whole(dataparser: DataParserConfig) -> bool:
    """Whether the images that are there can be read: what is damaged is not lost."""
    for path in dataparser.setup().get_dataparser_outputs(split="train").image_filenames:
        if is_file(Path(path)):
            try:
                image_size(Path(path))
            except InputError:
                return False
    return True


def _without_images(dataparser: DataParserConfig, size: int) -> DataParserConfig:
    """The same data set, read without those of its images that are missing."""
    if isinstance(dataparser, (LLFFDataParserConfig, NSVFDataParserConfig)):
        return replace(dataparser, images=False)
    if isinstance(dataparser, NerfstudioDataParserConfig):  # it opens one to choose a scale
        dataparser = replace(dataparser, downscale_factor=dataparser.downscale_factor or _downscale(dataparser.data))
    if isinstance(dataparser, (ScanNetDataParserConfig, ColmapDataParserConfig)):
        dataparser = replace(dataparser, load_3D_points=False)
    return PosesConfig(data=dataparser.data, inner=dataparser, size=size)


def _downscale(data: Path) -> int:
    """By how much nerfstudio makes images smaller unless it is told."""
    meta = load_from_json(data if data.suffix == ".json" else data / "transforms.json")
    frames = [meta, *meta.get("frames", [])]
    scale = _automatic(max(max(frame.get("w", 0), frame.get("h", 0)) for frame in frames))
    folder = data if data.is_dir() else data.parent
    none_are_there = not any((folder / frame.get("file_path", "")).is_file() for frame in meta.get("frames", []))
    return scale if none_are_there or (folder / f"images_{scale}").is_dir() else 1


def _automatic(longest: float) -> int:
    """The power of two that brings the longer side of images to what nerfstudio thinks enough."""
    return 2 ** max(0, ceil(log2(max(1.0, longest) / MAX_AUTO_RESOLUTION)))


@dataclass
class PosesConfig(DataParserConfig):
    """A data set of any kind, some or all of its images missing."""

    ranges = {"size": between(1, 1 << 16)}

    _target: type = field(default_factory=lambda: Poses)
    inner: DataParserConfig = field(default_factory=DataParserConfig)
    """How it is read where its images are."""
    size: int = 200
    """Width and height of a view in pixels, where neither the files with the poses nor another image tells."""


class Poses(DataParser):
    """The dataparser of that kind, with blank images for missing ones."""

    config: PosesConfig

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: dict | None) -> DataparserOutputs:
        with missing_images_stood_in(self.config.size):
            parser = self.config.inner.setup()
            if isinstance(parser, ColmapDataParser):
                parser._downscale_factor = _colmap_downscale(parser)
            return parser.get_dataparser_outputs(split=split, **kwargs)


def _colmap_downscale(parser: ColmapDataParser) -> int:
    """By how much COLMAP's images are made smaller, which its dataparser learns from the first of them."""
    config = parser.config
    if config.downscale_factor is not None:
        return config.downscale_factor
    frames = parser._get_all_images_and_cameras(config.data / config.colmap_path)["frames"]
    scale = _automatic(max(max(frame["w"], frame["h"]) for frame in frames))
    none_are_there = not any(is_file(Path(frame["file_path"])) for frame in frames)
    smaller = config.images_path.with_name(f"{config.images_path.name}_{scale}")
    return scale if none_are_there or (config.data / smaller).is_dir() else 1
