"""Images on disk: found, checked and read."""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.text import plain

SUFFIXES = (".png", ".jpg", ".jpeg")
EIGHT_BITS = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
"""Kinds of pixels of which nothing is lost."""


def images_in(folder: Path) -> list[Path]:
    """The images of a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def common_size(paths: list[Path]) -> tuple[int, int]:
    """Width and height of images that must be whole and all of one size.

    Raises:
        InputError: one is cut off, is no image, or has another size than the first.
    """
    sizes = [image_size(path) for path in paths]
    for path, size in zip(paths, sizes):
        if size != sizes[0]:
            raise InputError(
                f"{path} is {size[0]} x {size[1]}, {paths[0].name} beside it is {sizes[0][0]} x {sizes[0][1]}; "
                "all should have one size."
            )
    return sizes[0]


def read_image(path: Path, scale: float = 1.0) -> UInt8[np.ndarray, "height width channels"]:
    """An image's colours, and its opacity as a fourth channel where it has one.

    Args:
        path: where it is.
        scale: by how much it is made smaller.

    Raises:
        InputError: it is no image of 8 bits a channel, is cut off, or too large to be meant.
    """
    with _opened(path) as image:
        if image.mode not in EIGHT_BITS:
            raise InputError(f"{path} has pixels of the kind '{image.mode}'; 8 bits a channel can be read.")
        has_alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
        return np.array(_scaled(image.convert("RGBA" if has_alpha else "RGB"), scale, Image.Resampling.BILINEAR))


def read_mask(path: Path, scale: float = 1.0) -> Bool[np.ndarray, "height width"]:
    """Which pixels of a mask are not black; arguments and errors as those of `read_image`."""
    with _opened(path) as image:
        return np.array(_scaled(image.convert("L"), scale, Image.Resampling.NEAREST)) > 0


def _scaled(image: Image.Image, scale: float, how: Image.Resampling) -> Image.Image:
    """As nerfstudio scales them."""
    if scale == 1.0:
        return image
    return image.resize((int(image.width * scale), int(image.height * scale)), resample=how)


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image.

    Raises:
        InputError: it is none, or is cut off.
    """
    with _opened(path) as image:
        size = image.size
        if image.format == "JPEG":
            image.draft("L", (size[0] // 8, size[1] // 8))  # eight times as fast, and meets a missing end as well
            image.load()
        else:
            image.verify()
    return size


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image whose pixels are not read yet; what goes wrong then is said as one error."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{plain(path)} is no file.")
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError, EOFError, OverflowError, Image.DecompressionBombError) as error:
        raise InputError(f"{plain(path)} cannot be read as an image ({plain(error)}); is it cut off?") from error
