"""A film of teacher and student in one picture: a wiper goes to and fro between them while the camera sways."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from pvd_nerfstudio.data.views import like
from pvd_nerfstudio.pipeline.opening import looked_at, opening_view
from pvd_nerfstudio.pipeline.student import StudentPipeline

SWAY = 0.4
"""Radians that the camera turns to each side at most."""
LARGEST = 400
"""Pixels along the longer side at most."""
LINE = 0.006
"""Width of the wiper, as a share of the picture's."""


def wiped(teacher: Tensor, student: Tensor, share: float) -> Float[Tensor, "height width 3"]:
    """The teacher's picture left of a share of the width, the student's right of it, a white line between."""
    width = teacher.shape[1]
    place, half = round(share * width), max(1, round(LINE * width / 2))
    picture = torch.cat([teacher[:, :place], student[:, place:]], dim=1)
    picture[:, max(0, place - half) : place + half] = 1.0
    return picture


def path(cameras: Cameras, count: int) -> Cameras:
    """Cameras that sway about the training view that shows the scene best, and come back to where they began.

    Args:
        cameras: of the training.
        count: how many.
    """
    view, distance = opening_view(cameras)
    origins = cameras.camera_to_worlds[:, :, 3]
    middle = looked_at(origins.cpu(), -cameras.camera_to_worlds[:, :, 2].cpu()).to(origins)
    spread = float((origins - origins.mean(dim=0)).norm(dim=-1).mean())
    angles = min(SWAY, spread / max(distance, 1e-6)) * torch.sin(2 * math.pi * torch.arange(count) / count)
    turned = []
    for angle in angles.tolist():
        c, s = math.cos(angle), math.sin(angle)
        rotation = torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]).to(origins)
        pose = cameras.camera_to_worlds[view].clone()
        pose[:, :3] = rotation @ pose[:, :3]
        pose[:, 3] = middle + rotation @ (pose[:, 3] - middle)
        turned.append(pose)
    chosen = like(cameras[view : view + 1], torch.stack(turned))
    longest = max(int(chosen.width.max()), int(chosen.height.max()))
    if longest > LARGEST:
        chosen.rescale_output_resolution(LARGEST / longest)
    return chosen


@torch.no_grad()
def frames(pipeline: StudentPipeline, count: int) -> Iterator[Tensor]:
    """The pictures of the film.

    Args:
        pipeline: a student with its teacher beside it.
        count: how many.
    """
    student, comparison = pipeline.student, pipeline.comparison
    assert comparison is not None
    student.eval()
    cameras = path(pipeline.datamanager.train_dataset.cameras, count).to(student.device)
    for number in range(count):
        camera = cameras[number : number + 1]
        share = 0.5 + 0.45 * math.cos(2 * math.pi * number / count)
        yield wiped(comparison.render(camera), student.get_outputs_for_camera(camera)["rgb"], share).cpu()
