"""What the viewer opens with: a view that shows the scene, cameras large enough to be seen, images that come soon."""

import atexit
import math
from collections.abc import Callable
from typing import Any

import torch
import viser
import viser.transforms as vtf
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.viewer.render_state_machine import RenderStateMachine
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer
from nerfstudio.viewer.viewer_elements import ViewerControl
from torch import Tensor

from pvd_nerfstudio.input.text import say
from pvd_nerfstudio.rendering.turns import Turns
from pvd_nerfstudio.student.model import StudentModel

LENGTH = 0.6
"""Length of a drawn camera, as a share of the distance to its nearest neighbour."""
ELEVATION = math.radians(25)
"""From how high above the horizon a scene is best seen."""
UNSURE = 0.01
"""Weight of the guess at what all cameras look at, beside what their axes say of it."""
ON_A_CPU = 264, 12
"""Pixels along an image's longer side at first, and preview images a second, where there is no GPU."""
PATIENCE = 3.0
"""Seconds that an image in the making gets to end when the program does."""


class Opening(ViewerControl):
    """The viewer, once there is one, and how it begins.

    Args:
        student: who is looked at.
        cameras: gives the training cameras.
    """

    def __init__(self, student: StudentModel, cameras: Callable[[], Cameras]) -> None:
        self._student, self._cameras = student, cameras
        self._is_waiting = False
        self._machines: list[RenderStateMachine] = []

    def _setup(self, viewer: Viewer) -> None:
        """Called by the viewer when it is made, before it draws cameras."""
        super()._setup(viewer)
        if not isinstance(viewer.train_lock, Turns):  # nobody trains here, but buttons must not wait for an image
            viewer.train_lock = Turns()  # type: ignore[assignment]
        self._student.turns = viewer.train_lock  # type: ignore[assignment]
        cameras = self._cameras()
        if len(cameras) > 1 and viewer.config.camera_frustum_scale == ViewerConfig().camera_frustum_scale:
            viewer.config.camera_frustum_scale = frustum_scale(cameras)
        if self._student.device.type == "cpu":
            viewer.control_panel._max_res.value = ON_A_CPU[0]
        viewer.viser_server.on_client_connect(self._begin)
        atexit.register(self.stop)

    def wait(self) -> None:
        """Show no image before there is something to see."""
        self._is_waiting, self.viewer.ready = True, False

    def open(self) -> None:
        """Show images from now on."""
        self._is_waiting, self.viewer.ready = False, True
        for client in self.viewer.viser_server.get_clients().values():
            try:
                self._begin(client)
            except Exception as error:  # whatever a viewer's client does must not stop a training
                say(f"The viewer stays where it is: {type(error).__name__}: {error}", "yellow")

    def stop(self) -> None:
        """Let no image be in the making when Python ends: torch would bring it down with an abort."""
        for machine in self._machines:
            machine.running, machine.interrupt_render_flag = False, True
        for machine in self._machines:
            machine.join(PATIENCE)

    def _begin(self, client: viser.ClientHandle) -> None:
        machine = self.viewer.render_statemachines.get(client.client_id)
        if machine is None:  # it has gone already
            return
        self._machines = [one for one in self._machines if one.is_alive() and one is not machine] + [machine]
        if self._is_waiting:
            return
        if self._student.device.type == "cpu":
            machine.target_fps = ON_A_CPU[1]
        cameras = self._cameras()
        view, distance = opening_view(cameras)
        wxyz, position = viser_pose(cameras, view)
        forwards = vtf.SO3(wxyz).as_matrix()[:, 2]
        with client.atomic():
            if int(cameras.camera_type[view]) == CameraType.PERSPECTIVE.value:
                client.camera.fov = 2 * math.atan(float(cameras.cy[view] / cameras.fy[view]))
            # A step ahead of the camera, whose drawing would cover the scene.
            client.camera.position = position + 1.1 * _drawn_length(cameras) * forwards
            client.camera.look_at = position + max(distance, 0.1) * VISER_NERFSTUDIO_SCALE_RATIO * forwards
            client.camera.wxyz = wxyz


def opening_view(cameras: Cameras) -> tuple[int, float]:
    """The number of the training camera that shows the scene best, and how far what it shows is, in world units.

    It is the one that looks straight at what all look at, and from a bit above. z is up, as nerfstudio has it.
    """
    origins, forwards = cameras.camera_to_worlds[:, :, 3].cpu(), -cameras.camera_to_worlds[:, :, 2].cpu()
    middle = looked_at(origins, forwards)
    to_middle = middle - origins
    distance = to_middle.norm(dim=-1).clamp_min(1e-6)
    off = ((to_middle * forwards).sum(dim=-1) / distance).clamp(-1, 1).acos()
    elevation = (-to_middle[:, 2] / distance).clamp(-1, 1).asin()
    view = int((off + (elevation - ELEVATION).abs()).argmin())
    return view, float(distance[view])


def looked_at(origins: Float[Tensor, "views 3"], forwards: Float[Tensor, "views 3"]) -> Float[Tensor, "3"]:
    """The point that the optical axes of all cameras come closest to.

    Axes that are nearly parallel leave it open; then it is about as far in front of them as they are from each other.
    """
    spread = (origins - origins.mean(dim=0)).norm(dim=-1).mean()
    guess = (origins + spread * forwards).mean(dim=0)
    across = torch.eye(3) - forwards[:, :, None] * forwards[:, None, :]
    matrix = across.mean(dim=0) + UNSURE * torch.eye(3)
    return torch.linalg.solve(matrix, (across @ origins[:, :, None]).mean(dim=0)[:, 0] + UNSURE * guess)


def _drawn_length(cameras: Cameras) -> float:
    """Of a camera, in the viewer's units."""
    origins = cameras.camera_to_worlds[:, :, 3].cpu()
    some: Int[Tensor, "some"] = torch.linspace(0, len(origins) - 1, min(len(origins), 500)).long()
    apart = torch.cdist(origins[some], origins)
    nearest = torch.where(apart > 0, apart, math.inf).amin(dim=-1)
    typical = float(nearest[nearest < math.inf].median()) if (nearest < math.inf).any() else 0.0
    return LENGTH * typical * VISER_NERFSTUDIO_SCALE_RATIO


def frustum_scale(cameras: Cameras) -> float:
    """Scale at which viser, which gives frustums of all angles one volume, draws cameras that do not overlap."""
    half = float((cameras.cy / cameras.fy).median())
    aspect = float((cameras.width / cameras.height).median())
    length = _drawn_length(cameras) or VISER_NERFSTUDIO_SCALE_RATIO * ViewerConfig().camera_frustum_scale
    return length * (half * half * aspect / 3) ** (1 / 3)


def viser_pose(cameras: Cameras, view: int) -> tuple[Any, Any]:
    """Orientation and position of a camera as the viewer has them: it looks along +z and its world is larger."""
    pose = cameras.camera_to_worlds[view].cpu().numpy()
    turned = vtf.SO3.from_matrix(pose[:3, :3]) @ vtf.SO3.from_x_radians(math.pi)
    return turned.wxyz, pose[:3, 3] * VISER_NERFSTUDIO_SCALE_RATIO
