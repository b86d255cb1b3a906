"""Splats as teachers, on any machine: a .ply of anybody's, or a run of nerfstudio's splatfacto."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.models.splatfacto import SplatfactoModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from torch import Tensor, nn

from pvd_nerfstudio.data.orbit import OrbitDataParserConfig
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.text import plain, say
from pvd_nerfstudio.rendering.harmonics import MIDDLE, PARAMETERS, SH_OF_ONE, SHAPES, draw
from pvd_nerfstudio.rendering.lens import draw_through

METHOD = "splat"
"""Name of the method of a file that no method of nerfstudio has trained."""
OPAQUE = 0.1
"""Opacity from which on a Gaussian counts for where the scene is."""
MOST, MIDDLE_OF = 0.999, 0.95
"""Shares of the Gaussians, along each axis, that lie in the scene box and in what cameras look at."""
MARGIN = 0.05
"""What the scene box is larger on each side, as a share of its size."""
DISTANCE = 1.2
"""Distance of the cameras from what they look at, in diagonals of that."""


@dataclass
class SplatTeacherConfig(ModelConfig):
    """Gaussians that only answer."""

    _target: type = field(default_factory=lambda: SplatTeacher)
    near_plane: float = 0.0
    """Distance at which rays start."""
    far_plane: float = 1000.0
    """Distance at which they end."""
    background_color: Literal["random", "black", "white"] = "black"
    """What is behind everything."""
    colors_before_sigmoid: bool = False
    """Whether what is stored has colours before their sigmoid, as splatfacto's has without spherical harmonics."""
    antialiased: bool = False
    """Whether it was trained so that the blur of small Gaussians makes them fainter."""


class _Stored(nn.Module):
    """The parameters; how many there are, their file says."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("aabb", torch.zeros(2, 3))
        for name in PARAMETERS:
            setattr(self, name, nn.Parameter(torch.zeros(0)))
        self.register_load_state_dict_pre_hook(_take_saved_sizes)

    @property
    def named(self) -> dict[str, Tensor]:
        """The parameters by their names."""
        return {name: getattr(self, name) for name in PARAMETERS}


def _take_saved_sizes(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in PARAMETERS:
        getattr(module, name).data = torch.zeros_like(state[prefix + name])


class SplatTeacher(Model):
    """A model of nerfstudio's that shows whole views of Gaussians, drawn in torch."""

    config: SplatTeacherConfig
    field: _Stored
    is_drawn = True

    def populate_modules(self) -> None:
        """nerfstudio's."""
        super().populate_modules()
        self.field = _Stored()
        if self.config.antialiased:
            say("The teacher has anti-aliasing, which is left out here: small Gaussians look larger.", "yellow")

    def get_param_groups(self) -> dict[str, list[nn.Parameter]]:
        """None: it does not learn."""
        return {}

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Tensor]:  # type: ignore[override]
        """Gaussians answer to no single ray."""
        raise NotImplementedError

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """Colour, opacity and distance, each `[height, width, channels]`."""
        del obb_box
        image = draw_through(camera.to(self.device), lambda view: draw(self.field.named, view))
        opacity = image[..., 4:]
        behind = float(self.config.background_color == "white")
        return {
            "rgb": image[..., :3] + (1 - opacity) * behind,
            "accumulation": opacity,
            "depth": image[..., 3:4] / opacity.clamp_min(1e-6),
        }

    def get_loss_dict(self, outputs: Any, batch: Any, metrics_dict: Any = None) -> dict[str, Tensor]:
        """It does not learn."""
        raise NotImplementedError

    def get_image_metrics_and_images(self, outputs: Any, batch: Any) -> tuple[dict[str, float], dict[str, Tensor]]:
        """It is judged by others."""
        raise NotImplementedError


def config_of_file(path: Path, values: dict[str, Tensor]) -> TrainerConfig:
    """What a run would say of a file of Gaussians that has no data set: views from all around what they show."""
    boxes = [_box(values, share) for share in (MOST, MIDDLE_OF)]
    middle = boxes[1]
    dataparser = OrbitDataParserConfig(
        data=path,
        box=tuple(boxes[0].flatten().tolist()),
        region=tuple(middle.flatten().tolist()),
        radius=DISTANCE * float((middle[1] - middle[0]).norm()),
        whole=True,
    )
    pipeline = VanillaPipelineConfig(
        datamanager=VanillaDataManagerConfig(dataparser=dataparser), model=SplatTeacherConfig()
    )
    return TrainerConfig(method_name=METHOD, pipeline=pipeline)


def state_of_file(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of the model for a file of Gaussians."""
    fields = {f"field.{name}": value for name, value in values.items()}
    return {**fields, "field.aabb": _box(values, MOST), "device_indicator_param": torch.zeros(0)}


def as_splat(config: ModelConfig) -> ModelConfig:
    """The configuration that a splatfacto model is built by here; every other is returned as it is."""
    if type(config) is not SplatfactoModelConfig:  # a plugin's has more to it
        return config
    return SplatTeacherConfig(
        background_color=config.background_color,
        colors_before_sigmoid=config.sh_degree == 0,
        antialiased=config.rasterize_mode != "classic",
    )


def state_of_splatfacto(state: Mapping[str, Any], config: SplatTeacherConfig, path: Path) -> dict[str, Tensor]:
    """The state of the model for one of splatfacto's; older ones have their parameters in the model itself.

    Raises:
        InputError: some are missing, or do not fit together.
    """
    values = {name: state.get(f"gauss_params.{name}", state.get(name)) for name in PARAMETERS}
    count = len(values["means"]) if isinstance(values["means"], Tensor) and values["means"].dim() else 0
    for name, value in values.items():
        wanted = (count, *SHAPES[name]) if name in SHAPES else None
        fits = isinstance(value, Tensor) and (
            value.shape == wanted if wanted else value.dim() == 3 and len(value) == count and value.shape[2] == 3  # noqa: PLR2004
        )
        if not fits or not count or not value.is_floating_point():
            raise InputError(
                f"{plain(path)} holds no Gaussians of splatfacto: '{name}' is missing or of another shape."
            )
    values = {name: value.float() for name, value in values.items()}
    if config.colors_before_sigmoid:
        values["features_dc"] = (values["features_dc"].sigmoid() - MIDDLE) / SH_OF_ONE
        values["features_rest"] = values["features_rest"][:, :0]
    return state_of_file(values)


def _box(values: dict[str, Tensor], share: float) -> Float[Tensor, "2 3"]:
    """The box in which, along each axis, a share of the Gaussians lies that are not nearly transparent."""
    seen = values["means"][values["opacities"][:, 0].sigmoid() > OPAQUE]
    points = (seen if len(seen) else values["means"]).double().sort(dim=0).values
    aside = int((1 - share) / 2 * (len(points) - 1))
    low, high = points[aside], points[len(points) - 1 - aside]
    room = MARGIN * (high - low).clamp_min(1e-3 * float((high - low).max()) + 1e-6)
    return torch.stack([low - room, high + room]).float()
