"""One training step: the bank is brought up to date, the stage says what is drawn, the student's answer is compared.

The whole method in one page (PVD, section 3; PVD-AL, section 3.4); its terms are in `distillation/`.
"""

from collections import deque
from collections.abc import Callable
from math import log10
from typing import Any

import torch
from nerfstudio.cameras.rays import RayBundle
from torch import Generator, Tensor

from pvd_nerfstudio.distillation import losses
from pvd_nerfstudio.distillation.active.levels import ActiveLearning
from pvd_nerfstudio.distillation.active.rays import uniform
from pvd_nerfstudio.distillation.bank import PointTargets, RayTargets, TargetBank, seeded_generator
from pvd_nerfstudio.distillation.projection import FeatureProjection
from pvd_nerfstudio.distillation.stages import DistillationConfig, Stage
from pvd_nerfstudio.input.text import say
from pvd_nerfstudio.student.average import Averaged
from pvd_nerfstudio.student.model import StudentModel
from pvd_nerfstudio.teacher.samples import point_samples

STAGES = ("features", "points", "pixels")
COMPARED = 4096
"""Rays by which the last weights and their average are compared."""
LOOKED_AT = 1 << 14
"""Rays by which is found out what can be seen."""
RECENT = 100
"""Steps over which the panel's PSNR is a mean."""


class TrainingStep:
    """What happens in a step.

    Args:
        student: who learns.
        bank: the targets.
        method: stages, losses and sizes.
        stage: says which stage a step belongs to.
        active: which rays are drawn most; it hears how they came out.
        projection: maps the student's features to the teacher's where their widths differ.
        seed: of the run and the process.
    """

    def __init__(
        self,
        student: StudentModel,
        bank: TargetBank,
        method: DistillationConfig,
        stage: Callable[[int], Stage],
        active: ActiveLearning,
        projection: FeatureProjection | None,
        seed: int,
    ) -> None:
        self.bank, self.stage, self.projection = bank, stage, projection
        self._student, self._method, self._active, self._seed = student, method, active, seed
        self._drawn: tuple[Tensor, Tensor] | None = None
        self.pools: dict[str, float] = {}
        """What active learning says of its pools."""
        self.errors: deque[Tensor] = deque(maxlen=RECENT)
        """Mean squared errors of the uniform rays of the last steps, against the teacher."""

    def __call__(
        self, model: Callable[..., dict[str, Tensor]], step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        """Outputs of the student, terms of the loss, metrics.

        Args:
            model: the student, or the student in a wrapper for several processes (DDP).
            step: its number.
        """
        self.fill_bank(step)
        stage, method = self.stage(step), self._method
        generator = seeded_generator(self._student.device, self._seed + 1, step)
        outputs: dict[str, Tensor] = {}
        terms: dict[str, Tensor] = {}
        metrics: dict[str, Any] = {"stage": STAGES.index(stage.name)} | self.pools
        if stage.uses_points:
            points = self.bank.draw_points(method.points_per_step, generator)
            outputs = model(point_samples(points.positions, points.directions), color=stage.weights.color > 0)
            terms |= self._point_losses(outputs, points, stage)
        if stage.uses_rays:
            uniform, hard = self._active.draw_rays(method.rays_per_step, generator, self.bank.num_rays)
            drawn = torch.cat([uniform, hard])
            rays = self.bank.rays(drawn)
            outputs = model(self.ray_bundle(rays, generator))
            weight = self._active.ray_weights(drawn)
            terms["pixel_loss"], errors = self._pixel_loss(outputs, rays, stage, weight, generator)
            self._drawn = drawn, errors
            self.errors.append(errors[: len(uniform)].mean())
            metrics["psnr_to_teacher"] = -10 * torch.log10(self.errors[-1])
        return outputs, terms | self._student.field.regularization(generator), metrics

    def fill_bank(self, step: int) -> None:
        """Query the teacher for the chunks that the bank lacks at a step."""
        if self.bank.advance(step):
            self.pools = self._active.summary()

    def some_rays(self, step: int) -> RayBundle:
        """Rays out of the bank as it is at a step."""
        self.fill_bank(step)
        generator = seeded_generator(self._student.device, self._seed + 7, step)
        count = min(LOOKED_AT, self.bank.num_rays)
        return self.ray_bundle(self.bank.rays(uniform(count, self.bank.num_rays, generator)), generator)

    def learn_errors(self) -> None:
        """Active learning hears of a step when it is done: an interrupted one is repeated."""
        if self._drawn is not None:
            self._active.learn(*self._drawn)
            self._drawn = None

    @torch.no_grad()
    def keep_better(self) -> None:
        """Of the student's weights and their average, which it is done with then."""
        keep_better(self._student, self._error_of_some)

    def _error_of_some(self) -> float:
        generator = seeded_generator(self._student.device, self._seed + 3, 0)
        rays = self.bank.rays(uniform(COMPARED, self.bank.num_rays, generator))
        outputs = self._student(self.ray_bundle(rays, generator))
        return float(losses.pixel_errors(outputs["premultiplied"], outputs["opacity"], rays.rgb, rays.opacity).mean())

    def ray_bundle(self, rays: RayTargets, generator: Generator) -> RayBundle:
        """Rays over the part of them that the teacher shows; a share of them whole, lest things grow outside it.

        Their samples are shifted by a random share of a step.
        """
        student = self._student
        share, shift = torch.rand(2, len(rays.origins), 1, generator=generator, device=generator.device)
        whole = share < self._method.whole_rays
        start = rays.start.masked_fill(whole, 0.0).clamp_min(student.near)
        return RayBundle(
            origins=rays.origins,
            directions=rays.directions,
            pixel_area=torch.zeros_like(shift),
            nears=start + shift * student.train_spacing.length(start),
            fars=rays.end.masked_fill(whole, torch.inf).clamp_max(student.far),
        )

    def _point_losses(self, student: dict[str, Tensor], teacher: PointTargets, stage: Stage) -> dict[str, Tensor]:
        """Features, density and colour at points (PVD, eqs. 5 and 6)."""
        weights, norm = stage.weights, self._norm
        terms: dict[str, Tensor] = {}
        if weights.feature and teacher.feature is not None:
            feature = student["feature"] if self.projection is None else self.projection(student["feature"])
            terms["feature_loss"] = weights.feature * losses.feature_loss(feature, teacher.feature, norm)
        per_cell = self._student.grid.stretch(teacher.positions).log()
        density = student["log_density"] + per_cell, teacher.log_density + per_cell
        if weights.log_density:
            terms["log_density_loss"] = weights.log_density * losses.log_density_loss(*density, norm)
        if weights.opacity:
            step_size = self._student.spacing.step_size / self._student.grid.scale
            terms["opacity_loss"] = weights.opacity * losses.opacity_loss(*density, step_size, norm)
        if weights.color:
            terms["color_loss"] = weights.color * losses.color_loss(student["rgb"], teacher.rgb, teacher.weight, norm)
        return terms

    def _pixel_loss(
        self,
        student: dict[str, Tensor],
        teacher: RayTargets,
        stage: Stage,
        weight: Tensor | None,
        generator: Generator,
    ) -> tuple[Tensor, Tensor]:
        """The loss on pixels (PVD, eq. 7) over random backgrounds, and the error of each."""
        background = torch.rand(len(teacher.rgb), 3, generator=generator, device=generator.device)
        pair = student["premultiplied"], student["opacity"], teacher.rgb, teacher.opacity
        loss = losses.pixel_loss(*pair, background, self._norm, weight)
        with torch.no_grad():
            errors = losses.pixel_errors(*pair)
        return stage.weights.pixel * loss, errors

    @property
    def _norm(self) -> losses.Norm:
        norm = self._method.norm
        assert norm != "preset"
        return norm


def keep_better(student: Averaged, error: Callable[[], float]) -> None:
    """Of a student's weights and their average, by their error against the teacher; the log says which.

    Args:
        student: has an average, and is done with it then.
        error: mean squared error of the weights that it has now.
    """
    errors = []
    for _ in range(2):
        errors.append(error())
        student.swap_average()
    if errors[1] < errors[0]:
        student.swap_average()
    student.drop_average()
    last, average = (-10 * log10(max(one, 1e-10)) for one in errors)
    which = "their average is" if errors[1] < errors[0] else "the last weights are"
    say(f"The last weights have {last:.2f} dB to the teacher, their average {average:.2f} dB: {which} kept.")
