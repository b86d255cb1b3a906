"""Images through any camera, of what can be drawn through pinholes alone: they are drawn on planes and bent."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.rendering.splatting import View, view_of

FROM_ONE_POINT = {
    *(CameraType.PERSPECTIVE.value, CameraType.FISHEYE.value, CameraType.FISHEYE624.value),
    CameraType.EQUIRECTANGULAR.value,
}
WIDEST = 1.5
"""Slope of rays against the optical axis up to which one plane holds them all."""
ROOM = 2
"""Pixels around what is needed of a plane."""
FACES = ((0, 0), (90, 0), (180, 0), (270, 0), (0, 90), (0, -90))
"""Yaw and pitch of the six planes around a camera, in degrees."""


def is_pinhole(camera: Cameras) -> bool:
    """Whether a camera bends no ray."""
    distortion = camera.distortion_params
    is_perspective = int(camera.camera_type.flatten()[0]) == CameraType.PERSPECTIVE.value
    return is_perspective and (distortion is None or not distortion.any())


def draw_through(
    camera: Cameras, draw: Callable[[View], Float[Tensor, "height width channels"]]
) -> Float[Tensor, "height width channels"]:
    """The image of one camera.

    Args:
        camera: with a lens of any kind.
        draw: the image of a pinhole camera.

    Raises:
        InputError: its rays start at many points.
    """
    middle = view_of(camera)
    if is_pinhole(camera):
        return draw(middle)
    if int(camera.camera_type.flatten()[0]) not in FROM_ONE_POINT:
        raise InputError("Gaussians are drawn through cameras whose rays start at one point; these do not.")
    rays = camera.generate_rays(camera_indices=0, keep_shape=True)
    flat = (rays.directions @ middle.rotation.T).view(-1, 3)
    image: Tensor | None = None
    left = torch.ones(len(flat), dtype=torch.bool, device=flat.device)
    focal = _focal(camera)
    for turn in _turns(flat):
        ahead = flat @ turn.T
        slopes = ahead[:, :2] / ahead[:, 2:].clamp_min(1e-6)
        here = left & (ahead[:, 2] > 0) & (slopes.abs().amax(dim=-1) <= WIDEST)
        if not here.any():
            continue
        low, high = slopes[here].amin(dim=0), slopes[here].amax(dim=0)
        size = (focal * (high - low)).ceil().long() + 2 * ROOM
        centre = ROOM - focal * low
        width, height = size.tolist()
        cx, cy = centre.tolist()
        plane = draw(View(turn @ middle.rotation, turn @ middle.translation, (focal, focal), (cx, cy), width, height))
        where = 2 * (focal * slopes[here] + centre) / size - 1
        found = torch.nn.functional.grid_sample(plane.permute(2, 0, 1)[None], where[None, None], align_corners=False)
        if image is None:
            image = plane.new_zeros(len(flat), plane.shape[-1])
        image[here] = found[0, :, 0].T
        left = left & ~here
    assert image is not None
    return image.view(*rays.shape, -1)


def _focal(camera: Cameras) -> float:
    """Pixels for a slope of one, so that nothing is lost in the middle."""
    if int(camera.camera_type.flatten()[0]) != CameraType.EQUIRECTANGULAR.value:
        return float(torch.maximum(camera.fx, camera.fy).flatten()[0])
    return float(camera.height.flatten()[0]) / 2


def _turns(towards: Float[Tensor, "rays 3"]) -> list[Float[Tensor, "3 3"]]:
    """How the planes are turned against the camera: one that looks where it looks, or all six."""
    ahead = (towards[:, 2] > 0) & (towards[:, :2].abs().amax(dim=-1) <= WIDEST * towards[:, 2])
    angles = FACES[:1] if ahead.all() else FACES
    return [turned(*angle).to(towards) for angle in angles]


def turned(yaw: float, pitch: float) -> Float[Tensor, "3 3"]:
    """A rotation about the second axis and then about the first, in degrees."""
    (c, s), (d, t) = ((math.cos(math.radians(angle)), math.sin(math.radians(angle))) for angle in (yaw, pitch))
    about_y = torch.tensor([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]])
    about_x = torch.tensor([[1.0, 0.0, 0.0], [0.0, d, -t], [0.0, t, d]])
    return about_x @ about_y
