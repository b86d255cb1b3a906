"""Where the chunks of the bank come from: the teacher's field, its renderings alone, or training images.

Active learning decides here which views enter and which of their samples become points: now and then a new chunk is
shown to the student too, once, and what it gets wrong is noted.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle
from torch import Generator, Tensor

from pvd_nerfstudio.data.datamanager import DistillationDataManager
from pvd_nerfstudio.data.views import Viewpoints
from pvd_nerfstudio.distillation.active import points
from pvd_nerfstudio.distillation.active.levels import ActiveLearning, ChunkNotes
from pvd_nerfstudio.distillation.bank import BankChunk, RayTargets, seeded_generator
from pvd_nerfstudio.distillation.losses import pixel_errors
from pvd_nerfstudio.distillation.stages import DistillationConfig
from pvd_nerfstudio.rendering.compositing import accumulate, render_weights
from pvd_nerfstudio.student.model import StudentModel
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.teacher.pixels import query_pixels
from pvd_nerfstudio.teacher.targets import Rendered, SharedSamples, crowd_along, keep, mean_positions, query_rays

RAYS_OF_A_VIEW = 4
"""Fewer say too little about a view."""
TRY_EVERY = 4
"""The student tries itself on every so manyth new chunk: on each it would cost a quarter of the training."""

POINT_RAYS = 1 / 4
"""Of the rays of a chunk of a teacher that shows whole views, those whose samples it is asked about, at most: that
takes far longer."""
CROWD = 40
"""Gaussians at a point from which on there are fewer, for each of them takes its time."""
PROBED = 64
"""Rays by which their number is found out."""


@dataclass
class Attempt:
    """The student on the rays of a chunk that it has not learned from yet."""

    weights: Float[Tensor, "samples 1"]
    errors: Float[Tensor, "rays"]


class ChunkSource:
    """Makes the chunks.

    Args:
        teacher: who is queried; None: training images are read.
        student: who learns.
        data: gives views.
        method: sizes of a chunk.
        active: what the levels know.
        seed: of the run.
        with_points: how many chunks, from the first on, have points where these must be asked for apart.
    """

    def __init__(
        self,
        teacher: FrozenTeacher | None,
        student: StudentModel,
        data: DistillationDataManager,
        method: DistillationConfig,
        active: ActiveLearning,
        seed: int,
        with_points: float,
    ) -> None:
        self._teacher, self._student, self._data = teacher, student, data
        self._method, self._active, self._seed = method, active, seed
        self._with_points = with_points

    def __call__(self, number: int, slot: int, generator: Generator) -> BankChunk:
        """The chunk of a number, for a slot of the bank."""
        notes = self._active.notes(slot, number)
        is_new = notes is None
        notes = notes or ChunkNotes(number, self._hard_poses(number))
        is_tried = is_new and number >= self._method.first_chunks and number % TRY_EVERY == 0
        size = self._method.rays_per_chunk
        chunk, errors = self._query(notes, slot * size, is_tried, generator)
        if is_new:
            self._active.note(slot, notes)
            self._active.replace_rays(slot * size, (slot + 1) * size, errors)
        return chunk

    def _query(
        self, notes: ChunkNotes, first: int, try_student: bool, generator: Generator
    ) -> tuple[BankChunk, Tensor | None]:
        """A chunk, and the student's errors on its rays if it was to try itself and a level wants to know.

        `first` is the number of its first ray.
        """
        teacher, count = self._teacher, self._method.rays_per_chunk
        if teacher is None:
            return self._read_images(generator), None
        if teacher.shows_views:
            return self._query_views(notes, generator), None
        views = self._data.viewpoints(notes.poses.to(generator.device), generator)
        rays, rendered = query_rays(teacher, self._shared, views.rays, count, generator)
        self._active.locate_rays(first, self._student.grid.to_unit(mean_positions(rendered, rays)))
        attempt = self._attempt(rays, rendered) if try_student and self._active.config.on else None
        chosen = self._choose(rendered, attempt, notes, generator)
        chunk = keep(rays, rendered, chosen, self._shared.spacing, self._method.feature_weight > 0)
        if self._method.training_images and chunk.rays is not None:
            self._set_training_images(chunk.rays, rays, len(views.poses))
        if attempt is not None and self._active.config.poses:
            self._report_views(views, rays, attempt)
        return chunk, None if attempt is None else attempt.errors

    def _query_views(self, notes: ChunkNotes, generator: Generator) -> BankChunk:
        """Pixels of pictures; and points of some rays, if the teacher knows any, as long as they are learned from."""
        assert self._teacher is not None
        teacher, count = self._teacher, self._method.rays_per_chunk
        chunk = query_pixels(teacher, self._shared, self._data.draw_views, count, generator)
        if teacher.has_density and notes.number < self._with_points:
            views = self._data.viewpoints(notes.poses.to(generator.device), generator)
            rays, rendered = query_rays(teacher, self._shared, views.rays, self._point_rays, generator)
            chosen = self._choose(rendered, None, notes, generator)
            chunk.points = keep(rays, rendered, chosen, self._shared.spacing, features=False).points
        return chunk

    @cached_property
    def _point_rays(self) -> int:
        """How many rays of a chunk are asked at points, the same in a run that is resumed."""
        assert self._teacher is not None
        generator = seeded_generator(self._student.device, self._seed + 6, 0)
        views = self._data.viewpoints(torch.empty(0, 3, 4, device=generator.device), generator)
        crowd = crowd_along(self._teacher, self._shared, views.rays, PROBED, generator)
        return max(1, round(POINT_RAYS * self._method.rays_per_chunk * min(1.0, CROWD / max(crowd, 1.0))))

    @property
    def _shared(self) -> SharedSamples:
        student = self._student
        return SharedSamples(student.grid, student.near, student.far, student.spacing, student.has_sky)

    def _hard_poses(self, number: int) -> Float[Tensor, "views 3 4"]:
        generator = seeded_generator(self._student.device, self._seed + 2, number)
        return self._active.hard_poses(self._data.config.pseudo_views_per_chunk, generator)

    def _choose(self, rendered: Rendered, attempt: Attempt | None, notes: ChunkNotes, generator: Generator) -> Tensor:
        """Which samples become points; noted where the student had a say."""
        if notes.points is not None:
            return notes.points.to(generator.device).long()
        probability = self._active.point_probability(
            rendered.weights,
            None if attempt is None else attempt.weights,
            rendered.samples.ray_indices,
            self._method.empty_share,
        )
        chosen = points.draw(probability, self._method.points_per_chunk, generator)
        if attempt is not None and self._active.config.points:
            notes.points = chosen.int().cpu()
        return chosen

    @torch.no_grad()
    def _attempt(self, rays: RayBundle, rendered: Rendered) -> Attempt:
        """The student's rendering of the same samples."""
        samples, count = rendered.samples, len(rendered.rgb)
        log_density, colors = self._student.answer(rendered.positions, rendered.directions)
        index, density = samples.ray_indices, self._student.field.to_density(log_density)
        weights = render_weights(density, samples.ends - samples.starts, index, count)
        rgb = accumulate(weights, colors, index, count)
        opacity = accumulate(weights, None, index, count)
        if self._student.has_sky:
            rgb = rgb + (1 - opacity) * self._student.sky(rays.origins, rays.directions)
            opacity = torch.ones_like(opacity)
        return Attempt(weights, pixel_errors(rgb, opacity, rendered.rgb, rendered.opacity))

    def _report_views(self, views: Viewpoints, rays: RayBundle, attempt: Attempt) -> None:
        """Tell the pool of poses how the views of a chunk came out."""
        assert rays.camera_indices is not None
        index, poses = rays.camera_indices[:, 0].cpu(), views.poses
        count = torch.bincount(index, minlength=len(poses))
        errors = torch.bincount(index, attempt.errors.cpu(), minlength=len(poses)) / count.clamp_min(1)
        enough = count >= RAYS_OF_A_VIEW
        self._active.poses.offer(poses.cpu()[enough], errors[enough].float())

    def _set_training_images(self, targets: RayTargets, rays: RayBundle, num_views: int) -> None:
        """On the rays of the training cameras, which are the last views, the training images' pixels for the teacher's.

        Masked ones stay the teacher's.
        """
        assert rays.camera_indices is not None
        cameras = rays.camera_indices[:, 0] - (num_views - len(self._data.train_cameras))
        real = (cameras >= 0).nonzero()[:, 0]
        real = real[self._data.seen(cameras[real], rays.metadata["pixels"][real])]
        pixels = self._data.read_pixels(cameras[real], rays.metadata["pixels"][real])
        targets.rgb[real], targets.opacity[real] = premultiplied(pixels)

    def _read_images(self, generator: Generator) -> BankChunk:
        """Pixels of training images alone."""
        rays, pixels = self._data.draw_pixels(self._method.rays_per_chunk, generator)
        rgb, opacity = premultiplied(pixels)
        start, end = torch.zeros_like(opacity), torch.full_like(opacity, torch.inf)
        return BankChunk(RayTargets(rays.origins, rays.directions, rgb, opacity, start, end), None)


def premultiplied(pixels: Float[Tensor, "rays channels"]) -> tuple[Tensor, Tensor]:
    """Colour times opacity, and opacity; without an alpha channel all are opaque."""
    opacity = pixels[:, 3:] if pixels.shape[1] > 3 else torch.ones_like(pixels[:, :1])  # noqa: PLR2004
    return pixels[:, :3] * opacity, opacity
