"""The hand-over, once, before the first training step: teacher and student meet.

The teacher is loaded; frames and features are compared; the student is given its occupancy grid, its first size and the
teacher's colour head. A run that is resumed has these from its checkpoint, and only meets its teacher again.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from rich.table import Table
from torch import Tensor

from pvd_nerfstudio.data.datamanager import DistillationDataManager
from pvd_nerfstudio.distillation.projection import FeatureProjection
from pvd_nerfstudio.edits.file import parse_saved
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.text import say
from pvd_nerfstudio.pipeline.config import DistillationPipelineConfig
from pvd_nerfstudio.processes import numbers_of_first, take_from_first
from pvd_nerfstudio.student.model import PointAnswers, SeenAnswers, StudentModel
from pvd_nerfstudio.teacher.capabilities import capabilities_table
from pvd_nerfstudio.teacher.check import check_frame, check_renderings, keep_frame
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.teacher.occupancy import drop_unseen, fill_grid, fill_grid_from_views
from pvd_nerfstudio.teacher.shown import shown_along_rays, shown_in_views
from pvd_nerfstudio.teacher.targets import SharedSamples


def load_teacher(config: DistillationPipelineConfig, device: Any) -> FrozenTeacher | None:
    """The teacher, frozen; None where the run has lost it.

    Raises:
        InputError: it cannot be used.
    """
    if config.teacher is None:
        return None
    data = config.datamanager
    place = Path(data.data or data.dataparser.data)
    edits = parse_saved(data.edits)
    teacher = FrozenTeacher(find_run(config.teacher), device, place, config.asks_splats_at_points, edits)
    config.teacher_digest = teacher.digest
    return teacher


def meet(
    teacher: FrozenTeacher, student: StudentModel, data: DistillationDataManager, config: DistillationPipelineConfig
) -> FeatureProjection | None:
    """Compare frames and features, and say what the teacher has and what the student uses of it.

    Returns:
        The map between their features where these have two widths.

    Raises:
        InputError: they do not fit.
    """
    method, has_rays = config.distillation, not teacher.shows_views
    if method.training_images and not (data.has_images and has_rays):
        images = "training images that edits leave something of" if data.are_edited else "the training images, on disk"
        lacking = images if has_rays else "a teacher that shows single rays"
        raise InputError(f"--pipeline.distillation.training-images needs {lacking}. Leave it out.")
    if data.stands_in:
        keep_frame(teacher, data.train_dataparser_outputs)
    else:
        check_frame(teacher, data.train_dataparser_outputs, data.frame_box)
    projection = _align_features(teacher, student, config)
    CONSOLE.print(_capabilities(teacher, student, config))
    if student.grid.contracted:
        _check_reach(teacher, data)
    if teacher.edits and method.feature_weight:
        say("Features are left out where an edit has changed what they mean.")
    if not teacher.has_density:
        say("The teacher has no field that answers at points: its renderings alone are distilled.")
    if not has_rays and (config.active.poses or config.active.points):
        say("Active learning of poses and points needs a teacher that shows single rays: both are off.")
        config.active.poses = config.active.points = False
    return projection


def _check_reach(teacher: FrozenTeacher, data: DistillationDataManager) -> None:
    """Refuse cameras of contracted space that stand where no ray goes.

    Raises:
        InputError: they do.
    """
    reach = float(data.train_cameras.camera_to_worlds[:, :, 3].abs().amax())
    if reach > teacher.space.far:
        raise InputError(
            f"Cameras stand up to {reach:,.0f} away from the middle of the scene, and rays end after "
            f"{teacher.space.far:,.0f}. Are these map coordinates? Let the dataparser centre and scale them as it did "
            "for the teacher (--center-method poses, --auto-scale-poses True), or leave it out to keep its options."
        )


def equip(
    teacher: FrozenTeacher,
    student: StudentModel,
    data: DistillationDataManager,
    config: DistillationPipelineConfig,
    grow: Callable[[], object],
) -> None:
    """Give the student its scale, its occupancy grid, its first size and the teacher's colour head.

    Args:
        teacher: gives.
        student: takes.
        data: whose views say what is seen.
        config: says how.
        grow: gives the student the size of the first step, inside its new grid.

    Raises:
        InputError: the teacher shows nothing.
    """
    _fit_space(teacher, student, data, config)
    if teacher.has_density:
        fill_grid(student.grid, teacher, student.spacing, config.threshold)
        if student.grid.contracted:
            drop_unseen(teacher, shared_samples(student), data.draw_rays, config.seed)
    else:
        fill_grid_from_views(student.grid, teacher, data.draw_views)
    cells = student.grid.occupied.clone()
    take_from_first(cells)
    student.grid.occupy(cells)
    grow()
    if config.inherit_color_head:
        student.inherit_color_head(teacher.color_head())


def _fit_space(
    teacher: FrozenTeacher, student: StudentModel, data: DistillationDataManager, config: DistillationPipelineConfig
) -> None:
    """Fit the student's space and samples to what is seen, whatever the unit of the poses."""
    if not student.grid.contracted:
        student.fit()
        return
    if teacher.has_density:
        shown = shown_along_rays(teacher, data.draw_rays, config.seed)
    else:
        shown = shown_in_views(teacher, data.draw_views, config.seed)
    scale = student.config.scale or shown.scale
    scale, bend = numbers_of_first([scale, shown.bend(scale)], student.device)
    student.fit(scale, bend)
    say(f"Space is contracted beyond {scale:.3g} from the middle (--pipeline.model.scale).")


def compare_renderings(teacher: FrozenTeacher, student: StudentModel, data: DistillationDataManager) -> None:
    """Print how well the teacher shows its scene, by itself and through the student's samples."""
    if data.eval_dataset is not None and len(data.eval_dataset):
        check_renderings(teacher, shared_samples(student), data.eval_dataset, student.renderer_rgb)


def shared_samples(student: StudentModel) -> SharedSamples:
    """Samples from the camera on, as in nerfstudio's evaluation."""
    return SharedSamples(student.grid, 0.0, student.far, student.spacing, student.has_sky)


def point_answers(teacher: FrozenTeacher | None, student: StudentModel) -> PointAnswers | None:
    """What a field without any network starts from; None where nobody answers at points."""
    if teacher is None or not teacher.has_density:
        return None

    def answer(positions: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        return teacher.query_points(positions, directions, student.spacing.step_size)

    return answer


def as_seen(answers: PointAnswers, eyes: Float[Tensor, "eyes 3"], chunk: int = 1 << 16) -> SeenAnswers:
    """What somebody answers at points, seen from the nearest camera: from elsewhere a teacher has learned no colours.

    Args:
        answers: of positions and directions.
        eyes: where cameras stand.
        chunk: positions whose distances are looked at at once.
    """

    def answer(positions: Tensor) -> tuple[Tensor, Tensor]:
        nearest = torch.cat([torch.cdist(some, eyes).argmin(dim=-1) for some in positions.split(chunk)])
        return answers(positions, torch.nn.functional.normalize(positions - eyes[nearest], dim=-1))

    return answer


def _align_features(
    teacher: FrozenTeacher, student: StudentModel, config: DistillationPipelineConfig
) -> FeatureProjection | None:
    """Drop the feature loss where a side has no feature; where the widths differ, learn a projection.

    Raises:
        InputError: there is nothing to compare, but the user wants the feature loss.
    """
    method = config.distillation
    theirs, ours = teacher.feature_dim, student.feature_dim
    if not (method.feature_weight or method.feature_end):
        return None
    if theirs is not None and ours is not None:
        return None if theirs == ours else FeatureProjection(ours, theirs, config.seed).to(student.device)
    side = f"The {student.config.student} student" if theirs is not None else "This teacher"
    if method.insists_on_features:
        raise InputError(
            f"{side} has no feature vector, so there is no feature loss between the two. Leave out "
            "--pipeline.distillation.feature-weight and --pipeline.distillation.feature-end, or set both to 0."
        )
    say(f"{side} has no feature vector: the feature stage is skipped.")
    method.feature_weight = method.feature_end = 0.0
    method.check()
    return None


def _capabilities(teacher: FrozenTeacher, student: StudentModel, config: DistillationPipelineConfig) -> Table:
    method = config.distillation
    weights = {
        "features": method.feature_weight,
        "density": max(method.log_density_weight, method.opacity_weight),
        "colour": method.color_weight,
        "pixels": method.pixel_weight,
    }
    return capabilities_table(
        teacher=teacher.run.config.method_name or "teacher",
        student=student.config.student,
        teacher_feature_dim=teacher.feature_dim,
        student_feature_dim=student.feature_dim,
        has_density=teacher.has_density,
        wanted=[name for name, weight in weights.items() if weight > 0],
    )
