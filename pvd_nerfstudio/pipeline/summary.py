"""How a student does beside its teacher, told within seconds: some pixels of some evaluation views.

The whole views, with more metrics, are for `pvd report` and `ns-eval`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from nerfstudio.cameras.rays import RayBundle
from rich.table import Table
from torch import Tensor

from pvd_nerfstudio.data.dataset import mask_of, photographed
from pvd_nerfstudio.input.text import plain
from pvd_nerfstudio.pipeline.student import StudentPipeline
from pvd_nerfstudio.teacher.checkpoint import TeacherRun, weights_megabytes

VIEWS, PIXELS = 10, 1000
"""Evaluation views at most, and pixels of each."""
GOLDEN = 0.6180339887498949
"""Share of an image from one pixel to the next: spread evenly, however many."""


@dataclass
class Figures:
    """What is known of a teacher or a student."""

    name: str
    megabytes: float
    """Of its weights on disk."""
    squared: list[Tensor] = field(default_factory=list)
    """Mean squared error of each view against its photograph."""
    to_teacher: list[Tensor] = field(default_factory=list)
    """The same against the teacher."""
    rays: int = 0
    seconds: float = 0.0

    def draw(self, render: Callable[[], Tensor]) -> Tensor:
        """Render rays, and take the time of all but the first."""
        began = time.perf_counter()
        image = render()
        if image.is_cuda:
            torch.cuda.synchronize()
        if self.squared or self.to_teacher:
            self.rays, self.seconds = self.rays + len(image), self.seconds + time.perf_counter() - began
        return image

    @property
    def rays_per_second(self) -> float | None:
        """How fast it renders; None where it was not asked to, or once."""
        return self.rays / self.seconds if self.seconds else None

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
    teacher = None if comparison is None or not comparison.teacher.has_density else comparison.teacher
    if teacher is not None:
        name = f"teacher: {plain(teacher.run.config.method_name)}"
        figures.insert(0, Figures(name, weights_megabytes(teacher.run)))
    there = photographed(dataset)
    views = torch.tensor(there or list(range(len(dataset))))
    for view in views[torch.linspace(0, len(views) - 1, min(VIEWS, len(views))).long()].tolist() if len(views) else []:
        rays, pixels = _rays(pipeline, view)
        ours = figures[-1].draw(lambda rays=rays: student.get_outputs(rays)["rgb"])
        theirs = None
        if teacher is not None and comparison is not None:
            theirs = comparison.through_shared_samples(rays)
            if teacher.renders_natively:
                figures[0].draw(lambda rays=rays: teacher.render_rays(rays, chunk=len(rays)))
        if view in there:
            image = dataset.get_image_float32(view).to(ours)
            truth = student.renderer_rgb.blend_background(image[pixels[:, 0], pixels[:, 1]])
            figures[-1].squared.append((ours - truth).square().mean())
            if theirs is not None:
                figures[0].squared.append((theirs - truth).square().mean())
        if theirs is not None:
            figures[-1].to_teacher.append((ours - theirs).square().mean())
    return figures


def _rays(pipeline: StudentPipeline, view: int) -> tuple[RayBundle, Tensor]:
    """Rays through some pixels of an evaluation view that are not masked, and their rows and columns."""
    dataset = pipeline.datamanager.eval_dataset
    camera = dataset.cameras[view : view + 1].to("cpu")
    height, width = int(camera.height), int(camera.width)
    chosen = ((torch.arange(PIXELS, dtype=torch.float64) * GOLDEN % 1) * height * width).long()
    pixels = torch.stack([chosen // width, chosen % width], dim=-1)
    mask = mask_of(dataset, view)
    if mask is not None and mask[pixels[:, 0], pixels[:, 1]].any():
        pixels = pixels[mask[pixels[:, 0], pixels[:, 1]]]
    rays = camera.generate_rays(torch.zeros(len(pixels), 1).long(), pixels + 0.5)
    return rays.to(pipeline.student.device), pixels


def table_of(figures: list[Figures]) -> Table:
    """Teacher and student, one below the other."""
    table = Table(title=f"{PIXELS:,} pixels of up to {VIEWS} evaluation views")
    for name in ("", "PSNR", "PSNR to the teacher", "MB", "rays / s", "× faster"):
        table.add_column(name, justify="right" if name else "left")
    first = figures[0].rays_per_second
    for number, one in enumerate(figures):
        speed = one.rays_per_second
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
