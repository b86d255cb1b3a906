"""Pseudo views look like the real ones: where they stand, what they look at, what they see."""

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Generator

from pvd_nerfstudio.data import pseudo, views
from pvd_nerfstudio.distillation.active.poses import perturbed

CENTRE = torch.tensor([0.3, -0.2, 0.1])


def cameras(count: int = 40) -> Cameras:
    poses = views.sphere(count, 4.0, CENTRE)
    return Cameras(poses, fx=100.0, fy=110.0, cx=40.0, cy=30.0, width=80, height=60)


def test_the_point_that_all_cameras_look_at() -> None:
    torch.testing.assert_close(pseudo.look_at_point(cameras().camera_to_worlds), CENTRE, atol=1e-2, rtol=0)


def test_pseudo_views_stand_on_the_shell_of_the_real_ones_and_look_at_its_middle() -> None:
    real = cameras()
    made = pseudo.PseudoViews(real)(200, Generator().manual_seed(0))
    offset = made.camera_to_worlds[:, :, 3] - CENTRE
    torch.testing.assert_close(offset.norm(dim=-1), torch.full((200,), 4.0), atol=0.05, rtol=0)
    height = (real.camera_to_worlds[:, 2, 3] - CENTRE[2]).quantile(torch.tensor([0.05, 0.95]))
    assert (offset[:, 2] > height[0] - 0.05).all() and (offset[:, 2] < height[1] + 0.05).all()
    rotation = made.camera_to_worlds[:, :, :3]
    torch.testing.assert_close(rotation.transpose(1, 2) @ rotation, torch.eye(3).expand(200, 3, 3), atol=1e-5, rtol=0)
    assert (torch.linalg.det(rotation) > 0).all()
    facing = (-rotation[:, :, 2] * -offset).sum(dim=-1) / offset.norm(dim=-1)
    assert (facing > 0.99).all()
    assert (rotation[:, 2, 1] >= -1e-6).all()
    assert made.fx.unique().tolist() == [100.0] and made.height.unique().tolist() == [60]


def test_views_depend_on_the_generator_alone() -> None:
    first, second = (pseudo.PseudoViews(cameras())(5, Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first.camera_to_worlds, second.camera_to_worlds)


def test_rays_go_through_the_middles_of_random_pixels() -> None:
    real = cameras()
    rays = views.rays_of(real, 500, Generator().manual_seed(2))
    chosen, pixels = views.random_pixels(real, 500, Generator().manual_seed(2))
    assert len(chosen.unique()) == 40 and pixels[:, 0].max() < 60 and pixels[:, 1].max() < 80
    back = real.camera_to_worlds[chosen, :, :3].transpose(1, 2) @ rays.directions[..., None]
    column = -back[:, 0, 0] / back[:, 2, 0] * 100.0 + 40.0
    torch.testing.assert_close(column, pixels[:, 1] + 0.5, atol=1e-3, rtol=0)


def facing(places: torch.Tensor) -> Cameras:
    """Cameras that look along -z from these places, one of them turned a little."""
    poses = torch.cat([torch.eye(3).expand(len(places), 3, 3), places[:, :, None]], dim=-1).clone()
    poses[:1] = perturbed(poses[:1], 5.0, 0.0, Generator().manual_seed(0))
    return Cameras(poses, fx=100.0, fy=110.0, cx=40.0, cy=30.0, width=80, height=60)


def test_the_cameras_say_which_views_suit_them() -> None:
    assert pseudo.kind_of(cameras()) == "around"
    assert pseudo.kind_of(facing(torch.rand(20, 3))) == "front"
    street = torch.stack([torch.linspace(0, 20, 21), torch.zeros(21), torch.zeros(21)], dim=-1)
    poses = facing(street).camera_to_worlds
    poses[::2, :, [0, 2]] *= -1  # every other one looks back
    walk = Cameras(poses, fx=100.0, fy=110.0, cx=40.0, cy=30.0, width=80, height=60)
    assert pseudo.kind_of(walk) == "path"


def test_views_in_front_stay_in_the_cameras_box_and_look_their_way() -> None:
    real = facing(torch.rand(20, 3, generator=Generator().manual_seed(0)))
    low, high = (real.camera_to_worlds[:, :, 3].amin(dim=0), real.camera_to_worlds[:, :, 3].amax(dim=0))
    for margin in (0.0, 0.2):
        made = pseudo.PseudoViews(real, "front", margin)(500, Generator().manual_seed(0)).camera_to_worlds
        beyond = torch.maximum(low - made[:, :, 3], made[:, :, 3] - high) / (high - low)
        assert beyond.max() <= margin + 1e-5
        spread = made[:, :, 3].amax(dim=0) - made[:, :, 3].amin(dim=0)
        assert (spread > 0.8 * (high - low)).all()
        assert made[:, 2, 2].min() > 0.9


def test_views_around_stay_on_the_arc_and_upright_whatever_axis_is_up() -> None:
    angle = torch.linspace(0.0, 1.0, 30)
    ring = torch.stack([4 * angle.cos(), 4 * angle.sin(), torch.ones(30)], dim=-1)
    poses = views.look_at(CENTRE + ring, CENTRE)
    swap = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])  # now y is up
    made = swap.T @ pseudo.Around(swap @ poses, 0.1)(400, Generator().manual_seed(0))
    offset = made[:, :, 3] - CENTRE
    azimuth = torch.atan2(offset[:, 1], offset[:, 0])
    assert azimuth.min() > -0.11 and azimuth.max() < 1.11 and made[:, 2, 1].min() > 0.9
    torch.testing.assert_close(offset[:, 2], torch.ones(400), atol=1e-2, rtol=0)


def test_views_along_a_path_stay_near_it() -> None:
    street = torch.stack([torch.linspace(0, 20, 21), torch.zeros(21), torch.zeros(21)], dim=-1)
    made = pseudo.PseudoViews(facing(street), "path", 0.1)(500, Generator().manual_seed(0))
    where = made.camera_to_worlds[:, :, 3]
    assert where[:, 1:].norm(dim=-1).max() <= 0.3 + 1e-5  # of a way to the third neighbour
    assert -0.1 <= where[:, 0].min() and where[:, 0].max() <= 20.1
    assert len(where[:, 0].int().unique()) > 15


def test_neighbours_are_the_nearest_whatever_is_looked_at_together() -> None:
    places = torch.rand(50, 3, generator=Generator().manual_seed(0))
    away = (places[:, None] - places).norm(dim=-1).fill_diagonal_(torch.inf)
    expected = away.argsort(dim=1)[:, :3]
    for chunk in (7, 1024):
        assert torch.equal(pseudo.nearest(places, 3, chunk), expected)


@pytest.mark.parametrize("kind", [CameraType.EQUIRECTANGULAR, CameraType.FISHEYE, CameraType.VR180_L])
def test_cameras_that_see_all_around_are_followed_by_their_positions(kind: CameraType) -> None:
    """They all look the same way, which says nothing about where one may stand."""
    poses = torch.eye(4)[:3].repeat(20, 1, 1)
    poses[:, 0, 3] = torch.arange(20.0)
    real = Cameras(poses, 50.0, 50.0, 50.0, 25.0, width=100, height=50, camera_type=kind)
    seen = pseudo.PseudoViews(real)
    assert seen.kind == "path"
    made = seen(64, Generator().manual_seed(0))
    assert (made.camera_type == kind.value).all()
    places = made.camera_to_worlds[:, :, 3]
    assert places[:, 0].min() > -0.5 and places[:, 0].max() < 19.5 and places[:, 1:].abs().max() < 0.5
