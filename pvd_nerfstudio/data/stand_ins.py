"""Blank images in place of missing ones, for dataparsers that open or look for images to find out about poses."""

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
_IMAGE_FOLDERS = {"color": ".jpg", "depth": ".png"}
"""ScanNet's, whose files are numbered as its poses are."""


@contextmanager
def missing_images_stood_in(size: int) -> Iterator[None]:
    """Inside, an image that is not there opens as a blank one, as large as another image in its folder.

    Args:
        size: width and height where there is none.
    """
    exists, is_file, iterdir, opened = Path.exists, Path.is_file, Path.iterdir, Image.open

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
        is_gone = not exists(self) or not any(iterdir(self))
        if self.name in _IMAGE_FOLDERS and is_gone and exists(self.parent / "pose"):
            return (self / f"{pose.stem}{_IMAGE_FOLDERS[self.name]}" for pose in iterdir(self.parent / "pose"))
        return iterdir(self)

    with ExitStack() as stack:
        for owner, name, stand_in in (
            (Path, "exists", there(exists)),
            (Path, "is_file", there(is_file)),
            (Path, "iterdir", listed),
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
