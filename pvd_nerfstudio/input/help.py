"""What `--help` shows of options, where a field's type and docstring do not say it all."""

from collections.abc import Callable, Mapping
from typing import Annotated, get_type_hints

import tyro


def hide(config: type, *names: str) -> None:
    """Take options away that mean nothing here; a config.yml may say them all the same.

    Args:
        config: a dataclass.
        names: of its fields, also inherited ones.
    """
    types = get_type_hints(config, include_extras=True)
    _annotate(config, {name: tyro.conf.Suppress[types[name]] for name in names})


def tell_defaults(config: type, hints: Mapping[str, str | Callable[[str], str]]) -> None:
    """Say what a default comes to, where the field's own stands for something else.

    Args:
        config: a dataclass.
        hints: by the names of its fields: words, or a function that makes them of the default as text.
    """
    types = get_type_hints(config, include_extras=True)
    _annotate(
        config,
        {name: Annotated[types[name], tyro.conf.arg(help_behavior_hint=_hint(words))] for name, words in hints.items()},
    )


def _hint(words: str | Callable[[str], str]) -> Callable[[str], str]:
    return lambda default: f"(default: {words(default) if callable(words) else words})"


def _annotate(config: type, types: dict[str, object]) -> None:
    config.__annotations__ = {**config.__dict__.get("__annotations__", {}), **types}
