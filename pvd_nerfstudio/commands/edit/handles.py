"""Handles in the scene: of the region that is edited, and of where it goes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import trimesh
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer
from nerfstudio.viewer.viewer_elements import ViewerControl
from viser.transforms import SO3

REGION, TARGET = "region", "target"
COLORS = {REGION: (255, 80, 32), TARGET: (32, 200, 255)}
UP = np.array([0.0, 0.0, 1.0])
PLANE = 2.0
"""Side of the square that stands for a plane."""


class Handles(ViewerControl):
    """Two of viser's transform controls, with outlines about them.

    Args:
        moved: called with what was moved, its middle, and its roll, pitch and yaw.
    """

    def __init__(self, moved: Callable[[str, list[float], list[float]], None]) -> None:
        self._moved = moved
        self._controls: dict[str, Any] = {}
        self._ready: Callable[[], None] = lambda: None

    def when_ready(self, do: Callable[[], None]) -> None:
        """Have something done once there is a viewer."""
        self._ready = do

    def _setup(self, viewer: Viewer) -> None:
        """Called by the viewer when it is made."""
        super()._setup(viewer)
        for name in COLORS:
            control = viewer.viser_server.scene.add_transform_controls(
                f"/edits/{name}", scale=1.5, line_width=4.0, depth_test=False, visible=False
            )
            control.on_update(lambda _, name=name: self._tell(name))
            self._controls[name] = control
        self._ready()

    def _tell(self, name: str) -> None:
        control = self._controls[name]
        middle = [round(float(value) / VISER_NERFSTUDIO_SCALE_RATIO, 4) for value in control.position]
        lock: Any = self.viewer.train_lock
        with lock:
            self._moved(name, middle, angles_of(SO3(np.asarray(control.wxyz))))
        self.viewer._trigger_rerender()

    def show(self, name: str, middle: list[float], angles: list[float], outline: trimesh.Trimesh | None) -> None:
        """Put a handle somewhere.

        Args:
            name: of the handle.
            middle: in the scene.
            angles: roll, pitch and yaw.
            outline: about its middle, along its own axes.
        """
        if name not in self._controls:
            return
        control = self._controls[name]
        control.position = tuple(VISER_NERFSTUDIO_SCALE_RATIO * value for value in middle)
        control.wxyz, control.visible = SO3.from_rpy_radians(*angles).wxyz, True
        vertices = np.zeros((3, 3)) if outline is None else VISER_NERFSTUDIO_SCALE_RATIO * outline.vertices
        faces = np.array([[0, 1, 2]]) if outline is None else outline.faces
        scene = self.viewer.viser_server.scene
        scene.add_mesh_simple(
            f"/edits/{name}/outline", np.asarray(vertices), np.asarray(faces), COLORS[name], wireframe=True
        )

    def hide(self, name: str) -> None:
        """Show a handle no longer."""
        if name in self._controls:
            self._controls[name].visible = False


def outline_of(form: dict[str, Any]) -> trimesh.Trimesh | None:
    """A mesh of a region about its middle, along its own axes; None where it has no handle."""
    if form["region"] == "box":
        return trimesh.creation.box(form["size"])
    if form["region"] == "sphere":
        return trimesh.creation.icosphere(2, form["radius"])
    return trimesh.creation.box((PLANE, PLANE, 1e-3)) if form["region"] == "halfspace" else None


def angles_of(rotation: SO3) -> list[float]:
    """Roll, pitch and yaw of a rotation."""
    angles = rotation.as_rpy_radians()
    return [round(float(angle), 4) for angle in (angles.roll, angles.pitch, angles.yaw)]


def angles_to(normal: list[float]) -> list[float]:
    """Of a rotation that takes the upward axis to a normal."""
    towards = np.asarray(normal) / max(np.linalg.norm(normal), 1e-9)
    axis, cosine = np.cross(UP, towards), float(UP @ towards)
    if np.linalg.norm(axis) < 1e-6:  # noqa: PLR2004
        return [0.0 if cosine > 0 else float(np.pi), 0.0, 0.0]
    return angles_of(SO3.exp(axis / np.linalg.norm(axis) * np.arccos(cosine)))


def normal_of(angles: list[float]) -> list[float]:
    """Where a rotation takes the upward axis."""
    return [round(float(value), 4) for value in SO3.from_rpy_radians(*angles).apply(UP)]
