"""How a student does beside its teacher, told within seconds: some pixels of some evaluation views.

The whole views, with more metrics, are for `pvd report` and `ns-eval`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from rich.table import Table
from torch import Tensor

from pvd_nerfstudio.data.dataset import mask_of, photographed
from pvd_nerfstudio.data.views import counted_pixels
from pvd_nerfstudio.input.text import plain
from pvd_nerfstudio.pipeline.comparison import Comparison
from pvd_nerfstudio.pipeline.student import StudentPipeline
from pvd_nerfstudio.rendering.pixels import num_pixels, rays_at
from pvd_nerfstudio.teacher.checkpoint import TeacherRun, weights_megabytes

VIEWS, PIXELS = 10, 1000
"""Evaluation views at most, and pixels of each."""


@dataclass
class Speed:
    """Rays rendered, and the seconds that it took."""

    rays: int = 0
    seconds: float = 0.0

    @property
    def per_second(self) -> float | None:
        """Rays per second; None where nothing was rendered."""
        return self.rays / self.seconds if self.seconds else None

    def take(self, draw: Callable[[], Tensor], rays: int) -> Tensor:
        """Take the time of a rendering of so many rays, whose result is pixels `[..., 3]`."""
        start = time.perf_counter()
        image = draw()
        if image.is_cuda:
            torch.cuda.synchronize(image.device)
        self.rays, self.seconds = self.rays + rays, self.seconds + time.perf_counter() - start
        return image


@dataclass
class Figures:
    """What is known of a teacher or a student."""

    name: str
    megabytes: float
    """Of its weights on disk."""
    speed: Speed = field(default_factory=Speed)
    squared: list[Tensor] = field(default_factory=list)
    """Mean squared error of each view against its photograph."""
    to_teacher: list[Tensor] = field(default_factory=list)
    """The same against the teacher."""

    @property
    def psnr(self) -> float | None:
        """Mean PSNR against the photographs; None where there are none."""
        return _mean_psnr(self.squared)

    @property
    def psnr_to_teacher(self) -> float | None:
        """Mean PSNR against the teacher; None for the teacher itself."""
        return _mean_psnr(self.to_teacher)


@torch.no_grad()
def summarize(pipeline: StudentPipeline, run: TeacherRun) -> list[Figures]:
    """Figures of the teacher, where one is at hand, and of the student.

    Args:
        pipeline: a student and its teacher; it is in evaluation mode afterwards.
        run: the student's run on disk.
    """
    student, comparison, dataset = pipeline.student, pipeline.comparison, pipeline.datamanager.eval_dataset
    pipeline.eval()
    figures = [Figures(f"student: {student.config.student}", weights_megabytes(run))]
    teacher = None if comparison is None else comparison.teacher
    if teacher is not None and not (teacher.has_density or teacher.is_drawn):  # whole views of it would take too long
        teacher = None
    if teacher is not None:
        name = f"teacher: {plain(teacher.run.config.method_name)}"
        figures.insert(0, Figures(name, weights_megabytes(teacher.run)))
    if not dataset:  # some data sets have no evaluation view, and other tools replace ours by nothing
        return figures
    there = photographed(dataset)
    views = torch.tensor(there or list(range(len(dataset))))
    for number, view in enumerate(views[torch.linspace(0, len(views) - 1, min(VIEWS, len(views))).long()].tolist()):
        if number == 1:  # both are warm by now
            for one in figures:
                one.speed = Speed()
        camera = dataset.cameras[view : view + 1].to(student.device)
        pixels = num_pixels(camera)
        chosen = torch.linspace(0, pixels - 1, min(PIXELS, pixels)).long().to(student.device)
        counted = torch.isin(chosen, counted_pixels(mask_of(dataset, view), pixels).to(chosen))
        rays = rays_at(camera, chosen)
        count = student.rays_for(len(chosen), camera)
        ours, theirs = figures[-1].speed.take(lambda c=camera, p=chosen, r=rays: student.pixels(c, p, r), count), None
        if teacher is not None and comparison is not None:
            theirs = _of_teacher(comparison, camera, rays, chosen, figures[0].speed)
            figures[-1].to_teacher.append((ours - theirs).square().mean())
        if view in there and counted.any():
            image = student.renderer_rgb.blend_background(dataset.get_image_float32(view).to(ours))
            truth = image.flatten(0, 1)[chosen]
            for one, image in ((figures[-1], ours), (figures[0], theirs)):
                if image is not None:
                    one.squared.append((image - truth)[counted].square().mean())
    return figures


def _of_teacher(comparison: Comparison, camera: Cameras, rays: RayBundle, chosen: Tensor, speed: Speed) -> Tensor:
    """The teacher's pixels on some rays of a view, and the time that it takes by itself."""
    teacher = comparison.teacher
    if teacher.is_drawn:
        return speed.take(lambda: comparison.render(camera), num_pixels(camera)).flatten(0, 1)[chosen]
    if teacher.renders_natively:
        speed.take(lambda: teacher.render_rays(rays, chunk=len(rays)), len(rays))
    return comparison.through_shared_samples(rays)


def table_of(figures: list[Figures]) -> Table:
    """Teacher and student, one below the other."""
    table = Table(title=f"{PIXELS:,} pixels of up to {VIEWS} evaluation views")
    for name in ("", "PSNR", "PSNR to the teacher", "MB", "rays / s", "× faster"):
        table.add_column(name, justify="right" if name else "left")
    first = figures[0].speed.per_second
    for number, one in enumerate(figures):
        speed = one.speed.per_second
        faster = speed / first if number and speed and first else None
        values = (
            (one.psnr, ".2f"),
            (one.psnr_to_teacher, ".2f"),
            (one.megabytes, ",.2f"),
            (speed, ",.0f"),
            (faster, ".1f"),
        )
        table.add_row(one.name, *("–" if value is None else f"{value:{form}}" for value, form in values))
    return table


def _mean_psnr(squared: list[Tensor]) -> float | None:
    return float((-10 * torch.stack(squared).clamp_min(1e-10).log10()).mean()) if squared else None
