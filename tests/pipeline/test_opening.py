"""What the viewer opens with."""

from pathlib import Path

import pytest
import torch
from helpers import open_old_run
from nerfstudio.cameras.cameras import Cameras

from pvd_nerfstudio.pipeline.opening import frustum_scale, looked_at, opening_view


def cameras(poses: torch.Tensor) -> Cameras:
    return Cameras(poses, fx=100.0, fy=100.0, cx=50.0, cy=50.0, width=100, height=100)


def looking(origins: torch.Tensor, towards: torch.Tensor) -> torch.Tensor:
    """Poses whose up is the world's."""
    backwards = torch.nn.functional.normalize(origins - towards, dim=-1)
    right = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor([0.0, 0, 1]).expand_as(origins), backwards))
    return torch.stack([right, torch.linalg.cross(backwards, right), backwards, origins], dim=-1)


def test_it_opens_at_the_view_that_shows_what_all_look_at() -> None:
    generator = torch.Generator().manual_seed(0)
    origins = torch.nn.functional.normalize(torch.randn(40, 3, generator=generator), dim=-1) * 4
    middle = torch.tensor([1.0, 0.5, -0.3])
    targets = middle + torch.randn(40, 3, generator=generator)
    view, distance = opening_view(cameras(looking(origins, targets)))
    towards = torch.nn.functional.normalize(middle - origins[view], dim=-1)
    off = torch.nn.functional.cosine_similarity(towards, targets[view] - origins[view], dim=-1).acos().rad2deg()
    assert off < 20 and 10 < -towards[2].asin().rad2deg() < 40
    assert distance == pytest.approx(float((middle - origins[view]).norm()), abs=0.5)


def test_cameras_in_a_row_open_in_their_middle() -> None:
    """Parallel axes meet nowhere."""
    origins = torch.stack([torch.linspace(-1, 1, 9), torch.zeros(9), torch.zeros(9)], dim=-1)
    poses = looking(origins, origins + torch.tensor([0.0, 1.0, 0.0]))
    middle = looked_at(poses[:, :, 3], -poses[:, :, 2])
    assert middle.isfinite().all() and middle[1] > 0
    assert opening_view(cameras(poses))[0] == 4


def test_drawn_cameras_are_seen_and_do_not_overlap(scene: Path) -> None:
    _, pipeline, _ = open_old_run("vm", scene)
    shown = pipeline.datamanager.train_dataset.cameras
    origins = shown.camera_to_worlds[:, :, 3]
    nearest = torch.cdist(origins, origins).fill_diagonal_(torch.inf).amin(dim=-1).median()
    half = float(shown.cy[0] / shown.fy[0])
    length = frustum_scale(shown) / (half * half / 3) ** (1 / 3)
    assert 0.3 < length / 10 / float(nearest) < 0.9
    assert frustum_scale(shown[:1]) > 0
