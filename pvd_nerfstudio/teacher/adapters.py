"""One small adapter for each family of nerfstudio fields.

An adapter says how the family is asked: which space it lives in, what its field answers at points, and which of its
weights a student can take over. A new family is a class here and a row in `ADAPTERS`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import Frustums, RaySamples
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.models.base_model import Model, ModelConfig
from torch import Tensor

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.rendering.space import Space


@dataclass
class Answer:
    """What a teacher says about points."""

    log_density: Float[Tensor, "points 1"]
    rgb: Float[Tensor, "points 3"]
    feature: Float[Tensor, "points channels"] | None


class FieldAdapter:
    """A model whose `field` answers as nerfstudio's `Field`: density and feature, then colour."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @staticmethod
    def space(config: Any) -> Space:
        """The space that a model of this family lives in, read from its configuration."""
        raise NotImplementedError

    @staticmethod
    def num_train_data(state: dict[str, Tensor]) -> int:
        """How many training images the weights were made for."""
        del state
        return 1

    def density(self, positions: Float[Tensor, "points 3"]) -> Float[Tensor, "points 1"]:
        """Density at world positions."""
        return self.model.field.get_density(point_samples(positions, positions))[0]

    def query(self, positions: Float[Tensor, "points 3"], directions: Float[Tensor, "points 3"]) -> Answer:
        """Density, feature and colour at world positions seen along directions."""
        samples = point_samples(positions, directions)
        density, feature = self.model.field.get_density(samples)
        rgb = self.model.field.get_outputs(samples, density_embedding=feature)[FieldHeadNames.RGB]
        return Answer(log_density=density.clamp_min(1e-10).log(), rgb=rgb, feature=feature)

    def color_head(self) -> dict[str, Tensor] | None:
        """Weights of a colour head that reads 16 spherical harmonics and the feature; None where there is none."""
        return None


class NerfactoAdapter(FieldAdapter):
    """nerfacto and depth-nerfacto."""

    @staticmethod
    def space(config: Any) -> Space:
        return Space(
            near=config.near_plane,
            far=config.far_plane,
            contracted=not config.disable_scene_contraction,
            background=config.background_color,
        )

    @staticmethod
    def num_train_data(state: dict[str, Tensor]) -> int:
        for key in ("field.embedding_appearance.embedding.weight", "camera_optimizer.pose_adjustment"):
            if key in state:
                return len(state[key])
        return 1

    def color_head(self) -> dict[str, Tensor] | None:
        """The head without its appearance inputs: in evaluation they are constants, which the first bias takes in."""
        field = self.model.field
        if field.mlp_head.tcnn_encoding is not None:
            return None
        weights = {name: value.clone() for name, value in field.mlp_head.state_dict().items()}
        if field.embedding_appearance is not None:
            plain = weights["layers.0.weight"].shape[1] - field.appearance_embedding_dim
            weights["layers.0.weight"], appearance = weights["layers.0.weight"].tensor_split([plain], dim=1)
            if field.use_average_appearance_embedding:
                weights["layers.0.bias"] += appearance @ field.embedding_appearance.mean(dim=0)
        return weights


class StudentAdapter(FieldAdapter):
    """A student of an earlier distillation."""

    @staticmethod
    def space(config: Any) -> Space:
        return Space(
            near=config.near_plane,
            far=config.far_plane,
            contracted=config.contracted,
            background=config.background_color,
        )

    def color_head(self) -> dict[str, Tensor] | None:
        return {name: value.clone() for name, value in self.model.field.color_head.state_dict().items()}


ADAPTERS: dict[str, type[FieldAdapter]] = {
    "NerfactoModelConfig": NerfactoAdapter,
    "StudentModelConfig": StudentAdapter,
}
"""Class of a model's configuration, or of one of its bases, to the family's adapter."""


def adapter_of(config: ModelConfig) -> type[FieldAdapter]:
    """The adapter of a model's family.

    Raises:
        InputError: there is none.
    """
    for base in type(config).__mro__:
        if base.__name__ in ADAPTERS and issubclass(config._target, Model):
            return ADAPTERS[base.__name__]
    raise InputError(
        f"The teacher's model, {type(config).__name__}, cannot be distilled yet. Teachers can be: nerfacto, "
        "depth-nerfacto, and runs of pvd-distill."
    )


def point_samples(positions: Float[Tensor, "points 3"], directions: Float[Tensor, "points 3"]) -> RaySamples:
    """Points in nerfstudio's words: rays that start there, with samples of no length."""
    zero = torch.zeros_like(positions[:, :1])
    frustums = Frustums(origins=positions, directions=directions, starts=zero, ends=zero, pixel_area=zero)
    return RaySamples(frustums=frustums, camera_indices=zero.long())
