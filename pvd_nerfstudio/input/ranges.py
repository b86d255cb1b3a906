"""Every number that can be typed has its range beside it, and one function refuses what lies outside.

A configuration says the ranges of its numbers in a class attribute `ranges`, name to `Range`; those of nerfstudio's
fields that it has inherited, and of nerfstudio's configurations within it (`machine.seed`), stand there, too.
"""

import dataclasses
from collections.abc import Iterator
from math import inf, isfinite
from typing import Any

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.text import plain


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included unless `inside`; and the one that means something else."""

    low: float = -inf
    high: float = inf
    inside: bool = False
    also: float | None = None

    def holds(self, value: Any) -> bool:
        """Whether a value lies in it; of a tuple every part must."""
        if isinstance(value, (tuple, list)):
            return all(self.holds(part) for part in value)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
            return False
        if value == self.also:
            return True
        return self.low < value < self.high if self.inside else self.low <= value <= self.high

    @property
    def words(self) -> str:
        """What it must be."""
        between = "between {:g} and {:g}"
        if self.low == -inf and self.high == inf:
            said = "a number"
        elif self.high == inf:
            said = f"above {self.low:g}" if self.inside else f"{self.low:g} or more"
        else:
            said = between.format(self.low, self.high) + (", neither of both" if self.inside else "")
        return said if self.also is None else f"{said}, or {self.also:g}"


Ranges = dict[str, Range]


def at_least(low: float, also: float | None = None) -> Range:
    """From a number on."""
    return Range(low, also=also)


def above(low: float) -> Range:
    """Beyond a number."""
    return Range(low, inside=True)


def between(low: float, high: float, also: float | None = None) -> Range:
    """From a number to another, both included."""
    return Range(low, high, also=also)


def inside(low: float, high: float) -> Range:
    """Between a number and another, neither included."""
    return Range(low, high, inside=True)


SHARE = between(0, 1)
ANY = Range()
COUNT = at_least(1)


def check_ranges(config: Any, where: str = "", prefix: str = "--") -> None:
    """Refuse numbers outside their ranges.

    Args:
        config: a configuration; those within it are looked at, too.
        where: the file that it is from, for the message; empty: it was typed.
        prefix: what its options begin with.

    Raises:
        InputError: says which option, its value and its range.
    """
    for name, value, allowed in numbers(config):
        if value is not None and not allowed.holds(value):
            option = f"{prefix}{name}".replace("_", "-")
            shown = ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else value
            raise InputError(f"{f'{where}: ' if where else ''}{option} is {plain(shown)}; it must be {allowed.words}.")


def numbers(config: Any, outer: Ranges | None = None) -> Iterator[tuple[str, Any, Range]]:
    """Names, values and ranges of all that has one, in a configuration and those within it.

    Args:
        config: the configuration.
        outer: ranges that the one around it says for its fields.
    """
    known = ranges_of(type(config)) | (outer or {})
    for item in dataclasses.fields(config):
        value = getattr(config, item.name, None)
        if item.name in known:
            yield item.name, value, known[item.name]
        for name, part in _configs(item.name, value):
            inner = {key.removeprefix(f"{name}."): kept for key, kept in known.items() if key.startswith(f"{name}.")}
            for key, number, allowed in numbers(part, inner):
                yield f"{name}.{key}", number, allowed


def ranges_of(cls: type) -> Ranges:
    """The ranges that a class and those it inherits from say; a subclass's go before."""
    known: Ranges = {}
    for base in reversed(cls.__mro__):
        known |= vars(base).get("ranges", {})
    return known


def _configs(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Configurations in a field, also those of optimisers, which are in dictionaries."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield name, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _configs(f"{name}.{key}", part)
