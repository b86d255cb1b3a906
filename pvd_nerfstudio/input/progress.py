"""A bar for what takes a while before training begins."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from nerfstudio.utils.rich_utils import CONSOLE
from rich.errors import LiveError
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")


def with_bar(items: Sequence[Item], words: str) -> Iterator[Item]:
    """The items, with a bar that is gone afterwards; without one where there is no terminal, or a bar is there already.

    Args:
        items: what is gone through.
        words: what is done with them.
    """
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=CONSOLE, transient=True, disable=not CONSOLE.is_terminal or CONSOLE.quiet)
    try:
        bar.start()
    except LiveError:
        yield from items
        return
    try:
        yield from bar.track(items, description=words)
    finally:
        bar.stop()
