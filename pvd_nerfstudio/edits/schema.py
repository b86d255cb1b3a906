"""The JSON schema of the file of edits: editors that know it complete and check what is typed."""

import ast
import dataclasses
import inspect
import math
import textwrap
import types
import typing
from pathlib import Path
from typing import Any

from pvd_nerfstudio.edits.file import MOST, VERSION
from pvd_nerfstudio.edits.kinds import EDITS
from pvd_nerfstudio.edits.regions import REGIONS, Region, Vector
from pvd_nerfstudio.input.ranges import ANY, Range, ranges_of


def schema() -> dict[str, Any]:
    """The schema, made of the dataclasses that the file is read into."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Edits of a radiance field, for --edits of pvd-distill",
        "type": "object",
        "required": ["version", "edits"],
        "additionalProperties": False,
        "properties": {
            "version": {"const": VERSION},
            "edits": {"type": "array", "maxItems": MOST, "items": {"oneOf": [_object(one) for one in EDITS.values()]}},
        },
        "$defs": {"region": {"oneOf": [_object(one) for one in REGIONS.values()]}},
    }


def _object(cls: Any) -> dict[str, Any]:
    hints, ranges, words = typing.get_type_hints(cls), ranges_of(cls), _words(cls)
    fields = dataclasses.fields(cls)
    properties = {
        field.name: {"description": words[field.name]} | _value(hints[field.name], ranges.get(field.name, ANY))
        for field in fields
    }
    return {
        "type": "object",
        "description": inspect.getdoc(cls),
        "properties": {"kind": {"const": cls.kind}} | properties,
        "required": ["kind", *(field.name for field in fields if field.default is dataclasses.MISSING)],
        "additionalProperties": False,
    }


def _value(wanted: Any, allowed: Range) -> dict[str, Any]:
    if isinstance(wanted, types.UnionType):
        wanted = typing.get_args(wanted)[0]
    if wanted is Region:
        return {"$ref": "#/$defs/region"}
    if wanted == tuple[Region, ...]:
        return {"type": "array", "items": {"$ref": "#/$defs/region"}, "minItems": 1}
    if wanted is Path:
        return {"type": "string"}
    number: dict[str, Any] = {"type": "number"}
    for bound, name in ((allowed.low, "inimum"), (allowed.high, "aximum")):
        if math.isfinite(bound):
            number[f"exclusiveM{name}" if allowed.inside else f"m{name}"] = bound
    if wanted == Vector:
        return {"type": "array", "items": number, "minItems": 3, "maxItems": 3}
    return number


def _words(cls: Any) -> dict[str, str]:
    """What the docstrings of a dataclass's fields say, inherited ones included."""
    words: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        for name, text in zip(body, body[1:]):
            if isinstance(name, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                words[name.target.id] = " ".join(str(text.value.value).split())  # type: ignore[union-attr]
    return words
