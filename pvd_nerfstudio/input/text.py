"""Text that comes from a file may steer a terminal, rich's markup or a browser. What passes here is only shown."""

import re
import unicodedata
from pathlib import Path

from nerfstudio.utils.rich_utils import CONSOLE
from rich.text import Text

LONGEST = 300
"""Characters of a name that are worth reading."""
_STEERING = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
"""Unicode's categories of what is not seen but does something: control, format (right to left), line separators."""


def plain(text: object) -> str:
    """A name or a value from a file, on one line; what would steer a terminal is written out."""
    shown = _written_out(str(text), keep="")
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…"


def say(message: object, style: str = "") -> None:
    """Print a message; brackets in it are brackets, and nothing in it steers the terminal."""
    CONSOLE.print(Text(_written_out(str(message), keep="\n"), style), soft_wrap=True)


def markdown(text: object) -> str:
    """Text as the viewer's markdown shows it: all signs of markdown and MDX are character references."""
    return re.sub(r"[^\w .,:/-]", lambda sign: f"&#{ord(sign[0])};", plain(text))


def file_name(text: object, otherwise: str) -> str:
    """A name from a file as the name of a folder: it names nothing outside the one that it is put in."""
    name = re.sub(r"[^\w .+=@-]", "_", str(text)).strip(" .")[:LONGEST]
    return name or otherwise


def stays_inside(path: Path) -> bool:
    """Whether a relative path from a file names something below where it starts."""
    return not path.is_absolute() and ".." not in path.parts


def is_file(path: Path) -> bool:
    """Whether a path from a file leads to one; a name that no file can have leads nowhere."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _written_out(text: str, keep: str) -> str:
    return "".join(
        sign
        if sign in keep or unicodedata.category(sign) not in _STEERING
        else sign.encode("unicode_escape", "surrogatepass").decode("ascii")
        for sign in text
    )
