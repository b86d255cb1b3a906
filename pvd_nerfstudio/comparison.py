"""A teacher beside its student: its pictures, the difference, and where that is largest."""

from collections.abc import Collection

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.colormaps import ColormapOptions, apply_colormap
from torch import Tensor

from pvd_nerfstudio.data.views import split_rays
from pvd_nerfstudio.student.model import StudentModel
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.teacher.pixels import show
from pvd_nerfstudio.teacher.targets import SharedSamples, render_teacher

ERROR_SCALE = 0.3
"""Mean absolute difference of the colours at the bright end of the colour map."""
TEACHER = "teacher_rgb"
DIFFERENCE = f"difference (0 to {ERROR_SCALE})"
RAYS_OF_A_VIEW = 128
"""Rays by which a view is judged."""


class Comparison:
    """Pictures of both from the same camera.

    Args:
        teacher: the teacher.
        student: whose samples both are rendered through.
    """

    def __init__(self, teacher: FrozenTeacher, student: StudentModel) -> None:
        self.teacher, self._student = teacher, student

    @torch.no_grad()
    def picture(self, camera: Cameras) -> Float[Tensor, "height width 3"]:
        """The teacher's picture of one camera; through the student's samples where the teacher has a density."""
        if not self.teacher.has_density:
            return show(self.teacher, camera, self._student.renderer_rgb)
        rays = camera.to(self._student.device).generate_rays(camera_indices=0, keep_shape=True)
        parts = split_rays(rays.flatten(), self._student.config.eval_num_rays_per_chunk)
        pixels = [render_teacher(self.teacher, self._samples, part, shift=0.5) for part in parts]
        return torch.cat([part.over(self._student.renderer_rgb) for part in pixels]).view(*rays.shape, 3)

    def outputs(
        self, camera: Cameras, rgb: Float[Tensor, "height width 3"], wanted: Collection[str] = (TEACHER, DIFFERENCE)
    ) -> dict[str, Tensor]:
        """The teacher's picture and the difference, each `[height, width, 3]`; black where neither is wanted."""
        if TEACHER not in wanted and DIFFERENCE not in wanted:
            nothing = torch.zeros_like(rgb)
            return {TEACHER: nothing, DIFFERENCE: nothing}
        picture = self.picture(camera)
        return {TEACHER: picture, DIFFERENCE: difference(rgb, picture)}

    @torch.no_grad()
    def worst_views(self, cameras: Cameras) -> tuple[Int[Tensor, "views"], Float[Tensor, "views"]]:
        """Numbers of cameras, those first that the student gets worst, and their mean squared errors.

        A view is judged by a few rays, the same ones at every call.
        """
        student, generator = self._student, torch.Generator().manual_seed(0)
        was_training = student.training
        student.eval()
        errors = []
        for view in range(len(cameras)):
            camera = cameras[view : view + 1].to(student.device)
            if not self.teacher.has_density:
                outputs = student.get_outputs_for_camera(camera)
                errors.append((outputs["rgb"] - self.picture(camera)).square().mean())
                continue
            rays = camera.generate_rays(camera_indices=0, keep_shape=True).flatten()
            rays = rays[torch.randint(len(rays), (RAYS_OF_A_VIEW,), generator=generator).to(student.device)]
            theirs = render_teacher(self.teacher, self._samples, rays, shift=0.5).over(student.renderer_rgb)
            errors.append((student.get_outputs(rays)["rgb"] - theirs).square().mean())
        student.train(was_training)
        sorted_errors, order = torch.stack(errors).sort(descending=True)
        return order, sorted_errors

    @property
    def _samples(self) -> SharedSamples:
        """From the camera on, as in nerfstudio's evaluation."""
        student = self._student
        return SharedSamples(student.grid, 0.0, student.far, student.step_size)


def difference(student: Float[Tensor, "*batch 3"], teacher: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Mean absolute difference of the colours in a perceptual colour map, black for 0, bright for `ERROR_SCALE`."""
    error = (student - teacher).abs().mean(dim=-1, keepdim=True) / ERROR_SCALE
    return apply_colormap(error.clamp(0, 1), ColormapOptions(colormap="inferno"))
