"""Images through lenses: where each pixel looks is told by an image of directions."""

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from pvd_nerfstudio.data.views import look_at
from pvd_nerfstudio.rendering.lens import draw_through
from pvd_nerfstudio.rendering.splatting import View

POSE = look_at(torch.tensor([[1.0, -2.0, 0.7]]), torch.tensor([0.1, 0.2, 0.3]))
BENT = torch.tensor([[0.15, -0.05, 0.01, 0.0, 0.01, -0.02]])


def directions(view: View) -> Tensor:
    """Where the pixels of a pinhole camera look, in the world."""
    down, right = torch.meshgrid(torch.arange(view.height) + 0.5, torch.arange(view.width) + 0.5, indexing="ij")
    x, y = (right - view.centre[0]) / view.focal[0], (down - view.centre[1]) / view.focal[1]
    towards = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ view.rotation
    return torch.cat([torch.nn.functional.normalize(towards, dim=-1), view.position.expand_as(towards)], dim=-1)


@pytest.mark.parametrize(
    ("kind", "distortion", "focal", "size"),
    [
        (CameraType.PERSPECTIVE, None, 50.0, (60, 40)),
        (CameraType.PERSPECTIVE, BENT, 50.0, (60, 40)),
        (CameraType.FISHEYE, torch.zeros(1, 6), 25.0, (80, 80)),
        (CameraType.EQUIRECTANGULAR, None, 100.0, (160, 80)),
    ],
)
def test_each_pixel_looks_where_nerfstudio_says(
    kind: CameraType, distortion: Tensor | None, focal: float, size: tuple[int, int]
) -> None:
    width, height = size
    camera = Cameras(
        POSE, focal, focal, width / 2 + 1, height / 2, width, height, distortion_params=distortion, camera_type=kind
    )
    image = draw_through(camera, directions)
    rays = camera.generate_rays(camera_indices=0, keep_shape=True)
    assert image.shape == (height, width, 6)
    torch.testing.assert_close(image[..., :3], rays.directions, atol=2e-3, rtol=0)
    torch.testing.assert_close(image[..., 3:], rays.origins, atol=1e-4, rtol=0)
