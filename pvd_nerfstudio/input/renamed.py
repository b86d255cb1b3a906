"""Options that had other names in the last release are understood for one more: typed, and in a run's config.yml."""

import dataclasses
from typing import Any, ClassVar

from pvd_nerfstudio.input.text import say


class Renamed:
    """A configuration some of whose fields had other names; also when a stock loader fills it."""

    old_names: ClassVar[dict[str, str]] = {}
    """Old name to new name."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What was saved, under its new names; what the last release did not know has its default."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            if field.name not in state:
                made = field.default_factory
                setattr(self, field.name, field.default if made is dataclasses.MISSING else made())
        for name, value in state.items():
            setattr(self, self.old_names.get(name, name), value)


OLD_OPTIONS = {
    "--pipeline.distillation.parts": "--pipeline.distillation.chunks",
    "--pipeline.distillation.first-parts": "--pipeline.distillation.first-chunks",
    "--pipeline.distillation.rays-per-part": "--pipeline.distillation.rays-per-chunk",
    "--pipeline.distillation.points-per-part": "--pipeline.distillation.points-per-chunk",
    "--pipeline.distillation.photographs": "--pipeline.distillation.training-images",
    "--pipeline.datamanager.pseudo-views-per-part": "--pipeline.datamanager.pseudo-views-per-chunk",
    "--pipeline.datamanager.dataparser.photographs": "--pipeline.datamanager.dataparser.images",
    "--made-up": "--pseudo",
}


def current_options(typed: list[str]) -> list[str]:
    """What was typed, with the new names of options, and a hint for each."""
    return [_current(word) for word in typed]


def _current(word: str) -> str:
    name, equals, value = word.partition("=")
    new = OLD_OPTIONS.get(name.replace("_", "-"))
    if new is None:
        return word
    say(f"{name} is now called {new}; the old name goes with the next release.", "yellow")
    return f"{new}{equals}{value}"
