"""The file of edits: JSON, read strictly into the dataclasses that say what an edit does.

    {"version": 1, "edits": [{"kind": "erase", "region": {"kind": "sphere", "center": [0, 0, 1], "radius": 0.5}}]}

A key that nobody knows, one that is missing, or a number that makes no sense is an error that names the entry.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pvd_nerfstudio.edits.kinds import EDITS, Edit, Insert
from pvd_nerfstudio.edits.regions import REGIONS, Region, Vector
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.ranges import ANY, Range, ranges_of
from pvd_nerfstudio.input.text import is_file, plain

VERSION = 1
LARGEST = 1 << 20
"""Bytes of a file that are read."""
MOST, DEEPEST = 200, 16
"""Edits in a file, or in all hops of a chain, and regions within one another."""
MOST_REGIONS = 1000
"""Regions in a file: every place is looked up in each."""
NUMBERS = 3
"""In a vector."""
LONGEST_RUN = 4096
"""Characters of a path."""
Edits = tuple[Edit, ...]


class _Wrong(Exception):
    """What is wrong, and where in the document."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}" if where else problem)


def read_edits(path: Path) -> Edits:
    """The edits of a file.

    Raises:
        InputError: it cannot be read, or says something that cannot be done; which entry is said.
    """
    if not is_file(path):
        raise InputError(f"--edits {plain(path)}: there is no such file.")
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"--edits {plain(path)} cannot be read: {plain(error)}.") from error
    if len(raw) > LARGEST:
        raise InputError(f"{plain(path)} is larger than {LARGEST:,} bytes: that is no file of edits.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{plain(path)} is no text: {plain(error)}.") from error
    return parse(text, plain(path), path.parent)


def parse(text: str, name: str, folder: Path = Path()) -> Edits:
    """The edits of a text.

    Args:
        text: the document.
        name: what it is called in messages.
        folder: what relative paths of runs start at.

    Raises:
        InputError: as `read_edits`.
    """
    try:
        document = json.loads(text, object_pairs_hook=_Object)
        return _edits(document, folder)
    except json.JSONDecodeError as error:
        raise InputError(f"{name}, line {error.lineno}, column {error.colno}: {error.msg}. Is it JSON?") from error
    except RecursionError as error:
        raise InputError(f"{name}: lists within lists without end.") from error
    except _Wrong as error:
        raise InputError(f"{name}, {plain(error)}.") from error
    except ValueError as error:  # a number of more digits than Python reads
        raise InputError(f"{name}: {plain(error)}.") from error


def parse_saved(text: str) -> Edits:
    """The edits that a run's config.yml holds; none of an empty text.

    Raises:
        InputError: config.yml has been edited by hand.
    """
    return parse(text, "The edits in config.yml") if text else ()


def as_text(edits: Sequence[Edit]) -> str:
    """The document that says these edits, one in a line."""
    lines = ",\n  ".join(json.dumps(_written(edit)) for edit in edits)
    return f'{{"version": {VERSION}, "edits": [\n  {lines}\n]}}\n'


def _edits(document: Any, folder: Path) -> Edits:
    known = {"version", "edits"}
    if not isinstance(document, dict):
        raise _Wrong("", f'it is {_name(document)}; it must be {{"version": {VERSION}, "edits": [...]}}')
    _check_keys("", document, known, known)
    version = document["version"]
    if type(version) is not int or version != VERSION:
        raise _Wrong("version", f"it is {plain(json.dumps(version))}, and this release reads {VERSION}")
    entries = document["edits"]
    if not isinstance(entries, list):
        raise _Wrong("edits", f"it is {_name(entries)}; it must be a list")
    if len(entries) > MOST:
        raise _Wrong("edits", f"there are {len(entries):,} of them; at most {MOST:,} are read")
    names = [f"edit {number + 1}" for number in range(len(entries))]
    edits = tuple(_absolute(_made(entry, EDITS, name), folder, name) for entry, name in zip(entries, names))
    count = sum(_number_of(region) for edit in edits if (region := getattr(edit, "region", None)) is not None)
    if count > MOST_REGIONS:
        raise _Wrong("edits", f"there are {count:,} regions in them; at most {MOST_REGIONS:,} are read")
    return edits


def _number_of(region: Region) -> int:
    inner = getattr(region, "of", ())
    return 1 + sum(map(_number_of, inner if isinstance(inner, tuple) else (inner,)))


def _absolute(edit: Any, folder: Path, where: str) -> Any:
    if not isinstance(edit, Insert):
        return edit
    try:
        return dataclasses.replace(edit, run=(folder / edit.run.expanduser()).absolute())
    except RuntimeError as error:  # nobody's home
        raise _Wrong(f"{where} (insert), run", str(error)) from error


def _made(value: Any, kinds: dict[str, Any], where: str, depth: int = 0) -> Any:
    """The edit or the region that an object describes."""
    if depth > DEEPEST:
        raise _Wrong(where.partition(",")[0], f"regions lie more than {DEEPEST} deep in one another")
    if not isinstance(value, dict):
        raise _Wrong(where, f'it is {_name(value)}; it must be an object with a "kind"')
    if "kind" not in value:
        raise _Wrong(where, f'"kind" is missing; it is one of {", ".join(kinds)}')
    kind = value["kind"]
    if not isinstance(kind, str) or kind not in kinds:
        raise _Wrong(where, f'"kind" is {plain(json.dumps(kind))}; it must be one of {", ".join(kinds)}')
    where, cls = f"{where} ({kind})", kinds[kind]
    fields = {field.name: field for field in dataclasses.fields(cls)}
    needed = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    _check_keys(where, value, {"kind", *fields}, {"kind", *needed})
    wanted, ranges = typing.get_type_hints(cls), ranges_of(cls)
    read = {
        name: _value(value[name], wanted[name], ranges.get(name, ANY), f"{where}, {name}", depth)
        for name in fields
        if name in value
    }
    made = cls(**read)
    problem = made.problem() if hasattr(made, "problem") else None
    if problem:
        raise _Wrong(where, problem)
    return made


def _value(value: Any, wanted: Any, allowed: Range, where: str, depth: int) -> Any:
    """What a field of a type is given."""
    if isinstance(wanted, types.UnionType):  # of something and None, which stands for a key that is left out
        wanted = typing.get_args(wanted)[0]
    if wanted is Region:
        return _made(value, REGIONS, where, depth + 1)
    if wanted == tuple[Region, ...]:
        if not isinstance(value, list):
            raise _Wrong(where, f"it is {_name(value)}; it must be a list of regions")
        return tuple(_made(part, REGIONS, f"{where} {i + 1}", depth + 1) for i, part in enumerate(value))
    if wanted is Path:
        if not isinstance(value, str) or not value or len(value) > LONGEST_RUN or "\0" in value:
            raise _Wrong(where, f"it is {_name(value)}; it must be the path of a run")
        return Path(value)
    if wanted == Vector:
        if not isinstance(value, list) or len(value) != NUMBERS:
            raise _Wrong(where, f"it is {_name(value)}; it must be a list of three numbers")
        return tuple(_number(part, allowed, where) for part in value)
    return _number(value, allowed, where)


def _number(value: Any, allowed: Range, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _Wrong(where, f"it is {_name(value)}; it must be a number")
    number = math.inf if abs(value) >= 2**1000 else float(value)
    if not allowed.holds(number) or abs(number) > 1e6:  # noqa: PLR2004
        shown = "too large" if number == math.inf else plain(json.dumps(value))
        raise _Wrong(where, f"it is {shown}; it must be {allowed.words}, and not beyond a million")
    return number


def _check_keys(where: str, value: dict[str, Any], known: set[str], needed: set[str]) -> None:
    twice = getattr(value, "twice", None)
    if twice is not None:
        raise _Wrong(where, f'"{plain(twice)}" is said twice')
    unknown, missing = sorted(set(value) - known), sorted(needed - set(value))
    if unknown:
        raise _Wrong(where, f'"{plain(unknown[0])}" is unknown; known are {", ".join(sorted(known))}')
    if missing:
        raise _Wrong(where, f'"{missing[0]}" is missing')


class _Object(dict[str, Any]):
    """An object of JSON; it knows a key that was said twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        seen: set[str] = set()
        self.twice = next((name for name, _ in pairs if name in seen or seen.add(name)), None)


def _name(value: Any) -> str:
    """What a value of JSON is, in words."""
    if isinstance(value, dict):
        return "an object"
    return f"a list of {len(value)}" if isinstance(value, list) else plain(json.dumps(value))[:60]


def _written(value: Any) -> Any:
    """An edit or a region as JSON has it; what is at its default is left out."""
    if isinstance(value, (Edit, Region)):
        fields = dataclasses.fields(value)  # type: ignore[arg-type]
        said = {field.name: getattr(value, field.name) for field in fields}
        kept = {field.name: said[field.name] for field in fields if said[field.name] != field.default}
        return {"kind": value.kind} | {name: _written(part) for name, part in kept.items()}
    if isinstance(value, tuple):
        return [_written(part) for part in value]
    return str(value) if isinstance(value, Path) else value
