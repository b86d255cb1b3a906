"""The original NeRF's representation: a positional encoding and one deep network."""

from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from nerfstudio.field_components.encodings import Encoding, NeRFEncoding
from nerfstudio.field_components.mlp import MLP
from torch import Tensor

from pvd_nerfstudio.input.ranges import COUNT, between
from pvd_nerfstudio.student.fields.base import FeatureField, FeatureFieldConfig


@dataclass
class MLPFieldConfig(FeatureFieldConfig):
    """Sizes of the `mlp` student; the defaults are NeRF's."""

    ranges = {"num_layers": between(1, 64), "hidden_dim": COUNT, "num_frequencies": between(1, 32)}
    sizes = {"small": {"num_layers": 4, "hidden_dim": 128}, "medium": {"num_layers": 6, "hidden_dim": 192}}
    ladder = tuple({"num_layers": 4 if width <= 128 else 8, "hidden_dim": width} for width in range(32, 1025, 32))  # noqa: PLR2004

    _target: type = field(default_factory=lambda: MLPField)
    num_layers: int = 8
    """Layers of the trunk."""
    hidden_dim: int = 256
    """Width of the trunk."""
    num_frequencies: int = 10
    """Octaves of the positional encoding."""

    @property
    def learning_rate(self) -> float:
        """Wide networks take smaller steps: 8e-3 up to 128, 4e-3 at 256."""
        return min(8e-3, 1.0 / self.hidden_dim)

    @property
    def preferred(self) -> dict[str, Any]:
        """New chunks are rarer: with 4 x 128 one takes as long as several steps; more of them have not been tried."""
        return {"refresh_every": 48}

    @property
    def iterations(self) -> int:
        return 30000

    @property
    def num_parameters(self) -> int:
        return self.num_layers * self.hidden_dim**2

    def encoder(self) -> Encoding:
        return FrequencyNetwork(self, self.hidden_dim)


class FrequencyNetwork(Encoding):
    """Positional encoding and trunk with a skip connection half way (Mildenhall et al., NeRF, section 5)."""

    def __init__(self, config: MLPFieldConfig, out_dim: int) -> None:
        super().__init__(in_dim=3)
        self.out_dim, middle = out_dim, config.num_layers // 2
        self.position_encoding = NeRFEncoding(
            in_dim=3,
            num_frequencies=config.num_frequencies,
            min_freq_exp=0,
            max_freq_exp=config.num_frequencies - 1,
            include_input=True,
        )
        self.trunk = MLP(
            in_dim=self.position_encoding.get_out_dim(),
            num_layers=config.num_layers,
            layer_width=config.hidden_dim,
            out_dim=out_dim,
            skip_connections=(middle,) if middle < config.num_layers - 1 else None,  # type: ignore
        )

    def forward(self, in_tensor: Float[Tensor, "points 3"]) -> Float[Tensor, "points channels"]:
        return self.trunk(self.position_encoding(in_tensor))


class MLPField(FeatureField):
    """The network's first output is the log-density, the others are the feature."""

    def __init__(self, config: MLPFieldConfig, aabb: Float[Tensor, "2 3"], contracted: bool) -> None:
        super().__init__(config, aabb, contracted)
        network = FrequencyNetwork(config, 1 + config.feature_dim)
        self.position_encoding, self.trunk = network.position_encoding, network.trunk

    def encode(self, unit: Float[Tensor, "points 3"]) -> Float[Tensor, "points channels"]:
        return self.trunk(self.position_encoding(unit))
