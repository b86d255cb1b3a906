"""Made-up views look like the real ones: where they stand, what they look at, what they see."""

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Generator

from pvd_nerfstudio.data import views

CENTRE = torch.tensor([0.3, -0.2, 0.1])


def cameras(count: int = 40) -> Cameras:
    poses = views.sphere(count, 4.0, CENTRE)
    return Cameras(poses, fx=100.0, fy=110.0, cx=40.0, cy=30.0, width=80, height=60)


def test_the_point_that_all_cameras_look_at() -> None:
    torch.testing.assert_close(views.look_at_point(cameras()), CENTRE, atol=1e-2, rtol=0)


def test_made_up_views_stand_on_the_shell_of_the_real_ones_and_look_at_its_middle() -> None:
    real = cameras()
    made_up = views.around(real, 200, Generator().manual_seed(0))
    offset = made_up.camera_to_worlds[:, :, 3] - CENTRE
    torch.testing.assert_close(offset.norm(dim=-1), torch.full((200,), 4.0), atol=0.05, rtol=0)
    height = (real.camera_to_worlds[:, 2, 3] - CENTRE[2]).quantile(torch.tensor([0.05, 0.95]))
    assert (offset[:, 2] > height[0] - 0.05).all() and (offset[:, 2] < height[1] + 0.05).all()
    rotation = made_up.camera_to_worlds[:, :, :3]
    torch.testing.assert_close(rotation.transpose(1, 2) @ rotation, torch.eye(3).expand(200, 3, 3), atol=1e-5, rtol=0)
    assert (torch.linalg.det(rotation) > 0).all()
    facing = (-rotation[:, :, 2] * -offset).sum(dim=-1) / offset.norm(dim=-1)
    assert (facing > 0.99).all()
    assert (rotation[:, 2, 1] >= -1e-6).all()
    assert made_up.fx.unique().tolist() == [100.0] and made_up.height.unique().tolist() == [60]


def test_views_depend_on_the_generator_alone() -> None:
    first, second = (views.around(cameras(), 5, Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first.camera_to_worlds, second.camera_to_worlds)


def test_rays_go_through_the_middles_of_random_pixels() -> None:
    real = cameras()
    rays = views.rays_of(real, 500, Generator().manual_seed(2))
    chosen, pixels = views.random_pixels(real, 500, Generator().manual_seed(2))
    assert len(chosen.unique()) == 40 and pixels[:, 0].max() < 60 and pixels[:, 1].max() < 80
    back = real.camera_to_worlds[chosen, :, :3].transpose(1, 2) @ rays.directions[..., None]
    column = -back[:, 0, 0] / back[:, 2, 0] * 100.0 + 40.0
    torch.testing.assert_close(column, pixels[:, 1] + 0.5, atol=1e-3, rtol=0)
