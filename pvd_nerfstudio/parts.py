"""Where the parts of the bank come from: the teacher's field, its pictures alone, or photographs.

Active learning decides here which views enter and which of their samples become points: a new part is shown to the
student too, once, and what it gets wrong is noted.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle
from torch import Generator, Tensor

from pvd_nerfstudio.data.datamanager import DistillationDataManager
from pvd_nerfstudio.data.views import Viewpoints
from pvd_nerfstudio.distillation.active.levels import ActiveLearning, PartNotes
from pvd_nerfstudio.distillation.bank import BankPart, RayTargets, seeded_generator
from pvd_nerfstudio.distillation.losses import pixel_errors
from pvd_nerfstudio.distillation.stages import DistillationConfig
from pvd_nerfstudio.rendering.compositing import accumulate, render_weights
from pvd_nerfstudio.student.fields.base import to_density
from pvd_nerfstudio.student.model import StudentModel
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.teacher.pixels import ask_for_pixels
from pvd_nerfstudio.teacher.targets import Rendered, SharedSamples, ask, keep

RAYS_OF_A_VIEW = 4
"""Fewer say too little about a view."""


@dataclass
class Attempt:
    """The student on the rays of a part that it has not learned from yet."""

    weights: Float[Tensor, "samples 1"]
    errors: Float[Tensor, "rays"]


class PartSource:
    """Makes the parts.

    Args:
        teacher: who is asked; None: photographs are read.
        student: who learns.
        data: gives views.
        method: sizes of a part.
        active: what the levels know.
        seed: of the run.
    """

    def __init__(
        self,
        teacher: FrozenTeacher | None,
        student: StudentModel,
        data: DistillationDataManager,
        method: DistillationConfig,
        active: ActiveLearning,
        seed: int,
    ) -> None:
        self._teacher, self._student, self._data = teacher, student, data
        self._method, self._active, self._seed = method, active, seed
        self._first = method.first_parts

    def __call__(self, number: int, slot: int, generator: Generator) -> BankPart:
        """The part of a number, for a slot of the bank."""
        notes, attempt = self._active.notes(slot, number), None
        rays_per_part = self._method.rays_per_part
        if notes is None:
            notes, new = PartNotes(number, self._hard_poses(number)), True
        else:
            new = False
        if self._teacher is None:
            part = self._read_photographs(generator)
        elif not self._teacher.has_density:
            part = ask_for_pixels(self._teacher, self._shared, self._data.draw_views, rays_per_part, generator)
        else:
            views = self._data.viewpoints(notes.poses, generator)
            rays, rendered = ask(self._teacher, self._shared, views.rays, rays_per_part, generator)
            attempt = self._attempt(rendered) if new and number >= self._first else None
            chosen = self._choose(rendered, attempt, notes, generator)
            part = keep(rays, rendered, chosen, self._shared.step_size, self._method.feature_weight > 0)
            if attempt is not None:
                self._offer(views, rays, attempt)
        if new:
            self._active.note(slot, notes)
            errors = None if attempt is None else attempt.errors
            self._active.entered(slot * rays_per_part, (slot + 1) * rays_per_part, errors)
        return part

    @property
    def _shared(self) -> SharedSamples:
        student = self._student
        return SharedSamples(student.grid, student.near, student.far, student.step_size)

    def _hard_poses(self, number: int) -> Float[Tensor, "views 3 4"]:
        generator = seeded_generator(self._student.device, self._seed + 2, number)
        return self._active.hard_poses(self._data.config.pseudo_views_per_part, generator)

    def _choose(self, rendered: Rendered, attempt: Attempt | None, notes: PartNotes, generator: Generator) -> Tensor:
        """Which samples become points; noted where the student had a say."""
        if notes.points is not None:
            return notes.points.to(generator.device).long()
        probability = self._active.point_probability(
            rendered.weights,
            None if attempt is None else attempt.weights,
            rendered.samples.ray_indices,
            self._method.empty_share,
        )
        chosen = torch.multinomial(probability, self._method.points_per_part, replacement=True, generator=generator)
        if attempt is not None and self._active.config.points:
            notes.points = chosen.int().cpu()
        return chosen

    @torch.no_grad()
    def _attempt(self, rendered: Rendered) -> Attempt | None:
        """The student's picture of the same samples, if a level asks for it."""
        if not self._active.config.any:
            return None
        field, samples, count = self._student.field, rendered.samples, len(rendered.rgb)
        log_density, feature = field.shallow(rendered.positions)
        index = samples.ray_indices
        weights = render_weights(to_density(log_density), samples.ends - samples.starts, index, count)
        rgb = accumulate(weights, field.deep(feature, rendered.directions), index, count)
        opacity = accumulate(weights, None, index, count)
        return Attempt(weights, pixel_errors(rgb, opacity, rendered.rgb, rendered.opacity))

    def _offer(self, views: Viewpoints, rays: RayBundle, attempt: Attempt) -> None:
        """Tell the pool of poses how the views of a part came out."""
        if not self._active.config.poses:
            return
        assert rays.camera_indices is not None
        index, poses = rays.camera_indices[:, 0].cpu(), views.poses
        count = torch.bincount(index, minlength=len(poses))
        errors = torch.bincount(index, attempt.errors.cpu(), minlength=len(poses)) / count.clamp_min(1)
        enough = count >= RAYS_OF_A_VIEW
        self._active.poses.offer(poses.cpu()[enough], errors[enough].float())

    def _read_photographs(self, generator: Generator) -> BankPart:
        """Pixels of photographs in place of the teacher's; without an alpha channel all are opaque."""
        rays, pixels = self._data.draw_pixels(self._method.rays_per_part, generator)
        opacity = pixels[:, 3:] if pixels.shape[1] > 3 else torch.ones_like(pixels[:, :1])  # noqa: PLR2004
        start, end = torch.zeros_like(opacity), torch.full_like(opacity, torch.inf)
        targets = RayTargets(rays.origins, rays.directions, pixels[:, :3] * opacity, opacity, start, end)
        return BankPart(targets, None)
