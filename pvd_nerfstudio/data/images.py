"""Images on disk, as the dataparsers of this package find them."""

from pathlib import Path

from PIL import Image

from pvd_nerfstudio.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg")


def images_in(folder: Path) -> list[Path]:
    """The images of a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def common_size(paths: list[Path]) -> tuple[int, int]:
    """Width and height of images that must be whole and all of one size.

    Raises:
        InputError: one is cut off, is no image, or has another size than the first.
    """
    sizes = [_size(path) for path in paths]
    for path, size in zip(paths, sizes):
        if size != sizes[0]:
            raise InputError(
                f"{path} is {size[0]} x {size[1]}, {paths[0].name} beside it is {sizes[0][0]} x {sizes[0][1]}; "
                "all should have one size."
            )
    return sizes[0]


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            size = image.size
            if image.format == "JPEG":
                image.draft("L", (size[0] // 8, size[1] // 8))  # eight times as fast, and meets a missing end as well
                image.load()
            else:
                image.verify()
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} cannot be read as an image ({error}); is it cut off?") from error
    return size
