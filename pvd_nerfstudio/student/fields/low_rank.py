"""Factorised volumes: TensoRF's sums of products of planes and lines (VM) or of lines alone (CP), and the tri-plane."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp, log
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.field_components.encodings import Encoding, TensorCPEncoding, TensorVMEncoding, TriplaneEncoding
from torch import Tensor, nn
from torch.nn import functional

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.ranges import COUNT, SHARE, at_least
from pvd_nerfstudio.student.fields.base import FeatureField, FeatureFieldConfig
from pvd_nerfstudio.student.fields.growth import Growing, Moment
from pvd_nerfstudio.student.fields.interpolation import cell_corners, weighted_rows

LINES = ((2,), (1,), (0,))
"""Axis of each of the three lines, in nerfstudio's order."""
PLANES = ((1, 0), (2, 0), (2, 1))
"""Axes along the rows and the columns of each of the three planes, in nerfstudio's order."""
COARSEST = 2
"""Vertices along an axis that linear interpolation needs."""


@dataclass
class LowRankFieldConfig(FeatureFieldConfig):
    """What factorised volumes can be told."""

    ranges = {
        "resolution": at_least(COARSEST),
        "start_resolution": at_least(COARSEST),
        "grow_at": SHARE,
        "density_components": COUNT,
        "color_components": COUNT,
        "init_scale": at_least(0),
        "density_l1": at_least(0),
    }
    sizes = {
        "small": {"resolution": 128, "start_resolution": 64},
        "medium": {"resolution": 200, "start_resolution": 128},
    }
    along_a_side = "resolution", "start_resolution"
    ladder = tuple({"resolution": size, "start_resolution": min(128, size // 2)} for size in range(16, 1025, 8))

    _target: type = field(default_factory=lambda: LowRankField)
    resolution: int = 300
    """Vertices along each axis at the end of the run."""
    start_resolution: int = 128
    """Vertices along each axis at its start."""
    grow_at: tuple[float, ...] = (0.067, 0.1, 0.133, 0.183, 0.233)
    """Shares of the run at which the factors become finer, always by the same ratio (TensoRF, section 4)."""
    density_components: int = 16
    """Components of the density in each direction."""
    color_components: int = 48
    """Components of the appearance in each direction."""
    init_scale: float = 0.1
    """Standard deviation of the factors at the start."""
    density_l1: float = 0.0
    """Weight of the mean absolute density factor in the loss (TensoRF, section 4): keeps empty space empty. Not in a
    composition, whose parts have no density of their own."""

    @abstractmethod
    def factors(self, components: int) -> "FactorEncoding":
        """A volume of vectors, with so many components in each direction."""

    def encoder(self) -> Encoding:
        return self.factors(self.density_components + self.color_components)

    def check(self, option: str) -> None:
        """Also the order of the resolutions, which the growth needs."""
        super().check(option)
        if self.start_resolution > self.resolution:
            raise InputError(
                f"The factors would start with a resolution of {self.start_resolution} and end with "
                f"{self.resolution}: lower {option}.start-resolution or raise {option}.resolution."
            )

    def resolution_at(self, progress: float) -> int:
        """Vertices along each axis at a share of the run."""
        done = sum(progress >= share for share in self.grow_at) / max(1, len(self.grow_at))
        if done == 1 or not self.grow_at:
            return self.resolution
        return round(exp((1 - done) * log(self.start_resolution) + done * log(self.resolution)))


class FactorEncoding(Growing, Encoding):
    """What the three of nerfstudio's encodings share here: rows to look up, growth, loading at any resolution.

    Takes positions in the unit cube, where nerfstudio's own take [-1, 1]; the values are the same. The factors are
    `[3, height, width, components]`, rows of a table: nerfstudio's have the components in front.
    """

    def __init__(self, config: LowRankFieldConfig, components: int, **options: Any) -> None:
        super().__init__(
            resolution=config.resolution_at(0), num_components=components, init_scale=config.init_scale, **options
        )
        self.config = config
        for name, factor in list(self.named_parameters()):
            setattr(self, name, nn.Parameter(factor.data.permute(0, 2, 3, 1).contiguous()))

    def grow(self, now: Moment) -> bool:
        resolution = self.config.resolution_at(now.progress)
        if all(factor.shape[1] >= resolution for factor in self.parameters()):
            return False
        for name in [name for name, _ in self.named_parameters()]:
            now.resize(self, name, lambda value: _resampled(value, resolution))
        return True


class VMEncoding(FactorEncoding, TensorVMEncoding):
    """Vector-matrix products (TensoRF, eq. 3), `[points, 3 components]`."""

    def forward(self, in_tensor: Float[Tensor, "points 3"]) -> Float[Tensor, "points channels"]:
        product = look_up(self.plane_coef, in_tensor, PLANES) * look_up(self.line_coef, in_tensor, LINES)
        return product.transpose(0, 1).flatten(1)


class CPEncoding(FactorEncoding, TensorCPEncoding):
    """Products of three vectors (TensoRF, eq. 1), `[points, components]`."""

    def forward(self, in_tensor: Float[Tensor, "points 3"]) -> Float[Tensor, "points channels"]:
        x, y, z = look_up(self.line_coef, in_tensor, LINES)
        return x * y * z


class PlanesEncoding(FactorEncoding, TriplaneEncoding):
    """Products of three planes (K-Planes, eq. 1), `[points, components]`."""

    def __init__(self, config: LowRankFieldConfig, components: int) -> None:
        super().__init__(config, components, reduce="product")

    def forward(self, in_tensor: Float[Tensor, "points 3"]) -> Float[Tensor, "points channels"]:
        first, second, third = look_up(self.plane_coef, in_tensor, PLANES)
        return first * second * third


class LowRankField(FeatureField):
    """Log-density: the sum of the density's components. Feature: a linear map of the appearance's (TensoRF, eq. 6)."""

    def __init__(self, config: LowRankFieldConfig, aabb: Float[Tensor, "2 3"], contracted: bool) -> None:
        super().__init__(config, aabb, contracted)
        self.density_l1 = config.density_l1
        self.density_factors = config.factors(config.density_components)
        self.color_factors = config.factors(config.color_components)
        self.basis = nn.Linear(self.color_factors.get_out_dim(), config.feature_dim, bias=False)

    def encode(self, unit: Float[Tensor, "points 3"]) -> Float[Tensor, "points channels"]:
        log_density = self.density_factors(unit).sum(dim=-1, keepdim=True)
        return torch.cat([log_density, self.basis(self.color_factors(unit))], dim=-1)

    def regularization(self, generator: torch.Generator) -> dict[str, Tensor]:
        if not self.density_l1:
            return {}
        factors = torch.cat([factor.flatten() for factor in self.density_factors.parameters()])
        return {"density_l1": self.density_l1 * factors.abs().mean()}


@dataclass
class VMFieldConfig(LowRankFieldConfig):
    """Sizes of the `vm` student; the defaults are those of TensoRF's VM-192."""

    def factors(self, components: int) -> FactorEncoding:
        return VMEncoding(self, components)

    @property
    def num_parameters(self) -> int:
        return 3 * (self.density_components + self.color_components) * (self.resolution + 1) * self.resolution


@dataclass
class CPFieldConfig(LowRankFieldConfig):
    """Sizes of the `cp` student; the defaults are those of TensoRF's CP-384."""

    resolution: int = 500
    """Vertices along each axis at the end of the run."""
    density_components: int = 96
    """Components of the density."""
    color_components: int = 288
    """Components of the appearance."""
    init_scale: float = 0.3
    """Standard deviation of the factors at the start."""

    def factors(self, components: int) -> FactorEncoding:
        return CPEncoding(self, components)

    @property
    def num_parameters(self) -> int:
        return 3 * (self.density_components + self.color_components) * self.resolution


@dataclass
class TriplaneFieldConfig(LowRankFieldConfig):
    """Sizes of the `triplane` student."""

    init_scale: float = 0.3
    """Standard deviation of the factors at the start."""

    def factors(self, components: int) -> FactorEncoding:
        return PlanesEncoding(self, components)

    @property
    def num_parameters(self) -> int:
        return 3 * (self.density_components + self.color_components) * self.resolution**2


def look_up(
    factors: Float[Tensor, "3 height width components"],
    unit: Float[Tensor, "points 3"],
    axes: Sequence[tuple[int, ...]],
) -> Float[Tensor, "3 points components"]:
    """Three planes (or lines, which have one column) at the coordinates along their axes, linearly interpolated."""
    vertices = factors.shape[1]
    corners = [cell_corners(torch.stack([unit[:, axis] for axis in chosen], dim=-1), vertices) for chosen in axes]
    index = torch.cat([number + k * vertices ** len(axes[k]) for k, (number, _) in enumerate(corners)])
    rows = factors.view(-1, factors.shape[3])
    return weighted_rows(rows, index, torch.cat([weight for _, weight in corners])).view(3, len(unit), -1)


def _resampled(factors: Tensor, resolution: int) -> Tensor:
    """Factors at another resolution; lines keep their one column."""
    size = resolution, resolution if factors.shape[2] > 1 else 1
    fine = functional.interpolate(factors.permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=True)
    return fine.permute(0, 2, 3, 1).contiguous()
