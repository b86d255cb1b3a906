"""The splat student: Gaussians that are drawn, where all other students' rays are marched along."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.model_components import renderers
from nerfstudio.models.base_model import Model
from nerfstudio.models.splatfacto import SplatfactoModel
from torch import Tensor
from torch.nn import Parameter

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.rendering.drawing import render
from pvd_nerfstudio.rendering.harmonics import draw
from pvd_nerfstudio.rendering.lens import draw_through
from pvd_nerfstudio.rendering.pixels import num_pixels
from pvd_nerfstudio.rendering.splatting import View, rotations
from pvd_nerfstudio.student.fields.gaussians import GaussianField
from pvd_nerfstudio.student.metrics import NOTHING
from pvd_nerfstudio.student.model import StudentModel

HIDDEN = 3e-3
"""Transmittance under which training leaves out what is behind; images go on to the rasteriser's own bound."""


class _Splatfacto(SplatfactoModel):
    """What nerfstudio's exporter and viewer take for Gaussians, and none of its training."""

    def __init__(self, *args: Any, **options: Any) -> None:
        Model.__init__(self, *args, **options)

    populate_modules = Model.populate_modules
    load_state_dict = Model.load_state_dict  # type: ignore[assignment]
    get_training_callbacks = Model.get_training_callbacks


class SplatModel(StudentModel, _Splatfacto):  # type: ignore[misc]
    """Gaussians in the world. The occupancy grid is for the teacher alone, who shows nothing outside it."""

    field: GaussianField  # type: ignore[assignment]

    is_drawn = True

    def pixels(
        self, camera: Cameras, chosen: Int[Tensor, "pixels"], rays: RayBundle | None = None
    ) -> Float[Tensor, "pixels 3"]:
        del rays
        return self.get_outputs_for_camera(camera)["rgb"].flatten(0, 1)[chosen.to(self.device)]

    def rays_for(self, pixels: int, camera: Cameras) -> int:
        return num_pixels(camera)

    @property
    def gauss_params(self) -> dict[str, Parameter]:  # type: ignore[override]
        """splatfacto's name for the parameters."""
        return self.field.named

    @property
    def colors(self) -> Tensor:
        """Colours without what depends on the direction, for exporters."""
        return self.field.seen_from(self.field.means.new_zeros(3)).colors

    @property
    def shs_0(self) -> Tensor:
        """The constant coefficient of the spherical harmonics, of whatever degree."""
        return self.field.features_dc

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """Each parameter alone, by its name: their learning rates differ."""
        return {name: [value] for name, value in self.field.named.items()}

    def grow(self, *_: Any, **__: Any) -> bool:
        """Nothing grows by the clock."""
        return False

    def inherit_color_head(self, weights: dict[str, Tensor] | None) -> None:
        """There is no head to be taken over."""
        del weights

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Tensor]:  # type: ignore[override]
        """Gaussians answer to no single ray.

        Raises:
            InputError: always.
        """
        raise InputError(
            "A splat shows whole views and no single rays, so this tool cannot have any. Its Gaussians are exported by "
            "`ns-export gaussian-splat` and `pvd export --ply`."
        )

    def normal_image(self, camera: Cameras, outputs: dict[str, Tensor]) -> Float[Tensor, "height width 3"]:
        """Normals of what a camera sees, in [0, 1]: the shortest axis of each Gaussian, towards the camera."""

        def normals_from(view: View) -> Tensor:
            gaussians = self.field.seen_from(view.position)
            shortest = gaussians.scales.argmin(dim=-1)[:, None, None].expand(-1, 3, 1)
            normals = rotations(gaussians.quats).gather(2, shortest)[..., 0]
            away = (normals * (gaussians.means - view.position)).sum(dim=-1, keepdim=True) > 0
            turned = torch.where(away, -normals, normals)
            return render(replace(gaussians, colors=turned), view)[0]

        image = (torch.nn.functional.normalize(draw_through(camera.to(self.device), normals_from), dim=-1) + 1) / 2
        return torch.where(outputs["accumulation"] > NOTHING, image.to(outputs["rgb"]), 0.5)

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """Images from a camera, each `[height, width, channels]`; with what the pipeline has beside them."""
        image = draw_through(camera.to(self.device), lambda view: draw(self.field.named, view, crop=obb_box))
        premultiplied, depth, opacity = image.split([3, 1, 1], dim=-1)
        depth, hit = depth / opacity.clamp_min(NOTHING), opacity > NOTHING
        # At the far plane, what meets nothing would stretch the colour map.
        depth = torch.where(hit, depth, depth[hit].amax() if hit.any() else self.far)
        outputs = {
            "rgb": self._over_background(premultiplied, opacity).clamp(0, 1),
            "accumulation": opacity,
            "depth": depth,
        }
        return outputs if self.beside is None else self.beside(camera, outputs)

    def _over_background(self, premultiplied: Tensor, opacity: Tensor) -> Tensor:
        override = renderers.BACKGROUND_COLOR_OVERRIDE
        background = override if override is not None else self.renderer_rgb.background_color
        if isinstance(background, str):
            background = torch.full((3,), float(background == "white"))
        return premultiplied + (1 - opacity) * background.to(premultiplied)
