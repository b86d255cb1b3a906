"""Makes hostile and broken files out of sound ones: configs, checkpoints, poses and images."""

import io
import json
import os
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch

MARKER = "marker"
"""Name of the file that appears in the working folder where something was executed."""

SCALARS = (
    *("0", "-1", "1", "2", "33", "100000", "30000", "1e9", "-0.5", "1.5", "1e30", "1e999", ".nan", ".inf", "-.inf"),
    *("9" * 5000, "0x7fffffffffffffff", "1" + "0" * 400, "190:20:30", "2001-12-14t21:59:43.10-05:00"),
    *("null", "true", "no", "[]", "{}", "''", "[1, 2, 3]", "{a: b}", "[[[[[]]]]]", "!!binary aGVsbG8=", "!!set {a, b}"),
    *("..", "../../..", "/", "/dev/zero", "/dev/stdin", "/proc/self/mem", "a/../..", "~", "//", "con", "'\\0'"),
    *('"\\e[31m\\e]0;x\\a"', "'{alert(1)}'", "'[/nope]'", "'[red]x[/red]'", '"\\u202e"', '"\\ud800"', "x: y: z"),
)
"""What may stand in the place of a value."""
COMMAND = f"touch {MARKER}"
TAGS = (
    f'!!python/object/apply:os.system ["{COMMAND}"]',
    f'!!python/object/apply:subprocess.Popen [["touch", "{MARKER}"]]',
    f"!!python/object/apply:builtins.eval [\"open('{MARKER}', 'w')\"]",
    f'!!python/object/new:os.system ["{COMMAND}"]',
    "!!python/object/apply:builtins.exit [0]",
    "!!python/object/apply:sys.exit []",
    "!!python/object/apply:builtins.input ['?']",
    f'!!python/object/apply:builtins.open ["{MARKER}", "w"]',
    f'!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.PosixPath ["{MARKER}"]]',
    "!!python/object/apply:pathlib.PosixPath [/, dev, zero]",
    "!!python/object/apply:pathlib.PosixPath [1, 2]",
    "!!python/object/apply:pathlib.PosixPath {a: b}",
    "!!python/object/apply:builtins.getattr [!!python/name:os.system , __class__]",
    "!!python/object/apply:_operator.getitem [!!python/name:builtins.dict , x]",
    "!!python/name:os.system ''",
    "!!python/name:builtins.exit ''",
    "!!python/name:nerfstudio.scripts.train.main ''",
    "!!python/name:nerfstudio.scripts.downloads.download_data.main ''",
    "!!python/module:antigravity ''",
    "!!python/object:nerfstudio.data.dataparsers.minimal_dataparser.MinimalDataParserConfig {_target: "
    "!!python/name:nerfstudio.data.dataparsers.minimal_dataparser.MinimalDataParser }",
    "!!python/object:nerfstudio.models.generfacto.GenerfactoModelConfig {}",
    "!!python/object:nerfstudio.models.nerfacto.NerfactoModelConfig {}",
    "!!python/object:nerfstudio.models.splatfacto.SplatfactoModelConfig {}",
    "!!python/object:nerfstudio.models.neus.NeuSModelConfig {}",
    "!!python/object:nerfstudio.pipelines.dynamic_batch.DynamicBatchPipelineConfig {}",
    "!!python/name:nerfstudio.models.nerfacto.NerfactoModel",
    "!!python/name:nerfstudio.models.splatfacto.SplatfactoModel",
    "!!python/name:nerfstudio.pipelines.base_pipeline.VanillaPipeline",
    "!!python/object:nerfstudio.configs.base_config.MachineConfig {}",
    "!!python/tuple [1, 2]",
    "!!python/complex 1+2j",
    "!!python/object:__main__.X {}",
)
"""What may be asked for in the place of a value."""
LARGEST = 1 << 22
"""Numbers of a tensor that is changed itself."""
NAMES = ("setup", "__deepcopy__", "__post_init__", "__class__", "__dict__", "__reduce__", "__setstate__", "_target")


def mutate_config(text: str, chance: Random) -> str:
    """A config.yml that is not what ns-train wrote."""
    return _some(text, chance, (_value, _value, _value, _tag, _tag, _lines, _shadow, _alias, _cut, _flip_text, _nest))


def mutate_checkpoint(data: bytes, chance: Random) -> bytes:
    """A checkpoint that is not what was saved."""
    how = chance.choice(
        (_truncate, _flip, _flip, _change_state, _change_state, _change_state, _flip_pickle, _plant, _zip)
    )
    return how(data, chance)


def mutate_poses(text: str, chance: Random) -> str:
    """A transforms.json that no program wrote."""
    if chance.random() < 0.2:
        return _some(text, chance, (_cut, _flip_text, _deep_json))
    meta = json.loads(text)
    for _ in range(chance.randint(1, 3)):
        _change_json(meta, chance)
    return json.dumps(meta)


def mutate_image(place: Path, chance: Random) -> None:
    """Put something else in an image's place."""
    data = place.read_bytes()
    kind = chance.randrange(7)
    place.unlink()
    if kind == 0:
        os.mkfifo(place)
    elif kind == 1:
        place.symlink_to(chance.choice(("/dev/zero", "/dev/stdin", "/proc/self/mem", place)))
    elif kind == 2:
        place.mkdir()
    elif kind == 3:
        place.write_bytes(_png(chance.choice((1, 5000, 30000, 2**31 - 1)), chance.choice((1, 30000))))
    elif kind == 4:
        place.write_bytes(_truncate(data, chance))
    else:
        place.write_bytes(_flip(data, chance))


def _some(text: str, chance: Random, ways: tuple[Callable[[str, Random], str], ...]) -> str:
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        text = chance.choice(ways)(text, chance)
    return text


def _split(line: str) -> tuple[str, str] | None:
    """A line's key and its value."""
    key, colon, value = line.partition(": ")
    return (key, value) if colon else None


def _value(text: str, chance: Random, values: tuple[str, ...] = SCALARS) -> str:
    """Another value for one of the keys."""
    lines = text.split("\n")
    at = chance.choice([number for number, line in enumerate(lines) if _split(line)] or [0])
    pair = _split(lines[at])
    lines[at] = f"{pair[0]}: {chance.choice(values)}" if pair else chance.choice(values)
    return "\n".join(lines)


def _tag(text: str, chance: Random) -> str:
    return _value(text, chance, TAGS)


def _lines(text: str, chance: Random) -> str:
    """Lines that are missing, twice there, or elsewhere."""
    lines = text.split("\n")
    at, count = chance.randrange(len(lines)), chance.choice((1, 1, 2, 10))
    block = lines[at : at + count]
    if chance.random() < 0.6:
        del lines[at : at + count]
    if chance.random() < 0.6:
        there = chance.randrange(len(lines) + 1)
        lines[there:there] = block
    return "\n".join(lines)


def _shadow(text: str, chance: Random) -> str:
    """One more key, of a name that means something to Python."""
    lines = text.split("\n")
    at = chance.randrange(1, len(lines))
    space = " " * (len(lines[at]) - len(lines[at].lstrip()))
    lines.insert(at, f"{space}{chance.choice(NAMES)}: {chance.choice(TAGS + SCALARS)}")
    return "\n".join(lines)


def _alias(text: str, chance: Random) -> str:
    """Anchors that refer to anchors."""
    fan, levels = chance.choice((2, 9, 30)), chance.choice((3, 10, 40))
    rows = [f"a0: &a0 [{', '.join('x' * fan)}]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * fan)}]" for i in range(1, levels)]
    kind = chance.choice(("list", "map", "self"))
    if kind == "map":
        rows = ["a0: &a0 {k: v}"]
        rows += [f"a{i}: &a{i} {{" + ", ".join(f"k{j}: *a{i - 1}" for j in range(fan)) + "}" for i in range(1, levels)]
    elif kind == "self":
        rows = ["a0: &a0 [*a0, *a0]", "a1: &a1 {<<: *a1, k: *a0}"]
    return _value(text + "\n".join(rows) + "\n", chance, (f"*a{levels - 1}", "*a0", "x"))


def _cut(text: str, chance: Random) -> str:
    return text[: chance.randrange(len(text))]


def _flip_text(text: str, chance: Random) -> str:
    signs = list(text)
    for _ in range(chance.choice((1, 3, 20))):
        signs[chance.randrange(len(signs))] = chr(chance.choice((0, 9, 10, 27, 34, 38, 42, 58, 91, 123, 160, 0x202E)))
    return "".join(signs)


def _nest(text: str, chance: Random) -> str:
    depth = chance.choice((50, 500, 20000))
    left, right = chance.choice((("[", "]"), ("{a: ", "}"), ("? ", ""), ("- ", "")))
    return _value(text, chance, (left * depth + right * depth,))


def _deep_json(text: str, chance: Random) -> str:
    depth = chance.choice((100, 100000))
    return text.replace("[", "[" * depth, 1) if chance.random() < 0.5 else "[" * depth + "]" * depth


def _change_json(meta: Any, chance: Random) -> None:
    """Change one place of a tree, in place."""
    place = meta
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = chance.choice(keys)
        inner = place[key]
        if isinstance(inner, (dict, list)) and inner and chance.random() < 0.8:
            place = inner
            continue
        break
    kind = chance.randrange(4)
    if kind == 0:
        del place[key]
    elif kind == 1 and isinstance(place, list):
        place *= chance.choice((2, 50))
    else:
        strange = (
            0,
            -1,
            1e308,
            float("nan"),
            float("inf"),
            10**400,
            None,
            [],
            {},
            [[]],
            "",
            "x",
            "../../x",
            "/dev/zero",
        )
        more = ("/dev/stdin", "\x1b[31m", "a" * 5000, True, 40000, "\0", "train/../../..", MARKER, [1, 2], "9" * 5000)
        place[key] = chance.choice(strange + more)


def _png(width: int, height: int) -> bytes:
    """An image of nothing that claims to be large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def _truncate(data: bytes, chance: Random) -> bytes:
    return data[: chance.choice((0, 1, 100, len(data) // 2, len(data) - 1, chance.randrange(len(data))))]


def _flip(data: bytes, chance: Random) -> bytes:
    """Some bytes are others; half of the time at the ends, where the structure is."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 4, 30))):
        reach = min(len(changed), 3000)
        at = chance.choice((chance.randrange(reach), len(changed) - 1 - chance.randrange(reach)))
        changed[chance.choice((at, chance.randrange(len(changed))))] = chance.randrange(256)
    return bytes(changed)


def _members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _pack(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _change_pickle(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    members = _members(data)
    name = next(name for name in members if name.endswith("data.pkl"))
    return _pack(members | {name: change(members[name])})


def _flip_pickle(data: bytes, chance: Random) -> bytes:
    """The pickle alone is damaged; the archive around it is sound."""
    return _change_pickle(data, lambda content: _flip(content, chance))


def _plant(data: bytes, chance: Random) -> bytes:
    """A pickle built by hand in place of the saved one, or within it."""
    return _change_pickle(data, lambda content: _planted(content, chance))


def _planted(content: bytes, chance: Random) -> bytes:
    ends = [position for _, _, position in pickletools.genops(content) if position]
    at = chance.choice(ends)  # type: ignore[arg-type]
    evil = chance.choice(pickles())
    return chance.choice((evil + b".", b"\x80\x02" + evil + b".", content[:at] + evil + content[at:]))


def pickles() -> list[bytes]:
    """Opcodes that execute something, read memory that is not theirs, grow without end or do not end."""
    command = COMMAND.encode()
    text = b"X" + struct.pack("<I", len(command)) + command
    reduce = [b"c%s\n%s\n(%stR" % (module, name, text) for module, name in _CALLS]
    dtype = b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8K\x00K\x01tR"
    dtype += b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb"
    scalar = b"cnumpy.core.multiarray\nscalar\n(" + dtype + b"C\x08AAAAAAAAtR"
    return [
        *reduce,
        b"(%sios\nsystem\n" % text,
        b"(cos\nsystem\n%so" % text,
        b"cos\nsystem\n)\x81}b",
        b"\x8c\x02os\x8c\x06system\x93(%stR" % text,
        b"\x82\x01",
        b"Ppersistent\n",
        dtype,
        scalar,
        b"]" * 100000,
        b"(" * 100000 + b"t" * 100000,
        b"]q\x00" + b"h\x00h\x00\x86q\x00" * 60,
        b"\x8a\x04\xff\xff\xff\x7f",
        b"\x8b\xff\xff\xff\x7f" + b"\x7f" * 100,
        b"L" + b"9" * 100000 + b"L\n",
        b"\x8e" + struct.pack("<Q", 2**40),
        b"0" * 10,
        b"j\xff\xff\xff\x7f",
        b"r\xff\xff\xff\x7f",
        pickle.dumps({"pipeline": {"_model.field.aabb": 3}}, 2)[:-1],
    ]


_CALLS = (
    *(
        (b"os", b"system"),
        (b"posix", b"system"),
        (b"subprocess", b"call"),
        (b"builtins", b"exec"),
        (b"builtins", b"eval"),
    ),
    *((b"builtins", b"getattr"), (b"builtins", b"open"), (b"shutil", b"rmtree"), (b"torch", b"load")),
    *((b"torch.hub", b"load"), (b"numpy", b"load"), (b"runpy", b"run_path"), (b"importlib", b"import_module")),
)


def _change_state(data: bytes, chance: Random) -> bytes:
    """Tensors of absurd shapes, kinds and values, in a file that is sound."""
    checkpoint = torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)
    state = checkpoint["pipeline"] if chance.random() < 0.8 else checkpoint.get("optimizers", checkpoint)
    for _ in range(chance.randint(1, 3)):
        key = chance.choice(list(state) or [""])
        kind = chance.randrange(5)
        if kind == 0:
            state.pop(key, None)
        elif kind == 1:
            state[f"{key}.more" if chance.random() < 0.5 else "_model.field._extra_state"] = _strange(
                state.get(key), chance
            )
        else:
            state[key] = _strange(state.get(key), chance)
    file = io.BytesIO()
    torch.save(checkpoint, file)
    return file.getvalue()


def _strange(value: Any, chance: Random) -> Any:
    one = torch.ones(1)
    if isinstance(value, dict) and value and chance.random() < 0.7:
        return value | {chance.choice(list(value)): _strange(None, chance)}
    values: list[Any] = [
        *(None, 0, -1, 2**62, float("nan"), "x" * 1000, [], {}, {"a": one}, [one] * 3, True, b"x", torch.float64),
        *(one, torch.zeros(()), torch.zeros(0), torch.zeros(3, 0, 2), torch.full((7,), float("nan"))),
        *(one.expand(2**20, 2**20), one.expand(2**40), torch.zeros(1, dtype=torch.int64).expand(2, 3)),
        *(torch.ones(5, dtype=torch.bool), torch.ones(2, 3, dtype=torch.complex64), torch.full((2, 3), 1e38)),
        *(torch.empty(2, 3), torch.ones(1, 1, 1, 1, 1, 1, 1), torch.eye(3).to_sparse(), torch.nn.Parameter(one)),
        *({"resolution": 2**20}, {"resolution": -1}, {"shape": (10**6,) * 3}, {"levels": "x"}, (2**31,) * 3),
    ]
    is_plain = isinstance(value, torch.Tensor) and value.layout == torch.strided and value.is_floating_point()
    if is_plain and 0 < value.numel() < LARGEST:
        flat = value.detach()
        values += [flat.double(), flat.half(), flat.flatten(), flat.flatten()[:-1], flat * float("inf"), -1e20 * flat]
        values += [flat.unsqueeze(0), flat.T if flat.ndim == 2 else flat, flat.new_zeros(flat.shape)] * 2
    return chance.choice(values)


def _zip(data: bytes, chance: Random) -> bytes:
    """Archives that unpack to more than they are, or name what is elsewhere."""
    members = _members(data)
    kind, name = chance.randrange(5), chance.choice(list(members))
    if kind == 0:
        return _pack(members | {name: bytes(2**27)}, zipfile.ZIP_DEFLATED)
    if kind == 1:
        return _pack(members | {f"../../{MARKER}": b"x", f"/tmp/{MARKER}": b"x"})
    if kind == 2:
        del members[name]
        return _pack(members)
    if kind == 3:
        return _pack(members | {name: members[name][: chance.randrange(len(members[name]) + 1)]})
    packed = bytearray(_pack(members))
    at = packed.rfind(b"PK\x01\x02")
    packed[at + 20 : at + 28] = struct.pack("<II", *(chance.choice((0, 1, 2**31, 2**32 - 1)) for _ in range(2)))
    return bytes(packed)
