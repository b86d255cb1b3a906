"""A .safetensors file: the student's numbers and, in its head, all that is needed to make sense of them."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pvd_nerfstudio.student.fields.packed import NAMES
from pvd_nerfstudio.student.fields.sparse import VoxelEncoding
from pvd_nerfstudio.student.model import StudentModel

FORMAT = "pvd-nerfstudio student, 1"
TYPES = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64", torch.uint8: "U8", torch.bool: "BOOL"}
"""Those of a student's state, as the format calls them."""


def write_tensors(student: StudentModel, path: Path) -> None:
    """Write a student: names as in its state, the occupancy grid as `grid.cells`, eight cells in a byte.

    Source of the layout: the safetensors format: length of the head (8 bytes, little-endian), head (JSON), tensors.
    The package itself would be one more dependency for a few lines.
    """
    tensors = {f"field.{name}": value for name, value in student.field.state_dict().items() if _is_numbers(value)}
    for name, module in student.field.named_modules():
        if isinstance(module, VoxelEncoding):  # whole, also where a checkpoint has it packed
            tensors = {key: value for key, value in tensors.items() if key not in _packed_names(name)}
            tensors[f"field.{name}.table"] = module.table
    tensors["grid.cells"] = student.grid.get_extra_state()["cells"]
    for name, module in student.field.named_modules():
        if isinstance(module, VoxelEncoding):
            tensors[f"field.{name}.stored"] = module.get_extra_state()["stored"]
    head: dict[str, Any] = {"__metadata__": {"format": FORMAT, "student": json.dumps(description(student))}}
    end = 0
    for name, value in tensors.items():
        begin, end = end, end + value.numel() * value.element_size()
        head[name] = {"dtype": TYPES[value.dtype], "shape": list(value.shape), "data_offsets": [begin, end]}
    text = json.dumps(head).encode("utf8")
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for value in tensors.values():
            file.write(value.detach().cpu().contiguous().numpy().tobytes())


def description(student: StudentModel) -> dict[str, Any]:
    """Architecture, sizes and space of a student, as JSON holds them."""
    config, field, grid = student.config, student.field, student.grid
    parts = {config.student: config.chosen, **config.chosen_parts}
    return {
        "architecture": config.student,
        "sizes": {name: _plain(asdict(part)) for name, part in parts.items()},
        "aabb": field.aabb.tolist(),
        "contracted": bool(field.contracted),
        "scale": field.scale,
        "near": student.near,
        "far": student.far,
        "step_size": student.spacing.step_size,
        "even_in_disparity_from": student.spacing.bend if student.spacing.bend < float("inf") else None,
        "background": config.background_color,
        "grid_resolution": grid.resolution,
    }


def _packed_names(module: str) -> set[str]:
    return {f"field.{module}.{name}" for name in NAMES}


def _is_numbers(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _plain(sizes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sizes.items() if isinstance(value, (bool, int, float, str, list, tuple))}
