"""Blank images in place of missing ones, for dataparsers that open or look for images to find out about poses."""

import glob
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import imageio
import imageio.v2
import numpy as np
from PIL import Image

from pvd_nerfstudio.data.images import SUFFIXES, image_size, images_in

_SMALLER = re.compile(r".*_\d+")
"""A folder of images that were made smaller."""
_IMAGE_FOLDERS = {
    "color": ("pose", ".jpg"),
    "depth": ("pose", ".png"),
    "lowres_wide": ("lowres_wide_intrinsics", ".png"),
    "lowres_depth": ("lowres_wide_intrinsics", ".png"),
    "rgb": ("pose", ".png"),
}
"""Folders of ScanNet, ARKitScenes and NeRF-OSR: whose files theirs are numbered as, and what theirs end in."""


@contextmanager
def missing_images_stood_in(size: int) -> Iterator[None]:
    """Inside, an image that is not there opens as a blank one, as large as another image in its folder.

    Args:
        size: width and height where there is none.
    """
    exists, is_file, iterdir, opened = Path.exists, Path.is_file, Path.iterdir, Image.open
    glob_, isdir = glob.glob, os.path.isdir

    def is_missing(path: Any) -> bool:
        if not isinstance(path, (str, Path)) or Path(path).suffix.lower() not in SUFFIXES:
            return False
        folder = Path(path).parent
        return not exists(Path(path)) and (exists(folder) or not _SMALLER.fullmatch(folder.name))

    def blank(path: Any) -> Image.Image:
        return Image.new("RGB", _size_beside(Path(path), size))

    def there(real: Callable[..., bool]) -> Callable[..., bool]:
        return lambda self, **more: real(self, **more) or is_missing(self)

    def reader(real: Callable[..., Any]) -> Callable[..., Any]:
        return lambda path, *more, **named: np.array(blank(path)) if is_missing(path) else real(path, *more, **named)

    def listed(self: Path) -> Iterator[Path]:
        return iter(_numbered_as(self)) if not exists(self) or not any(iterdir(self)) else iterdir(self)

    def found(pattern: str, **more: Any) -> list[str]:
        """For NeRF-OSR, which pairs images with poses by their order: all of them, where one is missing."""
        folder, suffix = os.path.split(pattern)
        names = glob_(pattern, **more)
        if os.path.basename(folder) != "rgb" or suffix[1:] not in SUFFIXES:
            return names
        return [str(path) for path in _numbered_as(Path(folder)) if path.suffix == suffix[1:]] or names

    def is_folder(path: Any) -> bool:
        return isdir(path) or bool(_numbered_as(Path(path)))

    with ExitStack() as stack:
        for owner, name, stand_in in (
            (Path, "exists", there(exists)),
            (Path, "is_file", there(is_file)),
            (Path, "iterdir", listed),
            (glob, "glob", found),
            (os.path, "isdir", is_folder),
            (Image, "open", lambda path, *more: blank(path) if is_missing(path) else opened(path, *more)),
            (imageio, "imread", reader(imageio.imread)),
            (imageio.v2, "imread", reader(imageio.v2.imread)),
            (cv2, "imread", reader(cv2.imread)),
        ):
            stack.enter_context(mock.patch.object(owner, name, stand_in))
        yield


def _size_beside(path: Path, size: int) -> tuple[int, int]:
    """Width and height of the first image in the same folder."""
    others = [other for other in images_in(path.parent) if os.path.isfile(other)] if path.parent.is_dir() else []
    return image_size(others[0]) if others else (size, size)


def _numbered_as(folder: Path) -> list[Path]:
    """What a folder of images would hold, by the files beside it that are numbered as they are; of a kind that is
    there, if there is any."""
    beside, suffix = _IMAGE_FOLDERS.get(folder.name, ("", ""))
    if not beside or not (folder.parent / beside).is_dir():
        return []
    kinds = [Path(name).suffix for name in os.listdir(folder)] if folder.is_dir() else []
    kinds = [kind for kind in kinds if kind.lower() in SUFFIXES]
    return sorted(folder / f"{Path(name).stem}{(kinds or [suffix])[0]}" for name in os.listdir(folder.parent / beside))
