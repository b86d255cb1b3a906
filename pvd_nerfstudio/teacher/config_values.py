"""Does a value from a file belong into a field of a configuration? Its annotation says so, or else its default."""

import collections.abc
import dataclasses
import inspect
import types
import typing
from enum import Enum
from functools import cache
from math import isfinite, isnan
from pathlib import PurePath
from typing import Any

from nerfstudio.data.datamanagers.base_datamanager import DataManager
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig
from nerfstudio.models.base_model import Model
from nerfstudio.pipelines.base_pipeline import Pipeline

FAMILIES = (Model, DataParser, DataManager, Pipeline)
"""Kinds whose configurations may name another one of the kind, as mip-NeRF's is that of NeRF."""
PLAIN = (bool, int, float, str, tuple, list, dict, PurePath)


@cache
def hints(cls: type) -> dict[str, Any]:
    """Annotations of a dataclass's fields; `Any` where they cannot be resolved."""
    try:
        found = typing.get_type_hints(cls)
    except Exception:  # names that exist for type checkers alone
        found = {}
    return {field.name: found.get(field.name, Any) for field in dataclasses.fields(cls)}


def default(field: dataclasses.Field) -> Any:
    """A field's default; MISSING where it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def belongs(value: Any, hint: Any, usual: Any, name: str) -> bool:
    """Whether a value can be that of a field.

    Args:
        value: made of plain values, paths, enumerations, classes and configurations.
        hint: the field's annotation.
        usual: its default.
        name: its name; a `_target` must be of the kind of the usual one.
    """
    if name == "_target":
        family = next((one for one in FAMILIES if isinstance(usual, type) and issubclass(usual, one)), usual)
        return isinstance(value, type) and isinstance(family, type) and issubclass(value, family)
    if type(value) is type(usual) and not dataclasses.is_dataclass(value) and value == usual:
        return True
    if dataclasses.is_dataclass(usual) and not isinstance(usual, type):
        # The default of a data manager's dataparser is one of many; other defaults are what belongs there.
        return isinstance(value, DataParserConfig if isinstance(usual, DataParserConfig) else type(usual))
    if hint is Any:
        return _like(value, usual)
    return fits(value, hint) or (isinstance(value, float) and value == usual)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is what an annotation says."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return fits(value, arguments[0])
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is typing.Literal:
        return any(type(value) is type(one) and value == one for one in arguments)
    if hint is None or hint is type(None):
        return value is None
    if hint is Any:
        return _like(value, None)
    if origin is type or hint is type:
        return isinstance(value, type) and (not arguments or _is_kind(value, arguments[0]))
    if origin is collections.abc.Callable or hint is collections.abc.Callable:
        return inspect.isfunction(value) or isinstance(value, type)
    kind = origin or hint
    if not isinstance(kind, type):
        return _like(value, None)
    return _is_a(value, kind, arguments)


def _is_a(value: Any, kind: type, arguments: tuple[Any, ...]) -> bool:
    if kind is float:
        return type(value) in (int, float) and isfinite(value)
    if kind in (bool, int, str):
        return type(value) is kind
    if issubclass(kind, (tuple, list, collections.abc.Sequence)):
        if not isinstance(value, (tuple, list)):
            return False
        if issubclass(kind, tuple) and arguments and arguments[-1] is not Ellipsis:
            return len(value) == len(arguments) and all(map(fits, value, arguments))
        return all(fits(one, arguments[0]) for one in value) if arguments else _like(value, ())
    if issubclass(kind, collections.abc.Mapping):
        if not isinstance(value, dict):
            return False
        key, inner = arguments or (Any, Any)
        return all(fits(one, key) and fits(other, inner) for one, other in value.items())
    if issubclass(kind, PurePath):
        return isinstance(value, PurePath)
    return isinstance(value, kind)


def _is_kind(value: type, wanted: Any) -> bool:
    return issubclass(value, wanted) if isinstance(wanted, type) else True


def _like(value: Any, usual: Any) -> bool:
    """Whether a value without an annotation is of its default's kind, and plain where there is none."""
    if isinstance(value, (tuple, list)):
        return (usual is None or isinstance(usual, (tuple, list))) and all(_like(one, None) for one in value)
    if isinstance(value, dict):
        parts = [*value, *value.values()]
        return (usual is None or isinstance(usual, dict)) and all(_like(one, None) for one in parts)
    if isinstance(value, float) and isnan(value):
        return False
    if value is None:
        return usual is None
    if usual is None:
        return isinstance(value, (*PLAIN, Enum)) or dataclasses.is_dataclass(value)
    if isinstance(usual, (int, float)) and not isinstance(usual, bool):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, type(usual))
