"""A teacher beside its student: its renderings, the difference, and where that is largest."""

import copy

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.utils.colormaps import ColormapOptions, apply_colormap
from torch import Tensor

from pvd_nerfstudio.rendering.pixels import num_pixels, rays_at
from pvd_nerfstudio.student.model import StudentModel
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.teacher.pixels import show
from pvd_nerfstudio.teacher.targets import SharedSamples, render_teacher

ERROR_SCALE = 0.3
"""Mean absolute difference of the colours at the bright end of the colour map."""
TEACHER = "teacher_rgb"
DIFFERENCE = f"difference (0 to {ERROR_SCALE})"
RAYS_OF_A_VIEW = 400
"""Rays by which a view is judged."""
SMALL = 40
"""Longer side of a view by which a teacher is judged that shows renderings alone."""


class Comparison:
    """Renderings of both from the same camera.

    Args:
        teacher: the teacher.
        student: whose samples both are rendered through.
    """

    def __init__(self, teacher: FrozenTeacher, student: StudentModel) -> None:
        self.teacher, self._student = teacher, student

    @torch.no_grad()
    def render(self, camera: Cameras) -> Float[Tensor, "height width 3"]:
        """The teacher's rendering of one camera; through the student's samples where it shows rays."""
        if self.teacher.shows_views:
            return show(self.teacher, camera, self._student.renderer_rgb, self._student.grid.contracted)
        rays = camera.to(self._student.device).generate_rays(camera_indices=0, keep_shape=True)
        flat = rays.flatten()
        pixels = [self.through_shared_samples(flat[part]) for part in self._student.portions(len(flat))]
        return torch.cat(pixels).view(*rays.shape, 3)

    @torch.no_grad()
    def errors(self, cameras: Cameras) -> Float[Tensor, "views"]:
        """Mean squared error of the student against the teacher in each view, by a few rays, always the same."""
        student = self._student
        was_training = student.training
        student.eval()
        try:
            views = range(len(cameras))
            return torch.stack([self._error(copy.deepcopy(cameras[view : view + 1])) for view in views])
        finally:
            student.train(was_training)

    def _error(self, camera: Cameras) -> Float[Tensor, ""]:
        student = self._student
        if self.teacher.shows_views:
            camera.rescale_output_resolution(min(1.0, SMALL / max(int(camera.height), int(camera.width))))
            theirs = self.render(camera).flatten(0, 1)
            ours = student.pixels(camera, torch.arange(len(theirs)))
        else:
            pixels = num_pixels(camera)
            chosen = torch.linspace(0, pixels - 1, min(RAYS_OF_A_VIEW, pixels)).long()
            rays = rays_at(camera, chosen).to(student.device)
            theirs, ours = self.through_shared_samples(rays), student.pixels(camera, chosen, rays)
        return (ours - theirs).square().mean()

    def through_shared_samples(self, rays: RayBundle) -> Float[Tensor, "rays 3"]:
        """The teacher's rendering of rays through the student's samples; it needs a density."""
        return render_teacher(self.teacher, self._samples, rays, shift=0.5).over(self._student.renderer_rgb)

    @property
    def _samples(self) -> SharedSamples:
        """From the camera on, as in nerfstudio's evaluation."""
        student = self._student
        return SharedSamples(student.grid, 0.0, student.far, student.spacing, student.has_sky)


def difference(student: Float[Tensor, "*batch 3"], teacher: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Mean absolute difference of the colours in a perceptual colour map, black for 0, bright for `ERROR_SCALE`."""
    error = (student - teacher).abs().mean(dim=-1, keepdim=True) / ERROR_SCALE
    return apply_colormap(error.clamp(0, 1), ColormapOptions(colormap="inferno"))
