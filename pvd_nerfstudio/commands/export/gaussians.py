"""A .ply of Gaussians, as viewers and engines read it."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from plyfile import PlyData, PlyElement
from scipy.spatial.transform import Rotation
from torch import Tensor

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.rendering.harmonics import degree_of, harmonics
from pvd_nerfstudio.rendering.splatting import LEAST_ALPHA
from pvd_nerfstudio.student.fields.gaussians import GaussianField

DIRECTIONS = 100
"""Directions from which it is found out how spherical harmonics turn."""


def write_ply(field: GaussianField, path: Path, world: DataparserOutputs | None = None) -> None:
    """Write the Gaussians that can be seen, in the original code's layout: binary, little-endian, single precision.

    Opacities are before their sigmoid, sizes are logarithms, quaternions have w first, and the harmonics of a colour
    stand together.

    Args:
        field: the Gaussians.
        path: of the file.
        world: whose data set's coordinates they are to have, in place of nerfstudio's.
    """
    seen = field.opacities[:, 0].sigmoid() >= LEAST_ALPHA
    values = {name: value.detach()[seen].cpu() for name, value in field.named.items()}
    if world is not None:
        values |= _in_the_world(values, world)
    columns = {
        **_columns(("x", "y", "z"), values["means"]),
        **_columns(("nx", "ny", "nz"), torch.zeros_like(values["means"])),
        **_columns("f_dc_", values["features_dc"]),
        **_columns("f_rest_", values["features_rest"].transpose(1, 2).flatten(1)),
        "opacity": values["opacities"][:, 0],
        **_columns("scale_", values["scales"]),
        **_columns("rot_", torch.nn.functional.normalize(values["quats"], dim=-1)),
    }
    table = np.empty(int(seen.sum()), dtype=[(name, "<f4") for name in columns])
    for name, value in columns.items():
        table[name] = value.numpy()
    PlyData([PlyElement.describe(table, "vertex")], byte_order="<").write(str(path))


def _columns(names: str | tuple[str, ...], values: Float[Tensor, "gaussians channels"]) -> dict[str, Tensor]:
    count = values.shape[1]
    words = names if isinstance(names, tuple) else [f"{names}{number}" for number in range(count)]
    return dict(zip(words, values.unbind(dim=1)))


def _in_the_world(values: dict[str, Tensor], world: DataparserOutputs) -> dict[str, Tensor]:
    """What changes where the dataparser's rotation, shift and scale are undone.

    Raises:
        InputError: the dataparser mirrored the scene, which Gaussians cannot follow.
    """
    transform, scale = world.dataparser_transform.float().cpu(), world.dataparser_scale
    turn = transform[:, :3]
    if not torch.allclose(turn @ turn.T, torch.eye(3), atol=1e-4) or torch.det(turn) < 0:
        raise InputError(
            "The dataparser did not only turn, shift and scale the scene, so its Gaussians cannot be given the data "
            "set's own coordinates. Leave out --save-world-frame."
        )
    own = Rotation.from_quat(values["quats"][:, [1, 2, 3, 0]].numpy())
    x, y, z, w = torch.from_numpy((Rotation.from_matrix(turn.T.numpy()) * own).as_quat()).T
    return {
        "means": (values["means"] / scale - transform[:, 3]) @ turn,
        "scales": values["scales"] - np.log(scale),
        "quats": torch.stack([w, x, y, z], dim=-1).float(),
        "features_rest": _turned(values["features_rest"], turn),
    }


def _turned(rest: Float[Tensor, "gaussians bases 3"], turn: Float[Tensor, "3 3"]) -> Float[Tensor, "gaussians bases 3"]:
    """Coefficients of harmonics for directions before a rotation, from those for directions after it."""
    if not rest.shape[1]:
        return rest
    degree = degree_of(rest)
    before = torch.randn(DIRECTIONS, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = torch.nn.functional.normalize(before, dim=-1)
    values, wanted = (harmonics(degree, towards).double() for towards in (before, before @ turn.double().T))
    map_of = torch.linalg.lstsq(values, wanted).solution
    return torch.einsum("ij,njc->nic", map_of.float(), rest)
