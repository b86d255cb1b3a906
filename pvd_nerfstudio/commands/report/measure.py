"""A finished student beside its teacher and the ground truth: images, metrics and speed, view by view."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from pvd_nerfstudio.commands.report.figures import ComparedView
from pvd_nerfstudio.data.dataset import mask_of, photographed
from pvd_nerfstudio.pipeline.student import StudentPipeline
from pvd_nerfstudio.pipeline.summary import Speed
from pvd_nerfstudio.rendering.pixels import num_pixels, rays_at
from pvd_nerfstudio.student.metrics import image_metrics

TIMED_RAYS = 4096
"""Rays of each view but the first that both render to take their time, in one go."""


@dataclass
class Measured:
    """What was seen of some views."""

    views: list[int] = field(default_factory=list)
    """Their numbers among the evaluation views."""
    compared: list[ComparedView] = field(default_factory=list)
    metrics: list[dict[str, dict[str, float]]] = field(default_factory=list)
    """For each view: `student` and `teacher` against the ground truth, `between` student and teacher."""
    student_speed: Speed = field(default_factory=Speed)
    teacher_speed: Speed = field(default_factory=Speed)
    """With its own samples, where it can; else with the student's."""

    def mean(self, pair: str) -> dict[str, float]:
        """Means of a pair's metrics over the views; empty where there are none."""
        rows = [one[pair] for one in self.metrics if pair in one]
        return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]} if rows else {}

    @property
    def ranked(self) -> list[int]:
        """Positions in the lists, the best view first: by PSNR against the ground truth, or else the teacher."""
        pair = "student" if "student" in self.metrics[0] else "between"
        return sorted(range(len(self.metrics)), key=lambda number: -self.metrics[number][pair]["psnr"])


@torch.no_grad()
def measure(pipeline: StudentPipeline, count: int) -> Iterator[tuple[float, Measured]]:
    """Look at evaluation views, evenly spread.

    Args:
        pipeline: the finished run, with the teacher beside it or without.
        count: of views; 0 for all.

    Yields:
        The share that is done, and what was seen until then.
    """
    dataset: Any = pipeline.datamanager.eval_dataset
    student, comparison, measured = pipeline.student, pipeline.comparison, Measured()
    there = photographed(dataset) or list(range(len(dataset)))
    count = min(count or len(there), len(there))
    student.eval()
    student.beside = None
    for number in torch.linspace(0, len(there) - 1, count).round().long().unique().tolist():
        view = there[number]
        camera = dataset.cameras[view : view + 1].to(pipeline.device)
        measured.views.append(view)
        own = student.get_outputs_for_camera(camera)["rgb"]
        theirs = None if comparison is None else comparison.render(camera)
        if measured.metrics or count == 1:  # both are warm by now
            _take_times(pipeline, camera, measured)
        truth = None
        if view in photographed(dataset):
            truth = student.renderer_rgb.blend_background(dataset.get_image_float32(view).to(own))
        mask = mask_of(dataset, view)
        pairs = {
            "student": (own, truth, mask),
            "teacher": (theirs, truth, mask),
            "between": (own, theirs, None),
        }
        measured.metrics.append(
            {name: image_metrics(a, b, m) for name, (a, b, m) in pairs.items() if a is not None and b is not None}
        )
        measured.compared.append(ComparedView(_cpu(own), _cpu(theirs), _cpu(truth)))
        yield len(measured.views) / count, measured


def _take_times(pipeline: StudentPipeline, camera: Cameras, measured: Measured) -> None:
    """Both render the same rays."""
    student, comparison = pipeline.student, pipeline.comparison
    total = num_pixels(camera)
    count = min(TIMED_RAYS, total)
    chosen = torch.linspace(0, total - 1, count, device=camera.device).long()
    rays = rays_at(camera, chosen)
    measured.student_speed.take(lambda: student.pixels(camera, chosen, rays), student.rays_for(count, camera))
    if comparison is None:
        return
    teacher = comparison.teacher
    if teacher.shows_views:
        measured.teacher_speed.take(lambda: teacher.render(camera), total)
    elif teacher.renders_natively:
        measured.teacher_speed.take(lambda: teacher.render_rays(rays, chunk=count), count)
    else:
        measured.teacher_speed.take(lambda: comparison.render(camera), total)


def _cpu(image: Tensor | None) -> Any:
    return None if image is None else image.half().cpu()
