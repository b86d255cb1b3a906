"""The splat student's parameters: 3D Gaussians with spherical harmonics (Kerbl et al., 2023), named as splatfacto's."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import Parameter

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.ranges import COUNT, above, at_least, between, inside
from pvd_nerfstudio.rendering.harmonics import (
    LARGEST_DEGREE,
    MIDDLE,
    PARAMETERS,
    SH_OF_ONE,
    SHAPES,
    bases_of,
    seen_from,
)
from pvd_nerfstudio.rendering.splatting import Gaussians
from pvd_nerfstudio.student.fields.base import FieldConfig
from pvd_nerfstudio.student.fields.growth import Growing, Moment

PICTURES, PIXEL_BYTES = 200, 20
"""Pictures in the bank, and bytes of one of their pixels."""
REFINED = 0.5
"""Share of a run within which Gaussians are removed and divided."""
NEIGHBOURS = 3
"""By whose distances a Gaussian's size is told."""


@dataclass
class SplatFieldConfig(FieldConfig):
    """Gaussian splats."""

    ranges = {
        "num_gaussians": COUNT,
        "sh_degree": between(0, LARGEST_DEGREE),
        "size": above(0),
        "flatness": above(0),
        "start_opacity": inside(0, 1),
        "means_lr": above(0),
        "scales_lr": above(0),
        "quats_lr": above(0),
        "opacities_lr": above(0),
        "features_dc_lr": above(0),
        "features_rest_lr": above(0),
        "start_share": between(0.01, 1),
        "refinements": at_least(0),
        "growth": between(0, 1),
        "opacity_weight": at_least(0),
        "scale_weight": at_least(0),
        "picture_size": between(16, 4096),
        "pictures_per_chunk": COUNT,
    }
    sizes = {"small": {"num_gaussians": 20_000, "sh_degree": 1}, "medium": {"num_gaussians": 40_000, "sh_degree": 1}}
    ladder = tuple(
        {"num_gaussians": count, "sh_degree": 1} for count in (5_000, 10_000, 20_000, 40_000, 80_000, 160_000)
    )

    _target: type = field(default_factory=lambda: GaussianField)
    num_gaussians: int = 50_000
    """Gaussians, at most."""
    sh_degree: int = 2
    """Degree of the spherical harmonics by which a colour depends on the direction; 0: not at all."""
    size: float = 0.45
    """How large a Gaussian is at the start, as a share of the mean distance to its three neighbours."""
    flatness: float = 0.3
    """How thick it is then, as a share of its other sizes, where the density says which way the surface faces."""
    start_opacity: float = 0.6
    """Opacity at the start."""
    means_lr: float = 1.5e-3
    """Learning rate of the positions, in scales of the scene; like all of these it falls as the run goes on."""
    scales_lr: float = 2e-2
    """Learning rate of the logarithms of the sizes."""
    quats_lr: float = 1e-2
    """Learning rate of the rotations."""
    opacities_lr: float = 1e-1
    """Learning rate of the opacities, before the sigmoid."""
    features_dc_lr: float = 2e-2
    """Learning rate of the colours."""
    features_rest_lr: float = 6e-3
    """Learning rate of how the colours depend on the direction."""
    start_share: float = 1.0
    """Share of the Gaussians that are there from the start; the others come with the refinements."""
    refinements: int = 0
    """How often, within the first half of the run, faint Gaussians are removed and others divided."""
    growth: float = 0.2
    """Share of the Gaussians that are divided at once, at most."""
    opacity_weight: float = 0.0
    """Weight of the mean opacity in the loss, so that what is not needed vanishes (Kheradmand et al., 2024)."""
    scale_weight: float = 0.0
    """Weight of the mean size in the loss, in scales of the scene."""
    picture_size: int = 200
    """Width and height of the pieces of views that are learned from, at most, in pixels."""
    pictures_per_chunk: int = 1
    """Pieces of views in a chunk of the bank."""

    @property
    def is_drawn(self) -> bool:
        return True

    def model(self) -> type:
        from pvd_nerfstudio.student.splat import SplatModel  # noqa: PLC0415

        return SplatModel

    @property
    def rates(self) -> dict[str, float]:
        """The learning rate of each parameter."""
        return {name: getattr(self, f"{name}_lr") for name in PARAMETERS}

    def check(self, option: str) -> None:
        """Also that all Gaussians come, sooner or later."""
        super().check(option)
        if self.start_share < 1 and not self.refinements:
            raise InputError(
                f"With {option}.start-share {self.start_share:g} the other Gaussians come with refinements, and "
                f"{option}.refinements is 0: set it, or lower {option}.num-gaussians instead."
            )

    def is_refined(self, step: int, steps: int) -> bool:
        """Whether Gaussians are removed and divided before a step of a run of so many."""
        times = [round(REFINED * steps * (number + 1) / self.refinements) for number in range(self.refinements)]
        return step > 0 and step in times

    @property
    def num_parameters(self) -> int:
        return self.num_gaussians * (11 + 3 * (self.sh_degree + 1) ** 2)

    @property
    def training_bytes(self) -> int:
        return super().training_bytes + PICTURES * PIXEL_BYTES * self.picture_size**2

    @property
    def iterations(self) -> int:
        return 10000

    @property
    def preferred(self) -> dict[str, Any]:
        return {"chunks": PICTURES, "start_chunks": 8, "fill_every": 6, "first_chunks": 48, "refresh_every": 24}


class GaussianField(Growing):
    """The Gaussians. How many there are is found out when a teacher is at hand; a checkpoint says it by its sizes.

    Args:
        config: sizes.
        aabb: the scene box, `[2, 3]`.
        contracted: what other fields need to know; Gaussians lie in the world.
    """

    color_head = None
    """It has no network."""

    aabb: Tensor
    means: Parameter
    scales: Parameter
    quats: Parameter
    opacities: Parameter
    features_dc: Parameter
    features_rest: Parameter

    def __init__(self, config: SplatFieldConfig, aabb: Float[Tensor, "2 3"], contracted: bool) -> None:
        super().__init__()
        del contracted
        self.register_buffer("aabb", aabb.clone())
        self.config, self.scale = config, 1.0
        for name, shape in (SHAPES | {"features_rest": (bases_of(config.sh_degree), 3)}).items():
            setattr(self, name, Parameter(torch.zeros(0, *shape)))

    def __len__(self) -> int:
        return len(self.means)

    def grow(self, now: Moment) -> bool:
        """Nothing grows by the clock alone."""
        del now
        return False

    @property
    def named(self) -> dict[str, Parameter]:
        """The parameters by splatfacto's names."""
        return {name: getattr(self, name) for name in PARAMETERS}

    def sow(
        self,
        positions: Float[Tensor, "gaussians 3"],
        colors: Float[Tensor, "gaussians 3"],
        normals: Float[Tensor, "gaussians 3"],
    ) -> None:
        """Put Gaussians on surfaces.

        Args:
            positions: of their middles.
            colors: from wherever they were looked at.
            normals: where the surface faces; zero where nobody knows.
        """
        config = self.config
        size = config.size * _mean_distance(positions, NEIGHBOURS)
        has_normal = normals.norm(dim=-1, keepdim=True) > 0
        across = torch.where(has_normal, config.flatness, 1.0) * size
        opacity = torch.full_like(size, math.log(config.start_opacity / (1 - config.start_opacity)))
        rest = self.features_rest.new_zeros(len(positions), *self.features_rest.shape[1:])
        values = (
            positions,
            torch.cat([size, size, across], dim=-1).log(),
            _turned_to(normals),
            opacity,
            (colors - MIDDLE) / SH_OF_ONE,
            rest,
        )
        for name, value in zip(PARAMETERS, values):
            setattr(self, name, Parameter(value.to(self.means)))

    def seen_from(self, eye: Float[Tensor, "3"]) -> Gaussians:
        """The Gaussians with the colours that they have from a point."""
        return seen_from(eye, self.named)

    def regularization(self, generator: Generator) -> dict[str, Tensor]:
        """What keeps opacities and sizes small, already weighted."""
        del generator
        config, terms = self.config, {}
        if config.opacity_weight:
            terms["opacity_regularization"] = config.opacity_weight * self.opacities.sigmoid().mean()
        if config.scale_weight:
            terms["scale_regularization"] = config.scale_weight * self.scales.exp().mean() / self.scale
        return terms


def _mean_distance(positions: Float[Tensor, "points 3"], count: int) -> Float[Tensor, "points 1"]:
    """The root of the mean of the squared distances to some neighbours, never zero."""
    from sklearn.neighbors import NearestNeighbors  # noqa: PLC0415

    points = positions.cpu().numpy()
    found = NearestNeighbors(n_neighbors=min(count + 1, len(points))).fit(points)
    distances = torch.from_numpy(found.kneighbors(points)[0][:, 1:]).to(positions)
    mean = distances.square().mean(dim=-1, keepdim=True).sqrt()
    return mean.clamp_min(float(mean.median()) / 100 + 1e-9)


def _turned_to(normals: Float[Tensor, "gaussians 3"]) -> Float[Tensor, "gaussians 4"]:
    """Quaternions, w first, that turn the third axis into these directions."""
    x, y, z = normals.unbind(dim=-1)
    down = z < -1 + 1e-6
    turned = torch.stack([1 + z, -y, x, torch.zeros_like(x)], dim=-1)
    turned = torch.where(down[:, None], torch.tensor([0.0, 1.0, 0.0, 0.0]).to(turned), turned)
    return torch.nn.functional.normalize(turned, dim=-1)
