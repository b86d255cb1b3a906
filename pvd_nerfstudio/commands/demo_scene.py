"""A small ray-traced scene, so that the demo needs no download.

A glazed teapot with a thin handle stands on a wooden board, next to an iced doughnut and two sugar cubes.
Convention: world units, z up, right-handed. Cameras are OpenGL camera-to-world: x right, y up, looking along -z.
Colours are linear RGB; only the files hold display values, with a gamma of 2.2.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
from numpy.typing import NDArray

from pvd_nerfstudio.errors import InputError

Array = NDArray[np.floating[Any]]

CAMERA_ANGLE_X = 0.6911112
"""Horizontal field of view in radians, as in NeRF-Synthetic."""
CAMERA_RADIUS = 4.031
"""Distance from the cameras to the origin."""
KNOB_CENTRE = (-0.04, 0.2, 0.51)
"""Centre of the red knob on the lid, the highest point of the scene."""
HANDLE_CENTRE = (-0.58, 0.2, 0.02)
"""Centre of the handle's ring, which lies in the xz plane. Its half outside the teapot is a hole to see through."""

_BOARD_TOP = -0.46
_BODY_CENTRE = (-0.04, 0.2, -0.05)
_SUPERSAMPLING = 3
_LIGHT = np.array([0.45, -0.55, 0.75]) / np.linalg.norm([0.45, -0.55, 0.75])


# Materials


@dataclass(frozen=True)
class _Material:
    """How a surface answers to light."""

    colour: Callable[[Array], Array]
    """Positions relative to the part's origin, [n, 3], to linear RGB, [n, 3]."""
    gloss: float = 0.0
    """Strength of the highlight."""
    shininess: float = 40.0
    """Blinn-Phong exponent: the larger, the smaller the highlight."""


def _plain(red: float, green: float, blue: float) -> Callable[[Array], Array]:
    """One colour everywhere."""
    return lambda points: np.broadcast_to([red, green, blue], points.shape)


def _glaze(points: Array) -> Array:
    """Blue glaze with a belt of yellow diamonds between two lines."""
    turn = np.arctan2(points[:, 1], points[:, 0]) * 9.0 / (2.0 * np.pi)
    height = np.abs(points[:, 2] + 0.02)
    diamond = np.abs(turn - np.round(turn)) / 0.42 + height / 0.14 < 1.0
    line = np.abs(height - 0.2) < 0.025  # noqa: PLR2004
    return np.where((diamond | line)[:, None], (0.95, 0.62, 0.10), (0.02, 0.16, 0.42))


def _wood(points: Array) -> Array:
    """Planks along x, each with its own tone, with a slow wavy grain."""
    plank = np.floor(points[:, 1] / 0.24 + 0.5)
    tone = 0.8 + 0.28 * np.sin(plank * 2.4 + 0.6)
    grain = 1.0 + 0.16 * np.sin(48.0 * points[:, 1] + 2.5 * np.sin(3.0 * points[:, 0] + plank))
    return np.array([0.62, 0.33, 0.13]) * (tone * grain)[:, None]


def _icing(points: Array) -> Array:
    """Dough below, pink icing with cream stripes above."""
    turn = np.arctan2(points[:, 1], points[:, 0])
    iced = points[:, 2] > 0.02 * np.sin(7.0 * turn)
    stripe = np.sin(9.0 * turn + 12.0 * np.hypot(points[:, 0], points[:, 1])) > 0.55  # noqa: PLR2004
    icing = np.where(stripe[:, None], (0.95, 0.85, 0.6), (0.85, 0.14, 0.30))
    return np.where(iced[:, None], icing, (0.62, 0.36, 0.12))


# Geometry


@dataclass(frozen=True)
class _Part:
    """One object of the scene."""

    mesh: Any
    """An open3d tensor mesh, around its own origin."""
    centre: tuple[float, float, float]
    """World position of that origin."""
    material: _Material
    smooth: bool = True
    """Interpolate the normals of the vertices; if not, each facet is flat."""


@dataclass(frozen=True)
class _Scene:
    """Everything a ray can hit, ready to cast."""

    caster: Any
    """open3d RaycastingScene. The id of a geometry is its index in `parts`."""
    parts: list[_Part]
    first_triangle: NDArray[np.int64]
    """Index in `corner_normals` of each part's first triangle, [parts]."""
    corner_normals: Array
    """Unit normals at the corners of every triangle, [triangles, 3, 3]."""


def _bend_spout(positions: Array) -> Array:
    """Turn an upright cylinder of height 1 and radius 1 into a spout that rises towards +x, [n, 3]."""
    along = positions[:, 2:] + 0.5
    radius = 0.14 - 0.08 * along**0.6
    offset = np.concatenate([0.42 * along, np.zeros_like(along), 0.36 * along**1.6], axis=1)
    across = np.stack([0.6 * positions[:, 0], positions[:, 1], -0.8 * positions[:, 0]], axis=1)
    return offset + radius * across


def _make_parts() -> list[_Part]:
    """Shape, place and paint every object."""
    import open3d as o3d  # noqa: PLC0415  (slow to import)

    mesh: Any = o3d.t.geometry.TriangleMesh
    rotation = o3d.geometry.get_rotation_matrix_from_xyz

    def ellipsoid(*radii: float) -> Any:
        return mesh.create_sphere(1.0, 48).transform(np.diag([*radii, 1.0]))

    def cube(side: float, turn: float) -> Any:
        box = mesh.create_box(side, side, side).translate([-side / 2, -side / 2, 0.0])
        return box.rotate(rotation([0.0, 0.0, turn]), [0.0, 0.0, 0.0])

    handle = mesh.create_torus(0.27, 0.04, 64, 20).rotate(rotation([math.pi / 2, 0.0, 0.0]), [0.0, 0.0, 0.0])
    spout = mesh.create_cylinder(1.0, 1.0, 40, 24)
    spout.vertex.positions = o3d.core.Tensor.from_numpy(_bend_spout(spout.vertex.positions.numpy()).astype(np.float32))

    x, y, z = _BODY_CENTRE
    blue = _Material(_plain(0.02, 0.16, 0.42), gloss=0.7, shininess=50.0)
    brass = _Material(_plain(0.78, 0.42, 0.08), gloss=0.5, shininess=25.0)
    icing = _Material(_icing, gloss=0.2, shininess=20.0)
    sugar = _Material(_plain(0.86, 0.84, 0.78))
    return [
        _Part(mesh.create_cylinder(0.95, 0.09, 128, 1), (0, 0, _BOARD_TOP - 0.045), _Material(_wood), smooth=False),
        _Part(ellipsoid(0.48, 0.48, 0.42), _BODY_CENTRE, _Material(_glaze, gloss=0.7, shininess=50.0)),
        _Part(ellipsoid(0.24, 0.24, 0.12), (x, y, z + 0.38), blue),
        _Part(ellipsoid(0.09, 0.09, 0.09), KNOB_CENTRE, _Material(_plain(0.8, 0.06, 0.03), gloss=0.5)),
        _Part(handle, HANDLE_CENTRE, brass),
        _Part(spout, (x + 0.4, y, z - 0.04), blue),
        _Part(mesh.create_torus(0.18, 0.1, 64, 32), (0.3, -0.54, _BOARD_TOP + 0.1), icing),
        _Part(cube(0.18, 0.35), (-0.46, -0.5, _BOARD_TOP), sugar, smooth=False),
        _Part(cube(0.18, 1.13), (-0.25, -0.65, _BOARD_TOP), sugar, smooth=False),
    ]


def _build_scene() -> _Scene:
    """Put the parts into one ray caster."""
    import open3d as o3d  # noqa: PLC0415  (slow to import)

    caster = o3d.t.geometry.RaycastingScene()
    parts = _make_parts()
    normals, counts = [], []
    for part in parts:
        mesh = part.mesh.translate(part.centre).compute_vertex_normals()
        caster.add_triangles(mesh)
        triangles = mesh.triangle.indices.numpy()
        if part.smooth:
            normals.append(mesh.vertex.normals.numpy()[triangles])
        else:
            flat = mesh.compute_triangle_normals().triangle.normals.numpy()
            normals.append(np.repeat(flat[:, None], 3, axis=1))
        counts.append(len(triangles))
    return _Scene(caster, parts, np.cumsum([0, *counts[:-1]]), np.concatenate(normals))


def _cast(scene: _Scene, origins: Array, directions: Array) -> dict[str, NDArray[Any]]:
    """First hits of rays, [n, 3] and [n, 3]. The distances `t_hit`, [n], are in lengths of the directions."""
    rays = np.concatenate([origins, directions], axis=1).astype(np.float32)
    return {name: value.numpy() for name, value in scene.caster.cast_rays(rays).items()}


# Shading


def _shade(scene: _Scene, origins: Array, directions: Array) -> Array:
    """Colour seen along rays from `origins`, [n, 3], in unit `directions`, [n, 3].

    Returns:
        Linear RGB and coverage: 1 where a ray hits, all 0 where not, [n, 4].
    """
    hits = _cast(scene, origins, directions)
    hit = np.isfinite(hits["t_hit"])
    part = hits["geometry_ids"][hit].astype(np.int64)
    points = origins[hit] + hits["t_hit"][hit, None] * directions[hit]
    uv = hits["primitive_uvs"][hit]
    weights = np.concatenate([1.0 - uv.sum(axis=1, keepdims=True), uv], axis=1)
    corners = scene.corner_normals[scene.first_triangle[part] + hits["primitive_ids"][hit]]
    normals = np.einsum("nc,nci->ni", weights, corners)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)

    colour = np.empty((len(points), 3))
    for i, item in enumerate(scene.parts):
        colour[part == i] = item.material.colour(points[part == i] - item.centre)
    gloss = np.array([item.material.gloss for item in scene.parts])[part]
    shininess = np.array([item.material.shininess for item in scene.parts])[part]

    above = points + 2e-3 * hits["primitive_normals"][hit]
    lit = np.isinf(_cast(scene, above, np.broadcast_to(_LIGHT, above.shape))["t_hit"])
    halfway = _LIGHT - directions[hit]
    halfway /= np.linalg.norm(halfway, axis=1, keepdims=True)
    diffuse = lit * np.maximum(normals @ _LIGHT, 0.0)
    ambient = 0.33 + 0.15 * normals[:, 2]
    highlight = lit * gloss * np.maximum(np.sum(normals * halfway, axis=1), 0.0) ** shininess
    result = np.zeros((len(origins), 4))
    result[hit, :3] = np.minimum(colour * (ambient + 0.75 * diffuse)[:, None] + highlight[:, None], 1.0)
    result[hit, 3] = 1.0
    return result


def _render(scene: _Scene, pose: Array, size: int) -> NDArray[np.uint8]:
    """Image from an OpenGL camera-to-world pose, [4, 4].

    Returns:
        RGBA with straight (not premultiplied) colour, [size, size, 4].
    """
    fine = size * _SUPERSAMPLING
    steps = ((np.arange(fine) + 0.5) / fine * 2.0 - 1.0) * math.tan(CAMERA_ANGLE_X / 2.0)
    right, down = np.meshgrid(steps, steps)
    directions = np.stack([right, -down, -np.ones_like(right)], axis=-1).reshape(-1, 3) @ pose[:3, :3].T
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    samples = _shade(scene, np.broadcast_to(pose[:3, 3], directions.shape), directions)
    pixels = samples.reshape(size, _SUPERSAMPLING, size, _SUPERSAMPLING, 4).mean(axis=(1, 3))
    alpha = pixels[..., 3:]
    straight = (pixels[..., :3] / np.where(alpha > 0.0, alpha, 1.0)) ** (1.0 / 2.2)
    return np.round(255.0 * np.concatenate([straight, alpha], axis=-1)).astype(np.uint8)


# Cameras


def _spiral(count: int, phase: float) -> Array:
    """Cameras spread evenly over the upper hemisphere, all looking at the origin.

    Returns:
        OpenGL camera-to-world matrices, [count, 4, 4]: elevations from 5 to 80 degrees, azimuths from `phase` radians.
    """
    index = np.arange(count)
    low, high = np.sin(np.radians([5.0, 80.0]))
    height = low + (high - low) * (index + 0.5) / max(count, 1)
    flat = np.sqrt(1.0 - height**2)
    azimuth = phase + index * math.pi * (3.0 - math.sqrt(5.0))  # the golden angle
    back = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), height], axis=1)
    right = np.stack([-np.sin(azimuth), np.cos(azimuth), np.zeros(count)], axis=1)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :] = np.stack([right, np.cross(back, right), back, CAMERA_RADIUS * back], axis=-1)
    return poses


# Writing


def write_scene(
    folder: Path,
    train: int = 60,
    val: int = 4,
    test: int = 10,
    size: int = 100,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Render the scene and write it in the layout of nerfstudio's `blender-data`.

    The same arguments always give the same files.

    Args:
        folder: where to write. It must be empty or not exist.
        train: number of training views.
        val: number of validation views.
        test: number of test views.
        size: width and height of the images in pixels.
        progress: called after each image with the fraction done, in (0, 1].

    Raises:
        InputError: `folder` holds something already, or is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not an empty folder. Name a new folder for the scene, or empty this one.")
    scene = _build_scene()
    splits = {"train": _spiral(train, 0.0), "val": _spiral(val, 2.0), "test": _spiral(test, 4.0)}
    total, done = train + val + test, 0
    for split, poses in splits.items():
        (folder / split).mkdir(parents=True)
        for i, pose in enumerate(poses):
            imageio.imwrite(folder / split / f"r_{i}.png", _render(scene, pose, size))
            done += 1
            if progress is not None:
                progress(done / total)
        frames = [{"file_path": f"./{split}/r_{i}", "transform_matrix": pose.tolist()} for i, pose in enumerate(poses)]
        transforms = {"camera_angle_x": CAMERA_ANGLE_X, "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(transforms, indent=2) + "\n")
