"""Compositions: two representations side by side, one head."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from nerfstudio.field_components.mlp import MLP
from torch import Tensor, nn

from pvd_nerfstudio.input.ranges import COUNT
from pvd_nerfstudio.student.fields.base import FeatureField, FeatureFieldConfig, FieldConfig


@dataclass
class HybridFieldConfig(FeatureFieldConfig):
    """What the `hybrid` student is composed of."""

    ranges = {"hidden_dim": COUNT}

    _target: type = field(default_factory=lambda: HybridField)
    parts: tuple[str, str] = ("hash", "vm")
    """The two students whose representations are put together; their own options give their sizes."""
    hidden_dim: int = 64
    """Width of the network behind them."""

    @property
    def composed_of(self) -> tuple[str, ...]:
        return self.parts

    @property
    def num_parameters(self) -> int:
        return 0  # its parts count for themselves


class HybridField(FeatureField):
    """Both parts see every position; a network with one hidden layer reads both answers."""

    def __init__(
        self,
        config: HybridFieldConfig,
        aabb: Float[Tensor, "2 3"],
        contracted: bool,
        parts: Mapping[str, FieldConfig],
    ) -> None:
        super().__init__(config, aabb, contracted)
        self.encoders = nn.ModuleList([parts[name].encoder() for name in config.parts])
        self.network = MLP(
            in_dim=sum(encoder.get_out_dim() for encoder in self.encoders),  # type: ignore
            num_layers=2,
            layer_width=config.hidden_dim,
            out_dim=1 + config.feature_dim,
        )

    def encode(self, unit: Float[Tensor, "points 3"]) -> Float[Tensor, "points channels"]:
        return self.network(torch.cat([encoder(unit).float() for encoder in self.encoders], dim=-1))
