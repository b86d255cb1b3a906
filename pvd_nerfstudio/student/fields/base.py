"""What every student field is: a shallow block (position to feature) and a deep one (feature, direction to colour)."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RaySamples
from nerfstudio.configs.base_config import InstantiateConfig
from nerfstudio.field_components.activations import trunc_exp
from nerfstudio.field_components.encodings import Encoding, SHEncoding
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.field_components.mlp import MLP
from nerfstudio.fields.base_field import Field, get_normalized_directions
from torch import Generator, Tensor, nn
from torch.nn import Parameter

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.ranges import COUNT, Ranges, between, ranges_of
from pvd_nerfstudio.rendering.space import Region

SMALLEST_MATRIX = 4
"""Rows and columns of a network's matrix that are learned as one: the layer of three colours is none."""
MAX_LOG_DENSITY = 7.0
"""Density is bounded by e^7 per scale, as in PVD's reference implementation: beyond it a sample is opaque anyway."""


@dataclass
class FieldConfig(InstantiateConfig):
    """What the pipeline asks of every student's configuration.

    A student whose deep block reads a vector that a teacher's can be compared with says its width in a field
    `feature_dim` (see FeatureFieldConfig). The ranges of its numbers are in `ranges`.
    """

    ranges: ClassVar[Ranges] = {}
    sizes: ClassVar[dict[str, dict[str, Any]]] = {}
    """What `pvd convert --size small` and `medium` set; `paper` are the defaults."""
    ladder: ClassVar[tuple[dict[str, Any], ...]] = ()
    """Sizes from small to large, for a file of a given size."""

    along_a_side: ClassVar[tuple[str, ...]] = ()
    """Sizes that are numbers of cells along each side of the scene box."""

    def enlarge(self, factor: float) -> None:
        """Keep cells as small in a scene box with longer sides."""
        for name in self.along_a_side:
            setattr(self, name, math.ceil(factor * getattr(self, name)))

    @property
    def learning_rate(self) -> float:
        """The learning rate that suits these sizes; tables and factors of all kinds measured best with this one."""
        return 2e-2

    @property
    def matrix_learning_rate(self) -> float:
        """That of the networks' matrices, which Muon learns."""
        return 5e-2

    @property
    def iterations(self) -> int:
        """Steps of a run when the user names none."""
        return 20000

    @property
    def preferred(self) -> dict[str, Any]:
        """Numbers of the method that suit it better than the preset's, by their names in DistillationConfig."""
        return {}

    @property
    def composed_of(self) -> tuple[str, ...]:
        """Names of the students that this one is composed of."""
        return ()

    @property
    @abstractmethod
    def num_parameters(self) -> int:
        """Numbers that the representation holds at its largest, to tell before anything is built if they fit."""

    @property
    def training_bytes(self) -> int:
        """Memory of training at that size: values, gradients, the optimiser's two running means, the average."""
        return 20 * self.num_parameters

    @property
    def disk_bytes(self) -> int:
        """What that size takes in the checkpoint of a finished run."""
        return 4 * self.num_parameters

    @property
    def is_drawn(self) -> bool:
        """Whether it shows whole views alone, and answers to no single ray."""
        return False

    def model(self) -> type:
        """The class of the model around the field."""
        from pvd_nerfstudio.student.model import StudentModel  # noqa: PLC0415 - which knows all fields

        return StudentModel

    @property
    def rates(self) -> dict[str, float]:
        """Learning rates of parameters that are learned each by its own; empty where they are learned together."""
        return {}

    def settle(self, device_type: str) -> None:
        """Replace what depends on the machine that trains by its value, so that config.yml says it."""

    def check(self, option: str) -> None:
        """Refuse numbers that do not go together, and whole ones without a range that are not positive.

        Args:
            option: what its options begin with, such as `--pipeline.model.mlp`.

        Raises:
            InputError: says which.
        """
        known = ranges_of(type(self))
        for name, value in vars(self).items():
            if type(value) is int and name not in known and not COUNT.holds(value):
                raise InputError(f"{option}.{name.replace('_', '-')} is {value}; it must be {COUNT.words}.")

    def encoder(self) -> Encoding:
        """The representation alone, position in the unit cube to a vector: a part of a composition.

        Raises:
            InputError: it has none.
        """
        raise InputError(f"{type(self).__name__} cannot be a part of a composition.")


@dataclass
class FeatureFieldConfig(FieldConfig):
    """What the fields with a feature vector and a colour head can be told."""

    ranges = {"feature_dim": COUNT, "color_layers": between(1, 64), "color_width": COUNT}

    feature_dim: int = 15
    """Width of the feature vector that the colour head reads; 15 matches nerfacto and instant-ngp teachers."""
    color_layers: int = 3
    """Layers of the colour head, the output included."""
    color_width: int = 64
    """Width of the colour head's hidden layers."""


class StudentField(Region, Field):
    """Base of the student fields.

    A subclass says what a position in the unit cube is worth (its log-density and what its colour is made of), and
    what colour that has from a direction. Scaling or contraction of space and the bound on the density are the same
    for all.

    Args:
        config: sizes.
        aabb: the scene box, `[2, 3]`.
        contracted: whether space outside a box in its middle is contracted, as nerfacto does, instead of cut off.
    """

    color_head: nn.Module | None
    """Reads 16 spherical harmonics of the direction and the feature."""

    def __init__(self, config: Any, aabb: Float[Tensor, "2 3"], contracted: bool) -> None:
        super().__init__(aabb, contracted)
        del config
        self.color_head = None

    @abstractmethod
    def encode(self, unit: Float[Tensor, "points 3"]) -> Float[Tensor, "points channels"]:
        """Log-density (first channel) and feature (the others) at positions in the unit cube.

        It is the density for the scene's scale and, in contracted space, for the length that a cell has in the
        middle: what is as opaque has the same number everywhere, and at every scale.
        """

    @abstractmethod
    def deep(
        self, feature: Float[Tensor, "points channels"], directions: Float[Tensor, "points 3"]
    ) -> Float[Tensor, "points 3"]:
        """Feature and view direction to colour in [0, 1]."""

    @property
    def matrices(self) -> list[Parameter]:
        """The matrices of its networks: what mixes channels, and no table or factor of places in space."""
        layers = [module for module in self.modules() if isinstance(module, nn.Linear)]
        return [layer.weight for layer in layers if min(layer.weight.shape) >= SMALLEST_MATRIX]  # type: ignore

    def regularization(self, generator: Generator) -> dict[str, Tensor]:
        """Terms of the loss that look at the field alone, already weighted."""
        del generator
        return {}

    def shallow(self, positions: Float[Tensor, "points 3"]) -> tuple[Tensor, Tensor]:
        """World positions to log-density `[points, 1]` and feature `[points, feature_dim]`."""
        out = self.encode(self.to_unit(positions).clamp(0, 1)).float()
        return out[:, :1] - self.stretch(positions).log(), out[:, 1:]

    def to_density(self, log_density: Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch 1"]:
        """Density of a log-density, bounded above."""
        return trunc_exp(log_density.clamp(max=MAX_LOG_DENSITY - math.log(self.scale)))

    def get_density(self, ray_samples: RaySamples) -> tuple[Tensor, Tensor]:
        """nerfstudio's name for the shallow block."""
        shape = ray_samples.frustums.shape
        log_density, feature = self.shallow(ray_samples.frustums.get_positions().reshape(-1, 3))
        return self.to_density(log_density).view(*shape, 1), feature.view(*shape, -1)

    def get_outputs(
        self, ray_samples: RaySamples, density_embedding: Tensor | None = None
    ) -> dict[FieldHeadNames, Tensor]:
        """nerfstudio's name for the deep block."""
        assert density_embedding is not None
        shape = ray_samples.frustums.shape
        directions = ray_samples.frustums.directions.expand(*shape, 3).reshape(-1, 3)
        rgb = self.deep(density_embedding.reshape(-1, density_embedding.shape[-1]), directions)
        return {FieldHeadNames.RGB: rgb.view(*shape, 3)}


class FeatureField(StudentField):
    """A field whose colours come from a feature vector through a small network.

    The network is laid out as nerfacto's colour head (16 spherical harmonics, then the feature), so that a teacher's
    weights fit.
    """

    def __init__(self, config: Any, aabb: Float[Tensor, "2 3"], contracted: bool) -> None:
        super().__init__(config, aabb, contracted)
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

    def deep(
        self, feature: Float[Tensor, "points channels"], directions: Float[Tensor, "points 3"]
    ) -> Float[Tensor, "points 3"]:
        assert self.color_head is not None
        encoded = self.direction_encoding(get_normalized_directions(directions))
        return self.color_head(torch.cat([encoded, feature], dim=-1)).float()
