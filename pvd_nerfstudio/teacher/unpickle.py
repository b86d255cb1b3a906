"""Reads the pickle of a checkpoint without Python's unpickler: what it names is looked up here, and nothing is called.

A pickle is a program for a stack machine. This one knows the instructions that `torch.save` writes; where the program
names a function, the stack holds a word of ours for it, and only these words can be applied.
"""

import pickletools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch

MOST_STEPS = 1_000_000
"""Instructions of a program; a checkpoint of a thousand tensors has some ten thousand."""
MOST_NODES = 1_000_000
"""Values in the tree, each counted as often as it can be reached."""
DEEPEST = 64
"""Containers within containers."""
LARGEST = 1 << 62
"""Of whole numbers."""
LONGEST_NUMBER = 16
"""Bytes of a numpy number."""
LARGEST_KEY = 1 << 31
"""Of whole numbers as keys: larger ones can be chosen such that a dictionary takes for ever."""


class MalformedError(Exception):
    """This is no pickle that `torch.save` wrote."""


class ForbiddenError(MalformedError):
    """The pickle asks for something that a checkpoint has no use for."""


@dataclass(frozen=True)
class Storage:
    """Numbers in the archive."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True)
class View:
    """A tensor on a storage, as `torch.Tensor.as_strided` has it."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _Word:
    """What stands for a function on the stack."""

    meaning: Callable[..., Any]


@dataclass(frozen=True)
class _StorageKind:
    dtype: torch.dtype


@dataclass(frozen=True)
class _NumberKind:
    """A numpy dtype: one of the plain numbers, which need no further description."""

    name: str


_MARK = object()
_NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
_NUMBER_STATES = [(3, order, None, None, None, -1, -1, 0) for order in "<|="]
"""What numpy says of a dtype that has neither fields nor a shape nor objects."""


def unpickle(data: bytes) -> Any:
    """The tree of a checkpoint: dictionaries, lists, tuples, text, numbers, dtypes, and views of storages.

    Raises:
        ForbiddenError: it asks for something else.
        MalformedError: it is damaged, or larger than any checkpoint.
    """
    tree = _Machine().run(data)
    _check(tree)
    return tree


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """Follow the program to its end."""
        steps = _steps(data)
        for number, (name, argument) in enumerate(steps):
            if number > MOST_STEPS:
                raise MalformedError("it does not end")
            if name == "STOP":
                return self._pop()
            self._do(name, argument)
        raise MalformedError("it has no end")

    def _do(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self.stack.append(_value(argument))
        elif name in _MADE:
            self.stack.append(_MADE[name]())
        elif name == "GLOBAL":
            self.stack.append(_meaning(*argument.split(" ", 1)))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self._top()
        elif name in ("BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise MalformedError("it refers to what is not there")
            self.stack.append(self.memo[argument])
        elif name in _BUILDERS:
            _BUILDERS[name](self)
        elif name != "PROTO":
            raise ForbiddenError(name)

    def apply(self) -> None:
        """REDUCE: a word and its arguments."""
        arguments, word = self._pop(), self._pop()
        if not isinstance(word, _Word) or not isinstance(arguments, tuple):
            raise ForbiddenError("a call of something that is no function")
        self.stack.append(word.meaning(*arguments))

    def build(self) -> None:
        """BUILD: what a dictionary has as attributes is not needed; a number's kind is told what we know."""
        state, value = self._pop(), self._top()
        if isinstance(value, _NumberKind):
            if state not in _NUMBER_STATES:
                raise ForbiddenError("numpy.dtype with parts")
        elif not isinstance(value, OrderedDict) or not isinstance(state, dict):
            raise ForbiddenError("the state of an object")

    def storage(self) -> None:
        """BINPERSID: a storage in the archive."""
        named = self._pop()
        match named:
            case ("storage", _StorageKind(dtype), str(key), str(), int(count)) if 0 <= count < LARGEST:
                self.stack.append(Storage(key, dtype, count))
            case _:
                raise MalformedError("it refers to a storage that is none")

    def tuple_since_mark(self) -> None:
        """The values since the last mark become one."""
        self.stack.append(tuple(self._since_mark()))

    def tuple_of(self, count: int) -> None:
        """The last values become one."""
        values = [self._pop() for _ in range(count)]
        self.stack.append(tuple(reversed(values)))

    def append(self, values: list[Any]) -> None:
        """To the list below."""
        owner = self._top()
        if not isinstance(owner, list):
            raise MalformedError("it appends to what is no list")
        owner.extend(values)

    def set_items(self, values: list[Any]) -> None:
        """Of the dictionary below."""
        owner = self._top()
        if not isinstance(owner, dict) or len(values) % 2:
            raise MalformedError("it fills what is no dictionary")
        for key, value in zip(values[::2], values[1::2]):
            if not isinstance(key, (str, int)) or (isinstance(key, int) and abs(key) > LARGEST_KEY):
                raise MalformedError("it has a key that is neither text nor a small number")
            owner[key] = value

    def since_mark_into(self, what: Callable[[list[Any]], None]) -> None:
        """Hand the values since the last mark on."""
        what(self._since_mark())

    def last_into(self, what: Callable[[list[Any]], None], count: int) -> None:
        """Hand the last values on."""
        values = [self._pop() for _ in range(count)]
        what(values[::-1])

    def _since_mark(self) -> list[Any]:
        values = []
        while (value := self._pop(marks=True)) is not _MARK:
            values.append(value)
        return values[::-1]

    def _pop(self, marks: bool = False) -> Any:
        value = self._top(marks)
        self.stack.pop()
        return value

    def _top(self, marks: bool = False) -> Any:
        if not self.stack or (self.stack[-1] is _MARK and not marks):
            raise MalformedError("it takes what is not there")
        return self.stack[-1]


_VALUES = ("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "BINBYTES", "SHORT_BINBYTES")
_MADE: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
}
_BUILDERS: dict[str, Callable[[_Machine], object]] = {
    "REDUCE": _Machine.apply,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
    "TUPLE": _Machine.tuple_since_mark,
    "TUPLE1": lambda machine: machine.tuple_of(1),
    "TUPLE2": lambda machine: machine.tuple_of(2),
    "TUPLE3": lambda machine: machine.tuple_of(3),
    "APPEND": lambda machine: machine.last_into(machine.append, 1),
    "APPENDS": lambda machine: machine.since_mark_into(machine.append),
    "SETITEM": lambda machine: machine.last_into(machine.set_items, 2),
    "SETITEMS": lambda machine: machine.since_mark_into(machine.set_items),
}


def _steps(data: bytes) -> Iterator[tuple[str, Any]]:
    try:
        for code, argument, _ in pickletools.genops(data):
            yield code.name, argument
    except (ValueError, UnicodeError, OverflowError, IndexError) as error:  # what the module has for damaged ones
        raise MalformedError(f"it is damaged ({error})") from error


def _value(value: Any) -> Any:
    if isinstance(value, int) and abs(value) >= LARGEST:
        raise MalformedError("it has a number of too many digits")
    return value


def _meaning(module: str, name: str) -> Any:
    found = _KNOWN.get((module, name))
    if found is None and module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
        found = getattr(torch, name)
    if found is None:
        raise ForbiddenError(f"{module}.{name}")
    return found


def _whole(*values: Any) -> bool:
    return all(isinstance(value, int) and 0 <= value < LARGEST for value in values)


def _view(*arguments: Any) -> View:
    """`torch._utils._rebuild_tensor_v2`."""
    match arguments:
        case (Storage() as storage, offset, tuple(size), tuple(stride), *_) if _whole(offset, *size, *stride) and len(
            size
        ) == len(stride):
            return View(storage, offset, size, stride)
    raise MalformedError("it describes a tensor that is none")


def _parameter(*arguments: Any) -> View:
    """`torch._utils._rebuild_parameter`: its numbers; whether they are learned is the model's business."""
    if not arguments or not isinstance(arguments[0], View):
        raise MalformedError("it describes a parameter that is none")
    return arguments[0]


def _ordered(*arguments: Any) -> OrderedDict[Any, Any]:
    if arguments:
        raise MalformedError("it has a dictionary that is made of something")
    return OrderedDict()


def _counted(*arguments: Any) -> dict[Any, Any]:
    """`collections.Counter`, in which torch keeps the steps at which a schedule changes."""
    if len(arguments) != 1 or type(arguments[0]) is not dict:
        raise MalformedError("it counts what cannot be counted")
    return dict(arguments[0])


def _sizes(*arguments: Any) -> tuple[int, ...]:
    """`torch.Size`."""
    if len(arguments) != 1 or not isinstance(arguments[0], tuple) or not _whole(*arguments[0]):
        raise MalformedError("it describes a size that is none")
    return arguments[0]


def _number_kind(*arguments: Any) -> _NumberKind:
    """`numpy.dtype`."""
    if (
        not arguments
        or arguments[0] not in _NUMBERS
        or not all(isinstance(value, (bool, int)) for value in arguments[1:])
    ):
        raise ForbiddenError("numpy.dtype of no plain number")
    return _NumberKind(arguments[0])


def _number(*arguments: Any) -> float | int | bool:
    """numpy's scalar."""
    match arguments:
        case (_NumberKind(name), bytes(data)) if len(data) == np.dtype(name).itemsize:
            return np.frombuffer(data, np.dtype(name))[0].item()
    raise ForbiddenError("a numpy scalar of no plain number")


def _encoded(*arguments: Any) -> bytes:
    """`_codecs.encode`: how bytes are written in this version of the format."""
    match arguments:
        case (str(text), "latin1") if len(text) <= LONGEST_NUMBER and all(ord(sign) < 256 for sign in text):  # noqa: PLR2004
            return text.encode("latin1")
    raise ForbiddenError("_codecs.encode of something else than bytes")


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Word(_ordered),
    ("collections", "Counter"): _Word(_counted),
    ("torch", "Size"): _Word(_sizes),
    ("torch._utils", "_rebuild_tensor_v2"): _Word(_view),
    ("torch._utils", "_rebuild_parameter"): _Word(_parameter),
    ("numpy", "dtype"): _Word(_number_kind),
    ("numpy.core.multiarray", "scalar"): _Word(_number),
    ("numpy._core.multiarray", "scalar"): _Word(_number),
    ("_codecs", "encode"): _Word(_encoded),
    ("torch", "FloatStorage"): _StorageKind(torch.float32),
    ("torch", "DoubleStorage"): _StorageKind(torch.float64),
    ("torch", "HalfStorage"): _StorageKind(torch.float16),
    ("torch", "BFloat16Storage"): _StorageKind(torch.bfloat16),
    ("torch", "LongStorage"): _StorageKind(torch.int64),
    ("torch", "IntStorage"): _StorageKind(torch.int32),
    ("torch", "ShortStorage"): _StorageKind(torch.int16),
    ("torch", "CharStorage"): _StorageKind(torch.int8),
    ("torch", "ByteStorage"): _StorageKind(torch.uint8),
    ("torch", "BoolStorage"): _StorageKind(torch.bool),
}


def _check(tree: Any) -> None:
    """Refuse trees that contain themselves, are too deep, too large when written out, or hold words alone."""
    known: dict[int, tuple[int, int]] = {}  # nodes and depth of a container
    open_ones: set[int] = set()
    todo: list[tuple[Any, bool]] = [(tree, False)]
    while todo:
        value, is_done = todo.pop()
        if not isinstance(value, (dict, list, tuple)):
            _check_leaf(value)
        elif is_done:
            inner = [known.get(id(part), (1, 0)) for part in _parts(value)]
            nodes, depth = 1 + sum(count for count, _ in inner), 1 + max((deep for _, deep in inner), default=0)
            if nodes > MOST_NODES or depth > DEEPEST:
                raise MalformedError("it is nested beyond measure")
            known[id(value)] = nodes, depth
            open_ones.discard(id(value))
        elif id(value) in open_ones:
            raise MalformedError("it contains itself")
        elif id(value) not in known:
            open_ones.add(id(value))
            todo.append((value, True))
            todo += [(part, False) for part in _parts(value)]


def _parts(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else list(value)


def _check_leaf(value: Any) -> None | NoReturn:
    if not isinstance(value, (str, bytes, int, float, type(None), torch.dtype, View)):
        raise MalformedError("it holds the name of a function and does not call it")
