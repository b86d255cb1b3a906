"""A mesh: where the density passes a level (marching cubes), coloured as the volume is seen from outside."""

import numpy as np
import torch
import trimesh
from jaxtyping import Float
from skimage.measure import marching_cubes
from torch import Tensor

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.rendering.normals import normals_of
from pvd_nerfstudio.student.model import PointAnswers, StudentModel

NO_DENSITY = -10.0
"""Logarithm of the density per scale that counts as none."""


@torch.no_grad()
def mesh_of(student: StudentModel, answers: PointAnswers, resolution: int, level: float) -> trimesh.Trimesh:
    """The surface of what a student shows; in contracted space of the box in its middle, for it has no end.

    Args:
        student: whose density it is.
        answers: give the colours: the student's own, or its teacher's.
        resolution: vertices along the longest side of what is occupied.
        level: density per scale at which the surface lies.

    Raises:
        InputError: there is no density of that level.
    """
    low, high = _box(student)
    cell = float((high - low).max()) / (resolution - 1)
    counts = [int(count) for count in ((high - low) / cell).ceil() + 1]
    volume = torch.stack([_slab(student, low, cell, counts, x) for x in range(counts[0])]).cpu().numpy()
    volume = np.pad(volume, 1, constant_values=NO_DENSITY)  # what reaches out of the box is closed there
    if np.log(level) >= volume.max():
        raise InputError(
            f"No surface has a density of {level:g}: the largest is {np.exp(volume.max()):.3g}. Lower --level."
        )
    vertices, faces, _, _ = marching_cubes(volume, float(np.log(level)))
    positions = low + cell * (torch.from_numpy(vertices.copy()).to(low) - 1)
    return trimesh.Trimesh(
        vertices=positions.cpu().numpy(),
        faces=faces[:, ::-1],  # outwards: skimage's face what is larger
        vertex_colors=(_colors(student, answers, positions, cell) * 255).round().byte().cpu().numpy(),
        process=False,
    )


def _box(student: StudentModel) -> Float[Tensor, "2 3"]:
    """What is occupied, with a margin; of contracted space no more than the box in its middle."""
    grid = student.grid
    if not grid.contracted:
        return grid.bounds
    scale = grid.scale * torch.ones(3, device=grid.aabb.device)
    return torch.stack([-scale, scale])


def _log_density(student: StudentModel, positions: Float[Tensor, "points 3"]) -> Float[Tensor, "points 1"]:
    """Per scale; next to nothing where the grid says that there is nothing."""
    out = torch.full_like(positions[:, :1], NO_DENSITY)
    inside = student.grid.contains(positions)
    if inside.any():
        found = student.field.to_density(student.field.shallow(positions[inside])[0]) * student.grid.scale
        out[inside] = found.log().clamp_min(NO_DENSITY)
    return out


def _slab(student: StudentModel, low: Tensor, cell: float, counts: list[int], x: int) -> Float[Tensor, "y z"]:
    y, z = (torch.arange(count, device=low.device) for count in counts[1:])
    grid = torch.stack(torch.meshgrid(torch.full((1,), x, device=low.device), y, z, indexing="ij"), dim=-1)
    return _log_density(student, low + cell * grid.view(-1, 3)).view(counts[1:])


def _colors(
    student: StudentModel, answers: PointAnswers, positions: Float[Tensor, "vertices 3"], cell: float
) -> Float[Tensor, "vertices 3"]:
    """As each vertex is seen from straight above its surface."""
    reach = torch.full_like(positions[:, :1], cell)
    parts = []
    for some, far in zip(positions.split(1 << 15), reach.split(1 << 15)):
        normals = normals_of(lambda asked: _log_density(student, asked), some, far)
        directions = torch.where(normals.any(dim=-1, keepdim=True), -normals, torch.tensor([0.0, 0, -1]).to(normals))
        parts.append(answers(some, directions)[1].clamp(0, 1))
    return torch.cat(parts)
