"""What every student field is: a shallow block (position to feature) and a deep one (feature, direction to colour)."""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RaySamples
from nerfstudio.configs.base_config import InstantiateConfig
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.field_components.activations import trunc_exp
from nerfstudio.field_components.encodings import SHEncoding
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.field_components.mlp import MLP
from nerfstudio.field_components.spatial_distortions import SceneContraction
from nerfstudio.fields.base_field import Field, get_normalized_directions
from torch import Tensor, nn

MAX_LOG_DENSITY = 7.0
"""Density is bounded by e^7, as in PVD's reference implementation: beyond it a sample is opaque anyway."""


@dataclass
class FieldConfig(InstantiateConfig):
    """What the fields of all architectures can be told."""

    _target: type = field(default_factory=lambda: StudentField)
    feature_dim: int = 15
    """Width of the feature vector that the colour head reads; 15 matches nerfacto and instant-ngp teachers."""
    color_layers: int = 3
    """Layers of the colour head, the output included."""
    color_width: int = 64
    """Width of the colour head's hidden layers."""

    @property
    def learning_rate(self) -> float:
        """The learning rate that suits these sizes."""
        return 1e-2

    @property
    def iterations(self) -> int:
        """Steps of a run when the user names none."""
        return 20000


class StudentField(Field):
    """Base of the student fields.

    A subclass says what a position in the unit cube is worth: its log-density and its feature. Everything else is
    the same for all: scaling or contraction of space, the bound on the density, the colour head. The colour head
    is laid out as nerfacto's (16 spherical harmonics, then the feature), so that a teacher's weights fit.

    Args:
        config: sizes.
        aabb: the scene box, `[2, 3]`.
        contracted: whether space outside the unit box is contracted, as nerfacto does, instead of cut off.
    """

    aabb: Tensor

    def __init__(self, config: Any, aabb: Float[Tensor, "2 3"], contracted: bool) -> None:
        super().__init__()
        self.register_buffer("aabb", aabb.clone())
        self.contraction = SceneContraction(order=float("inf")) if contracted else None
        self.direction_encoding = SHEncoding(levels=4, implementation="torch")
        self.color_head = MLP(
            in_dim=self.direction_encoding.get_out_dim() + config.feature_dim,
            num_layers=config.color_layers,
            layer_width=config.color_width,
            out_dim=3,
            activation=nn.ReLU(),
            out_activation=nn.Sigmoid(),
            implementation="torch",
        )

    @abstractmethod
    def encode(self, unit: Float[Tensor, "points 3"]) -> Float[Tensor, "points channels"]:
        """Log-density (first channel) and feature (the others) at positions in the unit cube."""

    def shallow(self, positions: Float[Tensor, "points 3"]) -> tuple[Tensor, Tensor]:
        """World positions to log-density `[points, 1]` and feature `[points, feature_dim]`."""
        if self.contraction is None:
            unit = SceneBox.get_normalized_positions(positions, self.aabb)
        else:
            unit = (self.contraction(positions) + 2) / 4
        out = self.encode(unit.clamp(0, 1)).float()
        return out[:, :1], out[:, 1:]

    def deep(
        self, feature: Float[Tensor, "points channels"], directions: Float[Tensor, "points 3"]
    ) -> Float[Tensor, "points 3"]:
        """Feature and view direction to colour in [0, 1]."""
        encoded = self.direction_encoding(get_normalized_directions(directions))
        return self.color_head(torch.cat([encoded, feature], dim=-1)).float()

    def get_density(self, ray_samples: RaySamples) -> tuple[Tensor, Tensor]:
        """nerfstudio's name for the shallow block."""
        shape = ray_samples.frustums.shape
        log_density, feature = self.shallow(ray_samples.frustums.get_positions().reshape(-1, 3))
        return to_density(log_density).view(*shape, 1), feature.view(*shape, -1)

    def get_outputs(
        self, ray_samples: RaySamples, density_embedding: Tensor | None = None
    ) -> dict[FieldHeadNames, Tensor]:
        """nerfstudio's name for the deep block."""
        assert density_embedding is not None
        shape = ray_samples.frustums.shape
        directions = ray_samples.frustums.directions.expand(*shape, 3).reshape(-1, 3)
        rgb = self.deep(density_embedding.reshape(-1, density_embedding.shape[-1]), directions)
        return {FieldHeadNames.RGB: rgb.view(*shape, 3)}


def to_density(log_density: Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch 1"]:
    """Density of a log-density, bounded above."""
    return trunc_exp(log_density.clamp(max=MAX_LOG_DENSITY))
