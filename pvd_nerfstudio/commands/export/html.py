"""One HTML file that shows a `sparse` student in any browser, without a server and without the network.

The stored voxels go into bricks of eight along each side, and the bricks into textures, a byte for each number. The
page marches through them as our own images do; see scene.html.
"""

import base64
import gzip
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader
from numpy.typing import NDArray

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.pipeline.opening import opening_view
from pvd_nerfstudio.pipeline.student import StudentPipeline
from pvd_nerfstudio.student.fields.base import MAX_LOG_DENSITY
from pvd_nerfstudio.student.fields.sparse import DENSITY_SCALE, EMPTY, SparseField

BRICK = 8
"""Voxels along a side of a brick, which has one vertex more."""
LARGEST_TEXTURE = 256
"""Texels along a side of a 3D texture that every browser with WebGL 2 has at least."""
IN_A_TEXEL = 4


def page(pipeline: StudentPipeline, title: str) -> str:
    """The page.

    Args:
        pipeline: with a student of voxels; its cameras say from where it is seen first.
        title: of the page.

    Raises:
        InputError: the student is another one, or has too many voxels.
    """
    student, field = pipeline.student, pipeline.student.field
    if not isinstance(field, SparseField):
        raise InputError(
            f"--html shows students of voxels, and this one is '{student.config.student}'. Convert it once more: "
            "pvd convert RUN --to sparse; or export a --mesh."
        )
    bricks = _bricks(field) | {"cells": np.packbits(student.grid.occupied.permute(2, 1, 0).cpu().numpy())}
    head = {
        "aabb": field.aabb.flatten().tolist(),
        "bounds": student.grid.bounds.flatten().tolist(),
        "contracted": bool(field.contracted),
        "scale": field.scale,
        "step": student.spacing.step_size,
        "bend": min(student.spacing.bend, 1e9),
        "far": student.far,
        "sky": student.has_sky,
        "white": student.renderer_rgb.background_color == "white",
        "degree": field.sh_degree,
        "cellsAlong": student.grid.resolution,
        "density": [DENSITY_SCALE, EMPTY, MAX_LOG_DENSITY],
        "camera": _camera(pipeline),
        **{name: value for name, value in bricks.items() if not isinstance(value, np.ndarray)},
    }
    data = {name: _packed(value) for name, value in bricks.items() if isinstance(value, np.ndarray)}
    loader = PackageLoader("pvd_nerfstudio.commands.export", ".")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    textures = -(-field.voxels.out_dim // IN_A_TEXEL)
    return environment.get_template("scene.html").render(
        title=title, head=head, data=data, textures=textures, degree=field.sh_degree
    )


def _bricks(field: SparseField) -> dict[str, Any]:
    """Where bricks stand, and what their vertices hold, every channel stretched over the numbers of a byte."""
    voxels = field.voxels
    stored, table = voxels.stored.cpu(), voxels.table.detach().cpu()
    side = -(-(len(stored) - 1) // BRICK)
    padded = torch.zeros((side * BRICK + 1,) * 3, dtype=torch.int)
    padded[tuple(slice(0, count) for count in stored.shape)] = voxels.index.cpu()
    tiles = padded.unfold(0, BRICK + 1, BRICK).unfold(1, BRICK + 1, BRICK).unfold(2, BRICK + 1, BRICK)
    rows = tiles.reshape(side**3, -1)
    used = (rows != 0).any(dim=-1).nonzero()[:, 0]
    across = LARGEST_TEXTURE // (BRICK + 1)
    if not 0 < len(used) <= across**3:
        raise InputError(
            f"The student's voxels lie in {len(used):,} bricks of {BRICK}³, and a browser's texture holds at most "
            f"{across**3:,}. Convert it with a lower --pipeline.model.sparse.resolution."
        )
    low = torch.minimum(table.amin(dim=0), torch.zeros(())).numpy()
    high = torch.maximum(table.amax(dim=0), torch.zeros(())).numpy()
    span = np.maximum(high - low, 1e-6)
    bytes_of = np.round((table.numpy() - low) / span * 255).astype(np.uint8)
    channels = IN_A_TEXEL * -(-table.shape[1] // IN_A_TEXEL)
    rows_in_use: NDArray[np.int32] = rows[used].numpy()
    own = np.unique(rows_in_use)
    renumbered = np.searchsorted(own, rows_in_use).astype(np.uint32)
    values = np.zeros((len(own), channels), dtype=np.uint8)
    values[:, : table.shape[1]] = bytes_of[own]
    filler = channels - table.shape[1]
    return {
        "resolution": len(stored) - 1,
        "side": side,
        "low": [*low.tolist(), *[0.0] * filler],
        "span": [*span.tolist(), *[1.0] * filler],
        "places": used.numpy().astype(np.uint32),
        "rows": renumbered,
        "values": values,
    }


def _camera(pipeline: StudentPipeline) -> dict[str, Any]:
    """The training view that shows the scene best, and how far what is turned around is."""
    cameras = pipeline.datamanager.train_dataset.cameras
    view, distance = opening_view(cameras)
    return {
        "pose": cameras.camera_to_worlds[view].flatten().tolist(),
        "distance": distance,
        "tangent": float(cameras.cy[view] / cameras.fy[view]),
    }


def _packed(values: NDArray[Any]) -> str:
    """Bytes as text, compressed; whole numbers of four bytes are little-endian."""
    return base64.b64encode(gzip.compress(np.ascontiguousarray(values).tobytes(), 9, mtime=0)).decode("ascii")
