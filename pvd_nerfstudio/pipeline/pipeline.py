"""nerfstudio's pipeline: while it trains, a teacher is distilled into the student; otherwise it knows no teacher.

What a training step does is in `step.py`, what comes before the first one in `handover.py`.
"""

import time
from typing import Any

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from pvd_nerfstudio.data.datamanager import DistillationDataManager
from pvd_nerfstudio.distillation.active.levels import ActiveLearning, ActiveLearningConfig
from pvd_nerfstudio.distillation.bank import Source, TargetBank, seeded_generator
from pvd_nerfstudio.distillation.projection import FeatureProjection
from pvd_nerfstudio.distillation.stages import LossWeights, Stage
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.text import say
from pvd_nerfstudio.pipeline.bank_source import ChunkSource
from pvd_nerfstudio.pipeline.config import DistillationPipelineConfig
from pvd_nerfstudio.pipeline.fit_step import fit_samples, fit_to_edits, fit_to_gpu
from pvd_nerfstudio.pipeline.handover import as_seen, compare_renderings, equip, load_teacher, meet, point_answers
from pvd_nerfstudio.pipeline.picture_source import PictureSource, picture_size, sow
from pvd_nerfstudio.pipeline.picture_step import PictureStep
from pvd_nerfstudio.pipeline.refinement import refine
from pvd_nerfstudio.pipeline.step import TrainingStep
from pvd_nerfstudio.pipeline.student import StudentPipeline
from pvd_nerfstudio.processes import rank
from pvd_nerfstudio.rendering.kernels import build_kernels
from pvd_nerfstudio.student.average import EVERY
from pvd_nerfstudio.student.fields.gaussians import GaussianField
from pvd_nerfstudio.student.fields.growth import pack
from pvd_nerfstudio.student.model import PointAnswers
from pvd_nerfstudio.student.splat import SplatModel
from pvd_nerfstudio.teacher.check import check_frame
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.teacher.occupancy import occupied_region

PANEL_EVERY = 10
"""Steps between two changes of what the viewer's panel says."""
PROJECTION = "projection."
"""Before the names of the projection's weights in a checkpoint."""


class DistillationPipeline(StudentPipeline):
    """Training: distillation from the teacher. Everything else: an ordinary pipeline that knows no teacher."""

    config: DistillationPipelineConfig
    datamanager: DistillationDataManager
    growing_seconds = 0.0
    """How long the student has taken to become larger, all in all."""

    def __init__(
        self,
        config: DistillationPipelineConfig,
        device: str,
        test_mode: Any = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: Any = None,
    ) -> None:
        # world_size=1: several processes wrap the student (DDP) once it has got its size, after the hand-over.
        super().__init__(config, device, test_mode=test_mode, local_rank=local_rank, grad_scaler=grad_scaler)
        self.world_size, self._local_rank = world_size, local_rank
        self._in_half = grad_scaler is not None and grad_scaler.is_enabled()
        self._seed = config.seed + 100003 * rank()
        self._teacher: FrozenTeacher | None = None
        self._optimizers: Any = None
        self._step: TrainingStep | PictureStep | None = None
        self._is_over, self._first_step = False, 0
        self._saved_projection: dict[str, Tensor] = {}
        self.projection: FeatureProjection | None = None
        self.active: ActiveLearning | None = None  # only training knows it
        if test_mode == "val":
            method = config.distillation
            capacity = max(method.chunks, method.first_chunks) * method.rays_per_chunk
            self.active = ActiveLearning(config.active, capacity, device)
        else:
            self.datamanager.say_what_is_missing()
        self.add_panel(config.active if test_mode == "val" and config.teacher is not None else None)

    def hand_over(self) -> TrainingStep | PictureStep:
        """What a training step does; before the first one teacher and student meet (`handover.py`).

        Raises:
            InputError: teacher, student and data do not fit.
        """
        if self._step is None:
            self._started = time.perf_counter()
            self._teacher = self._find_teacher()
            is_drawn = self._teacher is not None and self._teacher.is_drawn
            build_kernels(("nerfacc", "gsplat") if is_drawn else ("nerfacc",), self.student.device)
            if self._teacher is not None:
                self._place_orbit(self._teacher)
            self.datamanager.say_what_is_missing()
            self.datamanager.say_where_views_are()
            if self._teacher is None:
                self._go_on_without_a_teacher()
            else:
                self._meet(self._teacher)
            # A sky is behind the training images' alpha too.
            self.datamanager.keeps_alpha = not self.student.has_sky
            self._wrap()
            self._step = self._training_step()
        return self._step

    def get_train_loss_dict(self, step: int) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        """One step of the distillation: outputs, terms of the loss, metrics."""
        return self.hand_over()(self._model, step)

    def stage(self, step: int) -> Stage:
        """The stage of a step; pixels alone for a teacher without density, and where training images are all there is.

        Before the hand-over nobody knows.
        """
        if self._teacher is None or not self._teacher.has_density or isinstance(self.student, SplatModel):
            return Stage("pixels", LossWeights(pixel=1.0))
        return self.config.distillation.stage(step / self.config.steps)

    def bank_at(self, step: int) -> TargetBank:
        """The bank as it is at a step."""
        training = self.hand_over()
        training.fill_bank(step)
        return training.bank

    def _meet(self, teacher: FrozenTeacher) -> None:
        student, data, config = self.student, self.datamanager, self.config
        self.projection = meet(teacher, student, data, config)
        self._learn_projection()
        self.panel.show_levels()
        if self._first_step == 0:
            self._equip(teacher)
            if config.is_step_open:
                self._fit_step()
            if isinstance(student, SplatModel):
                sow(teacher, student, data, self._seed)
                self._learn_anew()
        if rank() == 0:
            compare_renderings(teacher, student, data)
        self.compare_with(teacher)
        if not data.has_eval_images and len(data.eval_dataset):
            why = (
                "No evaluation image shows the edited scene" if data.are_edited else "The evaluation images are missing"
            )
            say(f"{why}: evaluation is against the teacher.", "yellow")
        elif data.are_edited:
            say("Evaluation is against the edited teacher, and against images where no edit has changed them.")

    def look_at_teacher(self) -> FrozenTeacher:
        """The teacher, for one who only looks: the student has its space and its grid then, and learns nothing.

        Raises:
            InputError: teacher and data do not fit.
        """
        teacher = self._find_teacher()
        assert teacher is not None
        self._place_orbit(teacher)
        self.datamanager.say_what_is_missing()
        if not self.datamanager.stands_in:
            outputs, box = self.datamanager.train_dataparser_outputs, self.datamanager.frame_box
            check_frame(teacher, outputs, box)
        equip(teacher, self.student, self.datamanager, self.config, grow=lambda: None)
        return teacher

    def _find_teacher(self) -> FrozenTeacher | None:
        return load_teacher(self.config, self.device)

    def _equip(self, teacher: FrozenTeacher) -> None:
        equip(teacher, self.student, self.datamanager, self.config, grow=lambda: self._grow(0))

    def _fit_step(self) -> None:
        """How much a step takes on; config.yml has it then."""
        config, data = self.config, self.datamanager
        if config.model.contracted:
            fit_samples(self.student, config.distillation, data.draw_rays, config.seed)
        assert self._teacher is not None
        fit_to_edits(self._teacher, self.student, config.distillation, config.seed)
        if self.student.device.type == "cuda":
            fit_to_gpu(self.student, config.distillation, data.draw_rays, config.seed, self._in_half)
        config.is_step_open = False
        config.datamanager.train_num_rays_per_batch = config.distillation.rays_per_step

    def _place_orbit(self, teacher: FrozenTeacher) -> None:
        """Where views stand in for a data set, put them around what the teacher shows."""
        orbit = self.config.datamanager.orbit
        if self.datamanager.stands_in and orbit.region is None:
            orbit.look_at(occupied_region(teacher), teacher.space.contracted)
            self.datamanager = self.config.datamanager.setup(
                device=str(self.device), test_mode=self.test_mode, world_size=1, local_rank=self._local_rank
            )

    def _go_on_without_a_teacher(self) -> None:
        if not self.datamanager.has_images:
            gone = (
                "the training images do not show the edited scene"
                if self.datamanager.are_edited
                else "so are the images"
            )
            raise InputError(
                f"The teacher is gone, and {gone}: there is nothing to learn from. Name a teacher "
                "with --teacher-checkpoint, or the place of the data set with --data."
            )
        say("No teacher: training goes on from the training images alone.", "yellow")
        self._levels().config = ActiveLearningConfig()
        self._levels().clear()

    def _learn_projection(self) -> None:
        """Give the projection its saved weights, and an optimiser."""
        if self.projection is not None:
            if self._saved_projection:
                self.projection.load_state_dict(self._saved_projection)
            if self._optimizers is not None:
                self._optimizers.add("projection", list(self.projection.parameters()))

    def _training_step(self) -> TrainingStep | PictureStep:
        method, active = self.config.distillation, self._levels()
        if self._first_step > 0:
            say(f"Querying again what the bank held at step {self._first_step}.")
        bank = TargetBank(
            source=self._source(),
            seed=self._seed,
            chunks=method.chunks,
            start_chunks=method.start_chunks,
            fill_every=method.fill_every,
            first_chunks=method.first_chunks,
            refresh_every=method.refresh_every,
            device=self.student.device,
        )
        if isinstance(self.student, SplatModel):
            return PictureStep(self.student, bank, picture_size(self.student, self.datamanager), self.stage, self._seed)
        return TrainingStep(self.student, bank, method, self.stage, active, self.projection, self._seed)

    def _source(self) -> Source:
        """What the bank is filled from."""
        if isinstance(self.student, SplatModel):
            images = self.config.distillation.training_images
            return PictureSource(self._teacher, self.student, self.datamanager, images)
        method, active = self.config.distillation, self._levels()
        return ChunkSource(
            self._teacher, self.student, self.datamanager, method, active, self._seed, self._chunks_with_points
        )

    @property
    def _chunks_with_points(self) -> float:
        """How many chunks, from the first on, are learned from at points."""
        return self.config.distillation.chunks_with_points(self.config.steps)

    def _levels(self) -> ActiveLearning:
        """No property: the viewer reads them all, also where there is no training."""
        assert self.active is not None
        return self.active

    def finish(self, for_good: bool) -> None:
        """Keep the better weights, and throw away what only training needs: checkpoints hold the student alone.

        Args:
            for_good: whether what is saved need not be learned on, and may be rounded.
        """
        if self._step is not None and self.student.average is not None:
            self._step.keep_better()
        if for_good:
            pack(self.student.field)
        self.projection, self._is_over = None, True

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """nerfstudio's; active learning is in it as long as the run goes on."""
        state = super().state_dict(*args, **kwargs)
        over = self._is_over or self.active is None or not self.active.matters
        return {name: value for name, value in state.items() if not (over and name.startswith("active."))}

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """nerfstudio's; what belongs to the hand-over waits for it."""
        super().load_pipeline(loaded_state, step)
        self._first_step = step + 1
        self._saved_projection = {
            name.removeprefix(PROJECTION): value for name, value in loaded_state.items() if name.startswith(PROJECTION)
        }
        if self.active is not None and rank() > 0:  # what was saved is about the first process's chunks
            self.active.clear()

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """nerfstudio's; growth of the student before each step; at the end the teacher's share of the time."""
        self._optimizers = training_callback_attributes.optimizers
        before, after = TrainingCallbackLocation.BEFORE_TRAIN_ITERATION, TrainingCallbackLocation.AFTER_TRAIN_ITERATION
        return [
            *super().get_training_callbacks(training_callback_attributes),
            TrainingCallback([before], self._before_step),
            TrainingCallback([after], self._after_step),
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], self._report_time),
        ]

    def _before_step(self, step: int) -> None:
        training = self.hand_over()
        if self._grow(step):
            self._wrap()
        if isinstance(training, PictureStep) and isinstance(self.student, SplatModel):
            self._refine(training, self.student.field, step)

    def _refine(self, training: PictureStep, field: GaussianField, step: int) -> None:
        """Let the Gaussians be as many as are needed, where they are needed."""
        if self._optimizers is None or not field.config.is_refined(step, self.config.steps):
            return
        training.fill_bank(step)
        generator = seeded_generator(self.device, self._seed + 5, step)
        refine(field, self._optimizers.optimizers, training.pull(), generator)
        self._optimizers.parameters |= self.student.get_param_groups()
        self.student.drop_average()

    def _after_step(self, step: int) -> None:
        """Active learning hears of the step, and the viewer's panel says what there is to know."""
        training, done, total = self.hand_over(), step + 1, self.config.steps
        training.learn_errors()
        if done % EVERY == 0:
            self.student.update_average()
        if self.panel.is_shown and (done % PANEL_EVERY == 0 or done == total):
            progress = f"{self.stage(step).name}, step {done:,} of {total:,}"
            errors = torch.stack(list(training.errors)) if training.errors else None
            self.panel.show({"Stage": progress}, errors, training.pools)

    @property
    def recent_psnr(self) -> float | None:
        """PSNR to the teacher on the rays of the last steps; None while there are points alone."""
        errors = [] if self._step is None else self._step.errors
        return float(-10 * torch.stack(list(errors)).mean().log10()) if errors else None

    def _learn_anew(self) -> None:
        """The optimisers learn the Gaussians that the student has now, in the scene's own unit."""
        if self._optimizers is not None:
            for name, parameters in self.student.get_param_groups().items():
                self._optimizers.replace(name, parameters)
            if self._first_step == 0:
                self._optimizers.scale_rate("means", self.student.field.scale)

    def _grow(self, step: int) -> bool:
        """Give the student the size of this step; returns whether it has changed."""
        optimizers = self._optimizers
        fields = None if optimizers is None else optimizers.optimizers.get("fields")
        training = self._step if isinstance(self._step, TrainingStep) else None
        rays = None if training is None else lambda: training.some_rays(step)
        answers = self._point_answers
        seen = None if answers is None else as_seen(answers, self.datamanager.eyes)
        began = time.perf_counter()
        grew = self.student.grow(step / self.config.steps, fields, seen, rays)
        self.growing_seconds += time.perf_counter() - began
        if grew and optimizers is not None:
            optimizers.parameters |= self.student.get_param_groups()
        return grew

    @property
    def _point_answers(self) -> PointAnswers | None:
        return point_answers(self._teacher, self.student)

    def _wrap(self) -> None:
        """Several processes (DDP) must wrap the student anew when it has changed its size."""
        if self.world_size > 1:
            devices = [self._local_rank] if self.student.device.type == "cuda" else None
            self._model = self.student
            self._model = DistributedDataParallel(  # type: ignore[assignment]
                self._model, device_ids=devices, find_unused_parameters=True, broadcast_buffers=False
            )

    @property
    def teacher_seconds(self) -> float:
        """What querying the teacher has taken so far."""
        return 0.0 if self._teacher is None else self._teacher.seconds

    def _report_time(self, step: int) -> None:
        del step
        if self._teacher is not None:
            total, teacher = time.perf_counter() - self._started, self.teacher_seconds
            say(f"The teacher took {teacher:.0f} s of {total:.0f} s ({teacher / total:.0%}).")
