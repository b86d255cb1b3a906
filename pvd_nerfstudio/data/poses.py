"""A data set whose images are gone, or some of them: its poses are worth having all the same."""

import copy
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


@dataclass
class Found:
    """What a data set can be read with, and what that says."""

    dataparser: DataParserConfig | None
    """Its own; or, when images are missing, one that does without them; or None."""
    problem: str | None
    """What was wrong with its own."""
    outputs: dict[str, DataparserOutputs] = field(default_factory=dict)
    """Splits that have been read."""

    @property
    def again(self) -> DataParserConfig:
        """The dataparser, which does not read a second time."""
        assert self.dataparser is not None
        parser, outputs = self.dataparser.setup(), self.outputs
        read = parser.get_dataparser_outputs
        parser.get_dataparser_outputs = lambda split="train", **options: (
            outputs[split] if split in outputs and not options else read(split=split, **options)
        )
        return replace(self.dataparser, _target=lambda _: parser)


_known: list[tuple[DataParserConfig, int, Found]] = []


def find(dataparser: DataParserConfig, size: int, hand_on: bool = False) -> Found:
    """What a data set can be read with, and why not with its own dataparser.

    Args:
        dataparser: its own.
        size: width and height of views in pixels, where only the images know.
        hand_on: whether who asks next, for the same, is told what was read now: the trainer asks before it builds a
            data manager.
    """
    known = _known.pop() if _known else None
    is_same = known is not None and known[:2] == (dataparser, size)
    found = known[2] if known is not None and is_same else _find(dataparser, size)
    if hand_on:
        _known.append((copy.deepcopy(dataparser), size, found))
    return found


def _find(dataparser: DataParserConfig, size: int) -> Found:
    outputs: dict[str, DataparserOutputs] = {}
    problems = [_problem(dataparser, split, outputs) for split in SPLITS]
    if not any(problems):
        return Found(dataparser, None, outputs)
    problem = next(filter(None, problems))
    # Without its evaluation views alone it is still itself, and says what is wrong when they are wanted.
    otherwise = Found(None, problem) if problems[0] else Found(dataparser, problem, outputs)
    outputs = {}
    try:
        poses = _without_images(dataparser, size)
    except Exception:  # files of poses may hold anything
        return otherwise
    remain = any(_problem(poses, split, outputs) for split, before in zip(SPLITS, problems) if before)
    return otherwise if remain or not _whole(poses, outputs) else Found(poses, problem, outputs)


def _problem(dataparser: DataParserConfig, split: str, read: dict[str, DataparserOutputs]) -> str | None:
    try:
        outputs = without_lost_pose(dataparser.setup().get_dataparser_outputs(split=split))
        images, poses = len(outputs.image_filenames), len(outputs.cameras)
    except SystemExit:  # colmap-data, where nobody wants images to be made smaller
        return "its images are not there in the size that it asks for"
    except Exception as error:  # a dataparser may fail in any way
        return f"{type(error).__name__}: {plain(error)}"
    if images != poses:
        return f"it has {images} images for {poses} poses"
    read[split] = outputs
    return None if images or split != "train" else "it has no training view"


def without_lost_pose(outputs: DataparserOutputs) -> DataparserOutputs:
    """A split without its only view, where that has no pose: nerfstudio's instant-ngp-data takes a list of one index
    for a number, and gives the rows of one matrix in place of one pose."""
    if outputs.cameras.shape:
        return outputs
    zero = torch.zeros(0, 1)
    nobody = Cameras(torch.zeros(0, 3, 4), zero, zero, zero, zero)
    return replace(outputs, image_filenames=[], mask_filenames=None, cameras=nobody)


def _whole(dataparser: DataParserConfig, read: dict[str, DataparserOutputs]) -> bool:
    """Whether the images that are there can be read: what is damaged is not lost."""
    outputs = read.get("train") or dataparser.setup().get_dataparser_outputs(split="train")
    for path in outputs.image_filenames:
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
