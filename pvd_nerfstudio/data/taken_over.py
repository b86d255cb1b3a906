"""What a teacher's run says about its data, and what is left of it when the user says something else."""

import sys
from dataclasses import fields
from typing import Any

from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig

from pvd_nerfstudio.input.text import plain, say


def with_options_of(theirs: DataParserConfig, typed: Any) -> DataParserConfig:
    """A dataparser that was named on the command line, with the teacher's options where nothing was typed.

    Its subcommand fills in defaults for what is left out; they would be another view of the same data. What was typed
    and differs is said.

    Args:
        theirs: the teacher's dataparser.
        typed: the user's; of another kind it stays as it is.
    """
    if type(theirs) is not type(typed):
        return typed
    usual, differs = type(typed)(), []
    for item in fields(typed):
        name, ours, old = item.name, getattr(typed, item.name), getattr(theirs, item.name)
        if name in ("data", "_target") or ours == old:
            continue
        if ours == getattr(usual, name) and not _was_typed(name):
            setattr(typed, name, old)
        else:
            differs.append(f"--{name.replace('_', '-')} {plain(ours)} for the teacher's {plain(old)}")
    if differs:
        say(f"The data is read otherwise than the teacher's was: {', '.join(differs)}.", "yellow")
    return typed


def _was_typed(name: str) -> bool:
    """Whether an option is on the command line; its value may be the default."""
    spelled = (name, name.replace("_", "-"))
    words = [word.partition("=")[0].lstrip("-").rpartition(".")[2] for word in sys.argv if word.startswith("--")]
    return any(word in spelled or word.removeprefix("no-") in spelled for word in words)
