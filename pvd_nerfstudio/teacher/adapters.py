"""One small adapter for each family of nerfstudio models.

An adapter says how the family is queried: which space it lives in, what its field answers at samples, and which of its
weights a student can take over. A new family is a class here and a row in `ADAPTERS`; a family without a row is queried
through `Field.forward`, the common denominator of nerfstudio's fields.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.rays import RaySamples
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.fields.base_field import Field
from nerfstudio.fields.nerfacto_field import NerfactoField
from nerfstudio.models.base_model import Model, ModelConfig
from torch import Tensor

from pvd_nerfstudio import tiny_cuda_nn
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.rendering.kernels import kernels_run
from pvd_nerfstudio.rendering.occupancy import NestedGrid, OccupancyGrid
from pvd_nerfstudio.rendering.space import Space
from pvd_nerfstudio.teacher.samples import ball_samples, point_samples
from pvd_nerfstudio.teacher.splat_density import SplatDensity

NEAR, FAR = 0.05, 1000.0
"""Where rays start and end when the family does not say; the scene box bounds them more tightly anyway."""
_PER_IMAGE = ("embedding_appearance.embedding.weight", "pose_adjustment")
"""Ends of the names of weights that have a row for each training image."""


@dataclass
class Answer:
    """What a teacher says about samples."""

    log_density: Float[Tensor, "samples 1"]
    rgb: Float[Tensor, "samples 3"]
    feature: Float[Tensor, "samples channels"] | None


class FieldAdapter:
    """A model whose `field` answers as nerfstudio's `Field` should: density and feature, then colour."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @staticmethod
    def depth(config: Any) -> Literal["median", "expected"]:
        """What models of this family mean by `depth`."""
        del config
        return "median"

    @staticmethod
    def has_datas_box(config: Any) -> bool:
        """Whether the scene box is that of the data set; otherwise it is around what the model shows."""
        del config
        return True

    @staticmethod
    def knows(model: Any) -> bool:
        """Whether a model is of this family: a plugin may extend a family's configuration and bring its own field."""
        del model
        return True

    @property
    def field(self) -> Field:
        """The field that the image is made of."""
        return self.model.field

    @property
    def renders_natively(self) -> bool:
        """Whether the model's own rendering runs on this machine."""
        return True

    @staticmethod
    def space(config: Any) -> Space:
        """The space that a model of this family lives in, read from its configuration.

        Raises:
            InputError: models configured like this cannot be distilled.
        """
        raise NotImplementedError

    @staticmethod
    def num_train_data(state: Mapping[str, Tensor]) -> int:
        """How many training images the weights were made for."""
        return max((len(value) for key, value in state.items() if key.endswith(_PER_IMAGE)), default=1)

    @staticmethod
    def fit(model: Any, state: Mapping[str, Tensor]) -> None:
        """Give a model the sizes that its weights had reached when they were saved."""

    def density(self, positions: Float[Tensor, "points 3"], extent: float) -> Float[Tensor, "points 1"]:
        """Density at world positions, or about `extent` around them where the family has no density at a point."""
        return self.density_of(self.around(positions, torch.ones_like(positions), extent))

    def density_of(self, samples: RaySamples) -> Float[Tensor, "samples 1"]:
        """Density of samples, `[samples]` in shape."""
        return self.field.get_density(samples)[0]

    @property
    def grid(self) -> OccupancyGrid | NestedGrid | None:
        """The grid outside which the model shows nothing, whatever its field says there; None where it has none."""
        return None

    def occupied(self, box: Float[Tensor, "2 3"], resolution: int, least: float) -> Bool[Tensor, "x y z"] | None:
        """Cells of a box with an opacity of at least so much, where they are known without asking at points."""
        del box, resolution, least
        return None

    def crowd(self, samples: RaySamples) -> float:
        """How many parts of the model an answer at one of these samples is made of, on average: its price."""
        del samples
        return 1.0

    def around(
        self, positions: Float[Tensor, "points 3"], directions: Float[Tensor, "points 3"], extent: float
    ) -> RaySamples:
        """World positions as the samples that the family can answer: points, or balls as large as `extent`."""
        del extent
        return point_samples(positions, directions)

    def query(self, samples: RaySamples) -> Answer:
        """Density, feature and colour of samples, `[samples]` in shape."""
        density, feature = self.field.get_density(samples)
        rgb = self.field.get_outputs(samples, density_embedding=feature)[FieldHeadNames.RGB]
        if self.grid is not None:
            density = density * self.grid.contains(samples.frustums.get_positions())[:, None]
        return Answer(log_density=log_of(density), rgb=rgb, feature=feature)

    def color_head(self) -> dict[str, Tensor] | None:
        """Weights of a colour head that reads 16 spherical harmonics and the feature; None where there is none."""
        return None


class NerfactoAdapter(FieldAdapter):
    """nerfacto and depth-nerfacto."""

    @staticmethod
    def knows(model: Any) -> bool:
        return isinstance(model.field, NerfactoField)

    @staticmethod
    def space(config: Any) -> Space:
        return Space(
            near=NEAR if config.near_plane is None else config.near_plane,
            far=FAR if config.far_plane is None else config.far_plane,
            contracted=not config.disable_scene_contraction,
            background=config.background_color,
        )

    def color_head(self) -> dict[str, Tensor] | None:
        """The head without its appearance inputs: in evaluation they are constants, which the first bias takes in."""
        field: Any = self.field
        if field.mlp_head.tcnn_encoding is not None:
            return tiny_cuda_nn.color_head(field.mlp_head.tcnn_encoding, field.geo_feat_dim, self._appearance())
        weights = {name: value.clone() for name, value in field.mlp_head.state_dict().items()}
        if field.embedding_appearance is not None:
            plain = weights["layers.0.weight"].shape[1] - field.appearance_embedding_dim
            weights["layers.0.weight"], appearance = weights["layers.0.weight"].tensor_split([plain], dim=1)
            weights["layers.0.bias"] += appearance @ self._appearance()
        return weights

    def _appearance(self) -> Tensor | None:
        """What the head reads in evaluation in place of an image's appearance."""
        field: Any = self.field
        if field.embedding_appearance is None:
            return None
        mean = field.embedding_appearance.mean(dim=0)
        return mean if field.use_average_appearance_embedding else torch.zeros_like(mean)


class InstantNGPAdapter(NerfactoAdapter):
    """instant-ngp and instant-ngp-bounded: nerfacto's field, rendered by CUDA kernels alone."""

    @staticmethod
    def depth(config: Any) -> Literal["median", "expected"]:
        del config
        return "expected"

    @property
    def renders_natively(self) -> bool:
        return self.model.device.type == "cuda" and kernels_run("nerfacc")

    @property
    def grid(self) -> NestedGrid:
        """The model's own: its rays see nothing outside it."""
        estimator = self.model.occupancy_grid
        return NestedGrid(estimator.binaries, estimator.aabbs)


class VanillaAdapter(FieldAdapter):
    """vanilla-nerf and mipnerf: one configuration, two models."""

    @property
    def field(self) -> Field:
        fine = getattr(self.model, "field_fine", None)
        return self.model.field if fine is None else fine

    @staticmethod
    def space(config: Any) -> Space:
        if config.enable_temporal_distortion:
            raise InputError("The teacher moves with time (enable_temporal_distortion): it cannot be distilled.")
        near, far = collider_planes(config)
        return Space(near, far, contracted=False, background=config.background_color)

    def around(
        self, positions: Float[Tensor, "points 3"], directions: Float[Tensor, "points 3"], extent: float
    ) -> RaySamples:
        """For mipnerf a ball: it was never trained on points."""
        return ball_samples(positions, directions, extent)


class TensoRFAdapter(FieldAdapter):
    """tensorf: density alone, no features; it wants samples in two dimensions."""

    @staticmethod
    def space(config: Any) -> Space:
        return Space(0.0, FAR, contracted=False, background=config.background_color)

    @staticmethod
    def fit(model: Any, state: Mapping[str, Tensor]) -> None:
        for name in ("density_encoding", "color_encoding"):
            encoding = getattr(model.field, name)
            for key in ("plane_coef", "line_coef"):
                saved = state.get(f"field.{name}.{key}")
                if saved is not None and saved.shape[2] != encoding.resolution:
                    encoding.upsample_grid(saved.shape[2])

    def density_of(self, samples: RaySamples) -> Float[Tensor, "samples 1"]:
        density: Any = self.field.get_density(samples[:, None])
        return density[:, 0]

    def query(self, samples: RaySamples) -> Answer:
        answer = self.field(samples[:, None])
        density, rgb = answer[FieldHeadNames.DENSITY], answer[FieldHeadNames.RGB]
        return Answer(log_density=log_of(density[:, 0]), rgb=rgb[:, 0], feature=None)


class StudentAdapter(FieldAdapter):
    """A student of an earlier distillation. It has learned nothing outside its grid, and shows nothing there."""

    @staticmethod
    def knows(model: Any) -> bool:
        """All but a splat, whose Gaussians show whole views."""
        return isinstance(model.field, Field)

    @staticmethod
    def depth(config: Any) -> Literal["median", "expected"]:
        return config.depth or "median"

    @staticmethod
    def space(config: Any) -> Space:
        return Space(
            near=config.near_plane,
            far=config.far_plane,
            contracted=config.contracted,
            background=config.background_color,
        )

    @property
    def _has_features(self) -> bool:
        return getattr(self.model.config.chosen, "feature_dim", None) is not None

    @property
    def grid(self) -> OccupancyGrid:
        """The student's own."""
        return self.model.grid

    def query(self, samples: RaySamples) -> Answer:
        """What the field says; a student without a feature vector has something else in its place."""
        answer = super().query(samples)
        return answer if self._has_features else replace(answer, feature=None)

    def color_head(self) -> dict[str, Tensor] | None:
        field: Any = self.field
        head = field.color_head
        return None if head is None else {name: value.clone() for name, value in head.state_dict().items()}


class GenericAdapter(FieldAdapter):
    """Any other model. One whose field does not answer with density and colour shows its pixels alone."""

    @property
    def field(self) -> Any:
        fine = getattr(self.model, "field_fine", None)
        return getattr(self.model, "field", None) if fine is None else fine

    @staticmethod
    def space(config: Any) -> Space:
        """As far as the configuration has nerfstudio's usual names for it."""
        near, far = getattr(config, "near_plane", None), getattr(config, "far_plane", None)
        if not getattr(config, "overwrite_near_far_plane", True):  # surface models: the scene box bounds their rays
            near, far = None, None
        return Space(
            near=NEAR if near is None else near,
            far=FAR if far is None else far,
            contracted=not getattr(config, "disable_scene_contraction", True),
            background=getattr(config, "background_color", "black"),
        )

    @property
    def answers(self) -> bool:
        """Whether the field can be queried."""
        if not isinstance(self.field, Field):
            return False
        points = torch.zeros(2, 3, device=self.model.device)
        try:
            answer = self.query(point_samples(points, points + 1))
        except Exception:  # a field that is none of ours may fail in any way
            return False
        return answer.log_density.shape == (2, 1) and answer.rgb.shape == (2, 3)

    def density_of(self, samples: RaySamples) -> Float[Tensor, "samples 1"]:
        return self.field(samples)[FieldHeadNames.DENSITY]

    def around(
        self, positions: Float[Tensor, "points 3"], directions: Float[Tensor, "points 3"], extent: float
    ) -> RaySamples:
        return ball_samples(positions, directions, extent)

    def query(self, samples: RaySamples) -> Answer:
        """What the field's `forward` answers; with the feature where that is nerfstudio's own."""
        if type(self.field).forward is Field.forward:
            return super().query(samples)
        answer = self.field(samples)
        return Answer(log_of(answer[FieldHeadNames.DENSITY]), answer[FieldHeadNames.RGB], None)


class SplatAdapter(GenericAdapter):
    """Gaussians, of a file, of splatfacto or of a student: they show whole views, and have a density in a box."""

    @staticmethod
    def has_datas_box(config: Any) -> bool:
        """A file has none, and splatfacto saves none."""
        return hasattr(config, "contracted")

    @staticmethod
    def depth(config: Any) -> Literal["median", "expected"]:
        del config
        return "expected"

    @property
    def renders_natively(self) -> bool:
        """No single rays."""
        return False

    @property
    def answers(self) -> bool:
        """Not in contracted space, where the sky is a shell of Gaussians."""
        return not getattr(self.model.config, "contracted", False)

    @cached_property
    def _gaussians(self) -> SplatDensity:
        return SplatDensity(self.model.field.named)

    def occupied(self, box: Float[Tensor, "2 3"], resolution: int, least: float) -> Bool[Tensor, "x y z"]:
        return self._gaussians.occupied(box, resolution, least)

    def density(self, positions: Float[Tensor, "points 3"], extent: float) -> Float[Tensor, "points 1"]:
        size = torch.full_like(positions[:, :1], extent)
        return self._gaussians.density(positions, size, size)

    def density_of(self, samples: RaySamples) -> Float[Tensor, "samples 1"]:
        return self._gaussians.density(samples.frustums.get_positions(), *_sizes(samples))

    def crowd(self, samples: RaySamples) -> float:
        return self._gaussians.crowd(samples.frustums.get_positions(), *_sizes(samples))

    def query(self, samples: RaySamples) -> Answer:
        frustums = samples.frustums
        density, rgb = self._gaussians.query(frustums.get_positions(), frustums.directions, *_sizes(samples))
        return Answer(log_of(density), rgb, None)


def _sizes(samples: RaySamples) -> tuple[Float[Tensor, "samples 1"], Float[Tensor, "samples 1"]]:
    """Length of samples along their rays, and the distance to the neighbouring pixels' rays."""
    frustums = samples.frustums
    middle, length = (frustums.starts + frustums.ends) / 2, frustums.ends - frustums.starts
    return length, frustums.pixel_area.sqrt() * middle


ADAPTERS: dict[str, type[FieldAdapter]] = {
    "NerfactoModelConfig": NerfactoAdapter,
    "InstantNGPModelConfig": InstantNGPAdapter,
    "VanillaModelConfig": VanillaAdapter,
    "TensoRFModelConfig": TensoRFAdapter,
    "StudentModelConfig": StudentAdapter,
    "SplatTeacherConfig": SplatAdapter,
}
"""Class of a model's configuration, or of one of its bases, to the family's adapter."""


def adapter_of(config: ModelConfig) -> type[FieldAdapter]:
    """The adapter of a model's family.

    Raises:
        InputError: the configuration describes no nerfstudio model.
    """
    if not (isinstance(config._target, type) and issubclass(config._target, Model)):
        raise InputError(f"The teacher's config.yml names {config._target} as its model; it is no nerfstudio model.")
    for base in type(config).__mro__:
        if base.__name__ in ADAPTERS:
            return ADAPTERS[base.__name__]
    return GenericAdapter


def adapted(model: Model, family: type[FieldAdapter]) -> FieldAdapter:
    """The adapter of a model, which may be of another family than its configuration is."""
    if family.knows(model):
        return family(model)
    return SplatAdapter(model) if getattr(model, "is_drawn", False) else GenericAdapter(model)


def space_of(config: ModelConfig) -> Space:
    """How rays meet the scene of a model.

    Raises:
        InputError: its configuration does not say so.
    """
    space = adapter_of(config).space(config)
    planes = (space.near, space.far)
    are_numbers = all(isinstance(plane, (int, float)) and math.isfinite(plane) for plane in planes)
    if not are_numbers or not 0 <= planes[0] < planes[1]:
        raise InputError(f"The teacher's config.yml lets its rays start at {planes[0]} and end at {planes[1]}.")
    return space


def collider_planes(config: Any) -> tuple[float, float]:
    """Near and far plane of nerfstudio's stock collider; in evaluation it starts at the camera."""
    planes = (config.collider_params or {}) if config.enable_collider else {}
    return planes.get("near_plane", NEAR), planes.get("far_plane", FAR)


def log_of(density: Float[Tensor, "samples 1"]) -> Float[Tensor, "samples 1"]:
    """Logarithm of a density, bounded below."""
    return density.clamp_min(1e-10).log()
