"""Data sets that a run's config.yml names: which dataparsers are taken over, and what they may say.

A dataparser is code that runs on the paths of the file that names it. Taken over are those whose code has been read:
none of them unpickles, downloads or needs to write (some write or ask in corner cases, which containment refuses).
Not on the list are nerfstudio's Minimal (unpickles), Dycheck (writes scaled copies of the images) and NuScenes
(another package reads its tables), and those of plugins: the user has to name them.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers import (
    blender_dataparser,
    dnerf_dataparser,
    instant_ngp_dataparser,
    nerfstudio_dataparser,
    scannetpp_dataparser,
    sdfstudio_dataparser,
    sitcoms3d_dataparser,
)
from nerfstudio.data.dataparsers.arkitscenes_dataparser import ARKitScenes, ARKitScenesDataParserConfig
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import Blender, BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParser, ColmapDataParserConfig
from nerfstudio.data.dataparsers.dnerf_dataparser import DNeRF, DNeRFDataParserConfig
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGP, InstantNGPDataParserConfig
from nerfstudio.data.dataparsers.nerfosr_dataparser import NeRFOSR, NeRFOSRDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio, NerfstudioDataParserConfig
from nerfstudio.data.dataparsers.phototourism_dataparser import Phototourism, PhototourismDataParserConfig
from nerfstudio.data.dataparsers.scannet_dataparser import ScanNet, ScanNetDataParserConfig
from nerfstudio.data.dataparsers.scannetpp_dataparser import ScanNetpp, ScanNetppDataParserConfig
from nerfstudio.data.dataparsers.sdfstudio_dataparser import SDFStudio, SDFStudioDataParserConfig
from nerfstudio.data.dataparsers.sitcoms3d_dataparser import Sitcoms3D, Sitcoms3DDataParserConfig
from nerfstudio.utils.io import load_from_json
from rich.prompt import Confirm

from pvd_nerfstudio.data import poses
from pvd_nerfstudio.data.llff import LLFF, LLFFDataParserConfig
from pvd_nerfstudio.data.nsvf import NSVF, NSVFDataParserConfig
from pvd_nerfstudio.data.orbit import OrbitDataParser, OrbitDataParserConfig
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.containment import contained

REVIEWED: dict[type, type] = {
    ARKitScenesDataParserConfig: ARKitScenes,
    BlenderDataParserConfig: Blender,
    ColmapDataParserConfig: ColmapDataParser,
    DNeRFDataParserConfig: DNeRF,
    InstantNGPDataParserConfig: InstantNGP,
    LLFFDataParserConfig: LLFF,
    NeRFOSRDataParserConfig: NeRFOSR,
    NSVFDataParserConfig: NSVF,
    NerfstudioDataParserConfig: Nerfstudio,
    OrbitDataParserConfig: OrbitDataParser,
    PhototourismDataParserConfig: Phototourism,
    SDFStudioDataParserConfig: SDFStudio,
    ScanNetDataParserConfig: ScanNet,
    ScanNetppDataParserConfig: ScanNetpp,
    Sitcoms3DDataParserConfig: Sitcoms3D,
}
"""Configuration to dataparser."""
WITH_PATHS = (
    blender_dataparser,
    dnerf_dataparser,
    instant_ngp_dataparser,
    nerfstudio_dataparser,
    poses,
    scannetpp_dataparser,
    sdfstudio_dataparser,
    sitcoms3d_dataparser,
)
"""Modules that read JSON with paths in it."""
MOST_VIEWS = 100_000
LARGEST_SIDE = 1 << 16
"""Pixels along a side of a view."""


def is_reviewed(dataparser: DataParserConfig) -> bool:
    """Whether a dataparser is on the list."""
    return REVIEWED.get(type(dataparser)) is dataparser._target


def review(dataparser: DataParserConfig) -> None:
    """Take over no dataparser that is not reviewed from a file.

    Raises:
        InputError: says how to name it.
    """
    if not is_reviewed(dataparser):
        raise InputError(
            f"config.yml names the dataparser {dataparser._target.__name__}, whose code nobody has reviewed for what "
            "it does with a stranger's files. Where you trust the run, name it yourself: put nerfstudio's word for it, "
            "as `ns-train pvd-distill --help` lists them, and --data PATH behind the other options."
        )


@contextmanager
def reading(dataparser: DataParserConfig, named_by_user: bool) -> Iterator[None]:
    """Around whatever a dataparser does.

    Args:
        dataparser: its configuration.
        named_by_user: whether the user has named it on the command line; otherwise a file has.

    Raises:
        InputError: it tries more than to read.
    """
    with ExitStack() as stack:
        if not named_by_user:
            stack.enter_context(contained(f"The data set {dataparser.data}, read as a file says,"))
        for module in WITH_PATHS:
            stack.enter_context(mock.patch.object(module, "load_from_json", _with_slashes))
        # Files are read several times at the start: no question is asked, and nothing made of them.
        stack.enter_context(mock.patch.object(Confirm, "ask", lambda *question, **options: False))
        yield


def _with_slashes(path: Path) -> Any:
    """A file of poses whose paths may have been written on Windows."""
    return _slashed(load_from_json(path))


def _slashed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _slashed(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_slashed(inner) for inner in value] if value and isinstance(value[0], (str, dict)) else value
    return value.replace("\\", "/") if isinstance(value, str) else value


def in_single_precision(cameras: Cameras) -> None:
    """Dataparsers give some numbers in double precision, which not all of nerfstudio's camera paths can take."""
    for name in ("camera_to_worlds", "fx", "fy", "cx", "cy"):
        setattr(cameras, name, getattr(cameras, name).float())


def check_outputs(outputs: DataparserOutputs) -> None:
    """Refuse a data set that no camera took.

    Raises:
        InputError: sizes or numbers of it make no sense.
    """
    cameras: Cameras = outputs.cameras
    count = len(cameras)
    sizes = torch.cat([cameras.width.flatten(), cameras.height.flatten()])
    numbers = [cameras.camera_to_worlds, cameras.fx, cameras.fy, cameras.cx, cameras.cy, outputs.scene_box.aabb]
    if cameras.distortion_params is not None:
        numbers.append(cameras.distortion_params)
    problem = None
    if count > MOST_VIEWS:
        problem = f"has {count} views, more than {MOST_VIEWS}"
    elif count != len(outputs.image_filenames):
        problem = f"has {count} poses for {len(outputs.image_filenames)} images"
    elif count and not (sizes.min() >= 1 and sizes.max() <= LARGEST_SIDE):
        problem = f"has views of {int(sizes.min())} to {int(sizes.max())} pixels a side"
    elif not all(bool(torch.isfinite(value).all()) for value in numbers):
        problem = "has poses or intrinsics that are no numbers"
    elif count and not (cameras.fx > 0).all() & (cameras.fy > 0).all():
        problem = "has focal lengths that are not positive"
    if problem is not None:
        where = outputs.image_filenames[0].parent if outputs.image_filenames else "named"
        raise InputError(f"The data set of {where} {problem}. Is a file of it damaged?")
