"""Pseudo views, where the teacher knows its scene: around an object, in front of a scene, along a path.

Which of the three suits the real cameras is seen from them. None leaves the space in which they stood by more than a
margin.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Generator, Tensor

from pvd_nerfstudio.data.views import like, look_at
from pvd_nerfstudio.distillation.active.poses import perturbed
from pvd_nerfstudio.edits.place import Motion

Kind = Literal["around", "front", "path"]
WORDS: dict[Kind, str] = {"around": "around the scene", "front": "in front of it", "path": "along the cameras' path"}
DEGREES = 9.0
"""By which pseudo cameras in front of a scene and along a path are turned at most, about each axis (PVD, 4.1)."""
FRONT = math.cos(math.radians(60))
"""Cosine of the angle between an optical axis and their mean; all nearer than that: a scene seen from the front."""
AZIMUTH = 0.2
"""Standard deviation of the azimuths of pseudo cameras about those of real ones, in radians."""
AXIS = math.cos(math.radians(20))
"""Cosine of the angle within which the mean of the cameras' up is taken for an axis of the world."""
NEIGHBOURS = 3
"""Cameras towards which one may go along a path."""
SAME_DISTANCE = 0.5
"""Cameras around an object differ less in their distance from it, as a share of the mean (5th to 95th percentile)."""


class PseudoViews:
    """Makes views that look like the real ones.

    Args:
        cameras: the real ones.
        kind: how; None: what suits them.
        margin: how far pseudo cameras may leave the real ones' space, as a share of its extent.
        motions: of what edits have brought elsewhere, which pseudo cameras move along with by turns.
    """

    def __init__(
        self, cameras: Cameras, kind: Kind | None = None, margin: float = 0.1, motions: Sequence[Motion] = ()
    ) -> None:
        self._cameras, self._motions = cameras, motions
        self.kind: Kind = kind or kind_of(cameras)
        make = {"around": Around, "front": Front, "path": Path}[self.kind]
        self._draw = make(cameras.camera_to_worlds, margin)

    @property
    def words(self) -> str:
        """Where they are, in words."""
        return WORDS[self.kind]

    def __call__(self, count: int, generator: Generator) -> Cameras:
        """Some of them; intrinsics are the first camera's."""
        poses = self._draw(count, generator)
        for number, motion in enumerate(self._motions):
            turn = slice(number + 1, None, len(self._motions) + 1)
            poses[turn] = motion.carried(poses[turn])
        return like(self._cameras, poses)


def kind_of(cameras: Cameras) -> Kind:
    """Which pseudo views suit the cameras.

    `front`: all look the same way. `around`: they look inwards at one thing, from all alike far. `path`: anything else,
    and cameras that see more than what lies before them (fisheyes, panoramas): of these only the positions tell.
    """
    if (cameras.camera_type != CameraType.PERSPECTIVE.value).any():
        return "path"
    poses = cameras.camera_to_worlds
    axes = -poses[:, :, 2]
    mean = torch.nn.functional.normalize(axes.mean(dim=0), dim=0)
    if (axes @ mean).min() > FRONT:
        return "front"
    towards = look_at_point(poses) - poses[:, :, 3]
    distance = towards.norm(dim=-1)
    inwards = (axes * towards).sum(dim=-1) / distance.clamp_min(1e-9)
    near, far = torch.quantile(distance, torch.tensor([0.05, 0.95], device=distance.device))
    if inwards.quantile(0.05) > math.cos(math.radians(30)) and far - near < SAME_DISTANCE * distance.mean():
        return "around"
    return "path"


class Around:
    """On the shell that the real cameras stand on, looking where they look (PVD, section 4.1).

    Radius and elevation are uniform between the 5th and the 95th percentile of the real ones. The azimuth is one of
    theirs and up to a fifth of a radian more or less, but no more than the margin of the arc that they stand on.
    """

    def __init__(self, poses: Float[Tensor, "views 3 4"], margin: float) -> None:
        self._frame = upright(poses)
        poses = self._frame @ poses
        self._centre = look_at_point(poses)
        offset = poses[:, :, 3] - self._centre
        radius = offset.norm(dim=-1)
        sine = (offset[:, 2] / radius).clamp(-1, 1)
        ends = torch.tensor([0.05, 0.95], device=poses.device)
        self._radii, self._sines = torch.quantile(radius, ends), torch.quantile(sine, ends)
        self._azimuth = torch.atan2(offset[:, 1], offset[:, 0])
        self._limit = margin * arc_of(self._azimuth)

    def __call__(self, count: int, generator: Generator) -> Float[Tensor, "count 3 4"]:
        """Poses, drawn anew."""
        device = self._azimuth.device
        radius, sine = (
            low + (high - low) * torch.rand(count, generator=generator, device=device)
            for low, high in (self._radii, self._sines)
        )
        angle = self._azimuth[torch.randint(len(self._azimuth), (count,), generator=generator, device=device)]
        deviate = AZIMUTH * torch.randn(count, generator=generator, device=device)
        angle = angle + deviate.clamp(-self._limit, self._limit)
        flat = (1 - sine.square()).sqrt()
        where = torch.stack([flat * angle.cos(), flat * angle.sin(), sine], dim=-1) * radius[:, None]
        return self._frame.T @ look_at(self._centre + where, self._centre)


class Front:
    """Between three of the real cameras and up to the margin beside, turned like one of them and a little further.

    The papers take the whole box around the cameras, grown by a tenth, whose corners no camera may have seen.
    """

    def __init__(self, poses: Float[Tensor, "views 3 4"], margin: float) -> None:
        self._poses = poses
        self._aside = margin * (poses[:, :, 3].amax(dim=0) - poses[:, :, 3].amin(dim=0))

    def __call__(self, count: int, generator: Generator) -> Float[Tensor, "count 3 4"]:
        """Poses, drawn anew."""
        poses = self._poses
        three = poses[torch.randint(len(poses), (count, 3), generator=generator, device=poses.device)]
        share = torch.rand(count, 3, generator=generator, device=poses.device).clamp_min(1e-6).log()
        share = share / share.sum(dim=-1, keepdim=True)  # uniform over the triangle
        aside = 2 * torch.rand(count, 3, generator=generator, device=poses.device) - 1
        where = (share[:, :, None] * three[..., 3]).sum(dim=1) + self._aside * aside
        return perturbed(torch.cat([three[:, 0, :, :3], where[:, :, None]], dim=-1), DEGREES, 0.0, generator)


class Path:
    """On the way from each camera to one of its neighbours, beside it by the margin at most, as a share of the way."""

    def __init__(self, poses: Float[Tensor, "views 3 4"], margin: float) -> None:
        self._poses, self._margin = poses, margin
        self._neighbours = nearest(poses[:, :, 3], max(1, min(NEIGHBOURS, len(poses) - 1)))

    def __call__(self, count: int, generator: Generator) -> Float[Tensor, "count 3 4"]:
        """Poses, drawn anew."""
        poses, neighbours = self._poses, self._neighbours
        first = torch.randint(len(poses), (count,), generator=generator, device=poses.device)
        rank = torch.randint(neighbours.shape[1], (count,), generator=generator, device=poses.device)
        one, other = poses[first], poses[neighbours[first, rank]]
        share = torch.rand(count, 1, generator=generator, device=poses.device)
        step = other[:, :, 3] - one[:, :, 3]
        aside = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, device=poses.device), dim=-1)
        beside = self._margin * share * (1 - share) * 4 * step.norm(dim=-1, keepdim=True) * aside
        where = one[:, :, 3] + share * step + beside
        nearer = torch.where(share[:, :, None] < 0.5, one[:, :, :3], other[:, :, :3])  # noqa: PLR2004
        return perturbed(torch.cat([nearer, where[:, :, None]], dim=-1), DEGREES, 0.0, generator)


def nearest(places: Float[Tensor, "points 3"], count: int, chunk: int = 1024) -> Int[Tensor, "points count"]:
    """Numbers of the points that are nearest to each, itself left out unless there is no other."""
    found = []
    for first in range(0, len(places), chunk):
        away = torch.cdist(places[first : first + chunk], places)
        away.diagonal(first).fill_(torch.inf)
        found.append(away.topk(count, largest=False).indices)
    return torch.cat(found)


def upright(poses: Float[Tensor, "views 3 4"]) -> Float[Tensor, "3 3"]:
    """Rotation of the world after which z is up: the cameras' mean, or the axis that it all but is."""
    up = torch.nn.functional.normalize(poses[:, :, 1].mean(dim=0), dim=0)
    axis = int(up.abs().argmax())
    if up[axis].abs() > AXIS:
        up = torch.nn.functional.one_hot(torch.tensor(axis), 3).to(up) * up[axis].sign()
    helper = torch.nn.functional.one_hot(up.abs().argmin(), 3).to(up)
    if up[2] == 1:
        helper = up.new_tensor([0.0, 1.0, 0.0])
    x = torch.nn.functional.normalize(torch.linalg.cross(helper, up), dim=0)
    return torch.stack([x, torch.linalg.cross(up, x), up])


def arc_of(azimuth: Float[Tensor, "views"]) -> float:
    """Length of the smallest arc that holds all angles, in radians."""
    ordered = azimuth.sort().values
    gaps = torch.cat([ordered.diff(), ordered[:1] + 2 * math.pi - ordered[-1:]])
    return 2 * math.pi - float(gaps.max())


def look_at_point(poses: Float[Tensor, "views 3 4"]) -> Float[Tensor, "3"]:
    """The point closest to all optical axes, in the least-squares sense."""
    origins, axes = poses[:, :, 3], -poses[:, :, 2]
    projectors = torch.eye(3, device=axes.device) - axes[:, :, None] * axes[:, None, :]
    # A faint pull to the middle of the cameras keeps parallel axes solvable.
    matrix = projectors.mean(dim=0) + 1e-4 * torch.eye(3, device=axes.device)
    right = (projectors @ origins[:, :, None]).mean(dim=0)[:, 0] + 1e-4 * origins.mean(dim=0)
    return torch.linalg.solve(matrix, right)
