"""Who does what in a training step: the bank queries the teacher, the step draws from the bank, the stage weighs.

The whole method in one page; its parts are in `distillation/`.
"""

import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Generator, Tensor
from torch.nn import Parameter
from torch.nn.parallel import DistributedDataParallel

from pvd_nerfstudio.data.datamanager import DistillationDataManager
from pvd_nerfstudio.data.poses import readable
from pvd_nerfstudio.distillation import losses
from pvd_nerfstudio.distillation.active.levels import ActiveLearning, ActiveLearningConfig
from pvd_nerfstudio.distillation.bank import PointTargets, RayTargets, TargetBank, seeded_generator
from pvd_nerfstudio.distillation.projection import FeatureProjection
from pvd_nerfstudio.distillation.stages import LossWeights, Stage
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.pipeline.bank_source import ChunkSource
from pvd_nerfstudio.pipeline.config import DistillationPipelineConfig
from pvd_nerfstudio.pipeline.student import StudentPipeline
from pvd_nerfstudio.rendering.space import stretch
from pvd_nerfstudio.student.model import PointAnswers
from pvd_nerfstudio.teacher.adapters import point_samples
from pvd_nerfstudio.teacher.capabilities import capabilities_table
from pvd_nerfstudio.teacher.check import (
    check_frame,
    check_renderings,
    drop_unseen,
    fill_grid,
    keep_frame,
    occupied_region,
)
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.teacher.pixels import fill_grid_from_views
from pvd_nerfstudio.teacher.targets import SharedSamples

PANEL_EVERY = 10
"""Steps between two changes of what the viewer's panel says."""


class DistillationPipeline(StudentPipeline):
    """Training: distillation from the teacher. Everything else: an ordinary pipeline that knows no teacher."""

    config: DistillationPipelineConfig
    datamanager: DistillationDataManager

    def __init__(self, config: DistillationPipelineConfig, device: str, test_mode: Any = "val", **kwargs: Any) -> None:
        started, teacher = time.perf_counter(), None
        if test_mode == "val" and config.teacher is not None:
            data, orbit = config.datamanager, config.datamanager.orbit
            if data.data is not None:
                data.dataparser.data = Path(data.data)
            teacher = FrozenTeacher(find_run(config.teacher), device, data.dataparser.data)
            orbit.box = tuple(teacher.aabb.flatten().tolist())
            if orbit.region is None and readable(data.dataparser, orbit.size)[0] is None:
                orbit.look_at(occupied_region(teacher), teacher.space.contracted)
        super().__init__(config, device, test_mode=test_mode, **kwargs)
        self._started = started
        self.datamanager.keeps_alpha = not self.student.has_sky  # a sky is behind images' alpha too
        self._local_rank = kwargs.get("local_rank", 0)
        self._rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        self._seed = config.seed + 100003 * self._rank
        self._teacher = teacher
        self._bank: TargetBank | None = None
        self._is_over = False
        self._pools: dict[str, float] = {}
        self._errors: deque[Tensor] = deque(maxlen=100)
        self._came_out: tuple[Tensor, Tensor] | None = None
        self.projection: FeatureProjection | None = None
        self.active: ActiveLearning | None = None  # only training knows it
        if test_mode != "val":
            self.add_panel(None)
            return
        levels = config.active if teacher is not None else ActiveLearningConfig()
        self.add_panel(None if teacher is None else levels)
        capacity = (
            max(config.distillation.chunks, config.distillation.first_chunks) * config.distillation.rays_per_chunk
        )
        self.active = ActiveLearning(levels, capacity, device)
        if teacher is not None:
            self._hand_over(teacher)
            return
        if not self.datamanager.train_dataset.has_images:
            raise InputError(
                "Both the teacher and the training images are gone: there is nothing to learn from. Name a teacher "
                "with --teacher-checkpoint, or the place of the data set with --data."
            )
        CONSOLE.print("[yellow]No teacher: training goes on from the training images alone.")

    def _levels(self) -> ActiveLearning:
        """No property: the viewer reads them all, also where there is no training."""
        assert self.active is not None
        return self.active

    def get_train_loss_dict(self, step: int) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        """One step: bring the bank up to date, draw what the stage asks for, compare."""
        bank = self.bank_at(step)
        method = self.config.distillation
        stage = self.stage(step)
        generator = seeded_generator(self.student.device, self._seed + 1, step)
        outputs: dict[str, Tensor] = {}
        loss_dict: dict[str, Tensor] = {}
        metrics: dict[str, Any] = {"stage": ("features", "points", "pixels").index(stage.name)} | self._pools
        if stage.uses_points:
            points = bank.draw_points(method.points_per_step, generator)
            outputs = self._model(point_samples(points.positions, points.directions), color=stage.weights.color > 0)
            loss_dict |= self._point_losses(outputs, points, stage)
        if stage.uses_rays:
            uniform, hard = self._levels().draw_rays(method.rays_per_step, generator, bank.num_rays)
            chosen = torch.cat([uniform, hard])
            rays = bank.rays(chosen)
            outputs = self._model(self._ray_bundle(rays, generator))
            loss_dict["pixel_loss"], errors = self._pixel_loss(outputs, rays, stage, generator)
            self._errors.append(errors[: len(uniform)].mean())
            metrics["psnr_teacher"] = -10 * torch.log10(self._errors[-1])
            self._came_out = chosen, errors
        loss_dict |= self.student.field.regularization(generator)
        return outputs, loss_dict, metrics

    def stage(self, step: int) -> Stage:
        """The stage of a step; pixels alone for a teacher without density and for a run resumed on training images."""
        if self._teacher is None or not self._teacher.has_density:
            return Stage("pixels", LossWeights(pixel=1.0))
        return self.config.distillation.stage(step / self.config.steps)

    def _norm(self) -> losses.Norm:
        norm = self.config.distillation.norm
        assert norm != "preset"
        return norm

    def _point_losses(self, student: dict[str, Tensor], teacher: PointTargets, stage: Stage) -> dict[str, Tensor]:
        weights, norm = stage.weights, self._norm()
        terms: dict[str, Tensor] = {}
        if weights.feature and teacher.feature is not None:
            feature = student["feature"] if self.projection is None else self.projection(student["feature"])
            terms["feature_loss"] = weights.feature * losses.feature_loss(feature, teacher.feature, norm)
        per_cell = stretch(teacher.positions, self.student.grid.contracted).log()
        density = student["log_density"] + per_cell, teacher.log_density + per_cell
        if weights.log_density:
            terms["log_density_loss"] = weights.log_density * losses.log_density_loss(*density, norm)
        if weights.opacity:
            step_size = self.student.spacing.step_size
            terms["opacity_loss"] = weights.opacity * losses.opacity_loss(*density, step_size, norm)
        if weights.color:
            terms["color_loss"] = weights.color * losses.color_loss(student["rgb"], teacher.rgb, teacher.weight, norm)
        return terms

    def _pixel_loss(
        self, student: dict[str, Tensor], teacher: RayTargets, stage: Stage, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        background = torch.rand(len(teacher.rgb), 3, generator=generator, device=generator.device)
        rgb, opacity = student["premultiplied"], student["opacity"]
        norm = self._norm()
        loss = losses.pixel_loss(rgb, opacity, teacher.rgb, teacher.opacity, background, norm)
        with torch.no_grad():
            errors = losses.pixel_errors(rgb, opacity, teacher.rgb, teacher.opacity)
        return stage.weights.pixel * loss, errors

    def _ray_bundle(self, rays: RayTargets, generator: Generator) -> RayBundle:
        """Rays over the part of them that the teacher shows; a share of them whole, lest things grow outside it.

        Their samples are shifted by a random share of a step.
        """
        student = self.student
        share, shift = torch.rand(2, len(rays.origins), 1, generator=generator, device=generator.device)
        whole = share < self.config.distillation.whole_rays
        start = rays.start.masked_fill(whole, 0.0).clamp_min(student.near)
        return RayBundle(
            origins=rays.origins,
            directions=rays.directions,
            pixel_area=torch.zeros_like(shift),
            nears=start + shift * student.train_spacing.length(start),
            fars=rays.end.masked_fill(whole, torch.inf).clamp_max(student.far),
        )

    def _hand_over(self, teacher: FrozenTeacher) -> None:
        """Check the teacher, and hand the student its occupancy grid and its colour head."""
        config, student, data = self.config, self.student, self.datamanager
        if config.distillation.training_images and not (data.train_dataset.has_images and teacher.has_density):
            lacking = (
                "a teacher whose field can be queried" if not teacher.has_density else "the training images, on disk"
            )
            raise InputError(f"--pipeline.distillation.training-images needs {lacking}. Leave it out.")
        if data.stands_in:
            keep_frame(teacher, data.train_dataparser_outputs)
        else:
            check_frame(teacher, data.train_dataparser_outputs)
        self._align_features(teacher)
        self._print_capabilities(teacher)
        student.see_from(data.train_cameras)
        if teacher.has_density:
            fill_grid(student.grid, teacher, student.spacing, config.threshold)
            if student.grid.contracted:
                drop_unseen(teacher, self._shared_samples, data.draw_rays, config.seed)
        else:
            CONSOLE.print("The teacher has no field that answers at points: its renderings alone are distilled.")
            if config.active.poses or config.active.points:
                CONSOLE.print("Active learning of poses and points needs such a field: both are off.")
                config.active.poses = config.active.points = False
                self.panel.show_levels()
            fill_grid_from_views(student.grid, teacher, data.draw_views)
        student.grow(0.0, teacher=self._point_answers)
        self._wrap()
        self._check_renderings(teacher)
        self.compare_with(teacher)
        if not data.eval_dataset.has_images:
            CONSOLE.print("[yellow]The data set's images are missing: evaluation is against the teacher.")
        if config.inherit_color_head:
            student.inherit_color_head(teacher.color_head())

    def _check_renderings(self, teacher: FrozenTeacher) -> None:
        check_renderings(teacher, self._shared_samples, self.datamanager.eval_dataset, self.student.renderer_rgb)

    def _print_capabilities(self, teacher: FrozenTeacher) -> None:
        method = self.config.distillation
        weights = {
            "features": method.feature_weight,
            "density": max(method.log_density_weight, method.opacity_weight),
            "colour": method.color_weight,
            "pixels": method.pixel_weight,
        }
        table = capabilities_table(
            teacher=teacher.run.config.method_name or "teacher",
            student=self.student.config.student,
            teacher_feature_dim=teacher.feature_dim,
            student_feature_dim=self._feature_dim,
            has_density=teacher.has_density,
            wanted=[name for name, weight in weights.items() if weight > 0],
        )
        CONSOLE.print(table)

    @property
    def _feature_dim(self) -> int | None:
        """Width of the student's feature vector; None where it has none."""
        return getattr(self.student.config.chosen, "feature_dim", None)

    def _align_features(self, teacher: FrozenTeacher) -> None:
        """Drop the feature loss where a side has no feature; where the widths differ, learn a projection.

        Raises:
            InputError: there is nothing to compare, but the user asks for the feature loss.
        """
        method, name = self.config.distillation, self.student.config.student
        theirs, ours = teacher.feature_dim, self._feature_dim
        if not (method.feature_weight or method.feature_end):
            return
        if theirs is not None and ours is not None:
            if theirs != ours:
                self.projection = FeatureProjection(ours, theirs, self.config.seed).to(self.student.device)
            return
        side = f"The {name} student" if theirs is not None else "This teacher"
        if method.insists_on_features:
            raise InputError(
                f"{side} has no feature vector, so there is no feature loss between the two. Leave out "
                "--pipeline.distillation.feature-weight and --pipeline.distillation.feature-end, or set both to 0."
            )
        CONSOLE.print(f"{side} has no feature vector: the feature stage is skipped.")
        method.feature_weight = method.feature_end = 0.0
        method.check()

    @property
    def _point_answers(self) -> PointAnswers | None:
        """What a field without any network starts from."""
        teacher = self._teacher
        if teacher is None or not teacher.has_density:
            return None

        def answer(positions: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
            return teacher.query_points(positions, directions, self.student.spacing.step_size)

        return answer

    def finish(self) -> None:
        """Throw away what only training needs: from now on checkpoints hold the student alone."""
        self.projection, self._is_over = None, True

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """nerfstudio's; active learning is in it as long as the run goes on."""
        state = super().state_dict(*args, **kwargs)
        over = self._is_over or self.active is None or not self.active.matters
        return {name: value for name, value in state.items() if not (over and name.startswith("active."))}

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """The student's, and the projection's where there is one."""
        groups = super().get_param_groups()
        return groups if self.projection is None else groups | {"projection": list(self.projection.parameters())}

    @property
    def _shared_samples(self) -> SharedSamples:
        """Samples from the camera on, as in nerfstudio's evaluation."""
        student = self.student
        return SharedSamples(student.grid, 0.0, student.far, student.spacing, student.has_sky)

    def bank_at(self, step: int) -> TargetBank:
        """The bank as it is at a step. It is made late: only after loading does a resumed run know its grid."""
        if self._bank is None:
            if step > 0:
                CONSOLE.print(f"Querying again what the bank held at step {step}.")
            method = self.config.distillation
            self._bank = TargetBank(
                source=self._source(),
                seed=self._seed,
                chunks=method.chunks,
                first_chunks=method.first_chunks,
                refresh_every=method.refresh_every,
                device=self.student.device,
            )
        if self._bank.advance(step):
            self._pools = self._levels().summary()
        return self._bank

    def _source(self) -> ChunkSource:
        """What the bank is filled from."""
        method, active = self.config.distillation, self._levels()
        return ChunkSource(self._teacher, self.student, self.datamanager, method, active, self._seed)

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """nerfstudio's; growth of the student before each step; at the end the teacher's share of the time."""
        optimizers = training_callback_attributes.optimizers
        grow = TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], partial(self._grow, optimizers))
        learn = TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], self._learn_errors)
        show = TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], self._show_progress)
        report = TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], self._report_time)
        return [*super().get_training_callbacks(training_callback_attributes), grow, learn, show, report]

    def _learn_errors(self, step: int) -> None:
        """Active learning hears of a step when it is done: an interrupted one is repeated."""
        del step
        if self._came_out is not None:
            self._levels().learn(*self._came_out)
            self._came_out = None

    def _show_progress(self, step: int) -> None:
        """What the viewer's panel says now."""
        done, total = step + 1, self.config.steps
        if self.panel.is_shown and (done % PANEL_EVERY == 0 or done == total):
            progress = f"{self.stage(step).name}, step {done:,} of {total:,}"
            errors = torch.stack(list(self._errors)) if self._errors else None
            self.panel.show({"Stage": progress}, errors, self._pools)

    def _grow(self, optimizers: Optimizers | None, step: int) -> None:
        """Give the student the size of this step."""
        assert optimizers is not None
        grew = self.student.grow(step / self.config.steps, optimizers.optimizers["fields"], self._point_answers)
        if grew:
            optimizers.parameters |= self.student.get_param_groups()
            self._wrap()

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """nerfstudio's; what is loaded may have another size."""
        super().load_pipeline(loaded_state, step)
        self._wrap()
        if self.active is None:
            return
        if self._teacher is None:
            self.active.config = ActiveLearningConfig()
        else:
            self.panel.show_levels()
        if self._teacher is None or self._rank > 0:  # what was saved is about the parts that the first process had
            self.active.clear()

    def _wrap(self) -> None:
        """Several processes (DDP) must wrap a student that has changed its size anew."""
        if self.world_size > 1:
            wrapped: Any = DistributedDataParallel(
                self.student, device_ids=[self._local_rank], find_unused_parameters=True
            )
            self._model = wrapped

    @property
    def teacher_seconds(self) -> float:
        """What querying the teacher has taken so far."""
        return 0.0 if self._teacher is None else self._teacher.seconds

    def _report_time(self, step: int) -> None:
        del step
        if self._teacher is not None:
            total, teacher = time.perf_counter() - self._started, self.teacher_seconds
            CONSOLE.print(f"The teacher took {teacher:.0f} s of {total:.0f} s ({teacher / total:.0%}).")
