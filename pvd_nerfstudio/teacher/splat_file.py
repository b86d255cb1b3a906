"""Gaussians in a .ply, of whichever tool: read without believing what its head claims."""

import re
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.text import plain
from pvd_nerfstudio.rendering.harmonics import LARGEST_DEGREE, bases_of
from pvd_nerfstudio.teacher.archive import open_file

LARGEST_HEAD = 1 << 16
"""Bytes in which the head must end."""
TYPES = {
    **{"char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2"},
    **{"uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4"},
    **{"float": "f4", "float32": "f4", "double": "f8", "float64": "f8"},
}
"""The format's types as numpy calls them."""
ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}
COLUMNS = {
    "means": ("x", "y", "z"),
    "scales": ("scale_0", "scale_1", "scale_2"),
    "quats": ("rot_0", "rot_1", "rot_2", "rot_3"),
    "opacities": ("opacity",),
    "features_dc": ("f_dc_0", "f_dc_1", "f_dc_2"),
}
"""Which properties a parameter is made of; those of `features_rest` are counted."""
BOUND = 20.0
"""What an infinite logarithm of a size, or an opacity before its sigmoid, comes to."""
BASES = [3 * bases_of(degree) for degree in range(LARGEST_DEGREE + 1)]
"""How many there can be of these."""


def read_gaussians(path: Path) -> dict[str, Tensor]:
    """The Gaussians of a file, by splatfacto's names.

    Raises:
        InputError: it holds none, is damaged, or is of a kind that is not read.
    """
    with open_file(path) as file:
        kind, count = _head(file, path)
        size = path.stat().st_size - file.tell()
        if count * kind.itemsize > size:
            raise InputError(
                f"{plain(path)} is cut short: its head claims {count:,} Gaussians of {kind.itemsize} bytes, and "
                f"{size:,} bytes follow."
            )
        table = np.frombuffer(file.read(count * kind.itemsize), dtype=kind)
    values = {name: _tensor(table, columns) for name, columns in COLUMNS.items()}
    rest = [name for name in table.dtype.names or () if name.startswith("f_rest_")]
    if len(rest) not in BASES or set(rest) != {f"f_rest_{number}" for number in range(len(rest))}:
        raise InputError(
            f"{plain(path)} has {len(rest)} properties f_rest_*; spherical harmonics of degree 0 to {LARGEST_DEGREE} "
            f"have {', '.join(map(str, BASES))}."
        )
    harmonics = _tensor(table, [f"f_rest_{number}" for number in range(len(rest))])
    values["features_rest"] = harmonics.view(count, 3, len(rest) // 3).transpose(1, 2).contiguous()
    _check(values, path)
    return values


def _head(file: BinaryIO, path: Path) -> tuple[np.dtype, int]:
    """What a row of the table is, and how many rows there are; the file is then at the first.

    Raises:
        InputError: it is no such file.
    """
    text = file.read(LARGEST_HEAD)
    end = re.search(rb"(?m)^end_header\r?\n", text)
    if not re.match(rb"ply\r?\n", text) or end is None:
        raise InputError(f"{plain(path)} is no .ply: its head is missing or damaged.")
    file.seek(end.end())
    lines = [line.split() for line in text[: end.start()].decode("ascii", errors="replace").splitlines()]
    stated = [line[1] for line in lines if line[:1] == ["format"] and len(line) > 1]
    if stated[:1] == ["ascii"]:
        raise InputError(f"{plain(path)} is a .ply in text form; binary ones are read. Save it as one.")
    if not stated or stated[0] not in ORDERS:
        raise InputError(f"{plain(path)} is no .ply: its head is missing or damaged.")
    elements = [line[1:] for line in lines if line[:1] == ["element"]]
    names = [element[0] if element else "" for element in elements]
    if "chunk" in names:
        raise InputError(
            f"{plain(path)} is a compressed .ply. Unpack it first: `npx @playcanvas/splat-transform {plain(path.name)} "
            "unpacked.ply`."
        )
    if names[:1] != ["vertex"] or len(elements[0]) != 2 or not re.fullmatch(r"\d{1,18}", elements[0][1]):  # noqa: PLR2004
        raise InputError(f"{plain(path)} has no element 'vertex' at its beginning, so it holds no Gaussians.")
    begin = lines.index(["element", *elements[0]])
    rows: list[tuple[str, str]] = []
    for line in lines[begin + 1 :]:
        if line[:1] == ["element"]:
            break
        if line[:1] == ["property"]:
            if len(line) != 3 or line[1] not in TYPES:  # noqa: PLR2004
                raise InputError(f"{plain(path)} has a property that Gaussians have not: '{plain(' '.join(line))}'.")
            rows.append((line[2], ORDERS[stated[0]] + TYPES[line[1]]))
    here = [name for name, _ in rows]
    missing = [name for columns in COLUMNS.values() for name in columns if name not in here]
    if missing:
        what = "a mesh, or points" if "face" in names or len(missing) > len(COLUMNS) else "Gaussians of another layout"
        raise InputError(f"{plain(path)} is {what}: it has no {', '.join(missing)}.")
    if len(set(here)) < len(here):
        raise InputError(f"{plain(path)} names a property twice.")
    return np.dtype(rows), int(elements[0][1])


def _tensor(table: np.ndarray, columns: "tuple[str, ...] | list[str]") -> Tensor:
    stacked = [table[name].astype(np.float32) for name in columns]
    return torch.from_numpy(np.stack(stacked, axis=-1)) if stacked else torch.zeros(len(table), 0)


def _check(values: dict[str, Tensor], path: Path) -> None:
    """Refuse numbers that are none; what may be infinite is bounded.

    Raises:
        InputError: says which.
    """
    if not len(values["means"]):
        raise InputError(f"{plain(path)} holds no Gaussian.")
    for name in ("scales", "opacities"):  # logarithms of nothing, and opacities of 1, as other tools write them
        values[name] = torch.where(values[name].isinf(), values[name].clamp(-BOUND, BOUND), values[name])
    for name, value in values.items():
        broken = int((~value.isfinite()).flatten(1).any(dim=-1).sum())
        if broken:
            raise InputError(f"{plain(path)}: the {name} of {broken:,} of its Gaussians are NaN or infinite.")
    if not (values["quats"].norm(dim=-1) > 0).all():
        raise InputError(f"{plain(path)}: some of its Gaussians have no rotation (rot_* are all 0).")
