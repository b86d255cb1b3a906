"""How faithful is a student? Against its teacher, on made-up views that were never in the bank.

Test photographs cannot say: there the teacher's own errors, which a good student shares, hide all others.
"""

from dataclasses import dataclass

import torch
from torch import Generator

from benchmarks.timed import WORST
from pvd_nerfstudio.data.views import rays_of
from pvd_nerfstudio.pipeline import DistillationPipeline
from pvd_nerfstudio.pipeline.handover import shared_samples
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.teacher.pixels import show
from pvd_nerfstudio.teacher.targets import render_teacher

SEED = 10**9
"""Of the views; no chunk of a bank has it."""
VIEWS, PIXELS = 100, 600


@dataclass
class Fidelity:
    """A student against its teacher."""

    mean: float
    """PSNR, mean over the views."""
    worst: float
    """PSNR, mean over the tenth of the views that came out worst."""
    p99: float
    """Root of the squared error of a pixel, which one in a hundred exceeds."""


@torch.no_grad()
def fidelity(pipeline: DistillationPipeline, teacher: FrozenTeacher) -> Fidelity:
    """Both render the same rays, through the same samples where the teacher can, over the student's background."""
    student, generator = pipeline.student, Generator(device=pipeline.student.device).manual_seed(SEED)
    views = pipeline.datamanager.pseudo_views(VIEWS, generator)
    student.eval()
    errors = []
    for view in range(VIEWS):
        camera = views[view : view + 1]
        rays = rays_of(camera, PIXELS, generator)
        row, column = rays.metadata["pixels"].unbind(dim=-1)
        chosen = row * int(camera.width) + column
        if teacher.shows_views:
            theirs = show(teacher, camera, student.renderer_rgb, student.grid.contracted).flatten(0, 1)[chosen]
        else:
            theirs = render_teacher(teacher, shared_samples(student), rays, 0.0).over(student.renderer_rgb)
        ours = student.pixels(camera, chosen).clamp(0, 1)
        errors.append((ours - theirs.clamp(0, 1)).square().mean(dim=-1))
    student.train()
    squared = torch.stack(errors)
    psnr = (-10 * squared.mean(dim=-1).log10()).sort().values
    worst = psnr[: max(1, round(WORST * VIEWS))]
    return Fidelity(float(psnr.mean()), float(worst.mean()), float(squared.flatten().quantile(0.99).sqrt()))
