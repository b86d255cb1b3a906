"""Instant-NGP's representation: a multiresolution hash table and a small network."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

import torch
from jaxtyping import Float
from nerfstudio.field_components.encodings import Encoding, HashEncoding
from nerfstudio.field_components.mlp import MLP
from nerfstudio.utils.external import TCNN_EXISTS
from torch import Tensor

from pvd_nerfstudio import tiny_cuda_nn
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.ranges import COUNT, between
from pvd_nerfstudio.student.fields.base import FeatureField, FeatureFieldConfig


@dataclass
class HashFieldConfig(FeatureFieldConfig):
    """Sizes of the `hash` student; the defaults are the paper's."""

    ranges = {
        "num_levels": between(1, 64),
        "features_per_level": between(1, 64),
        "log2_hashmap_size": between(1, 60),
        "base_res": COUNT,
        "max_res": between(1, 1 << 20),
        "hidden_dim": COUNT,
    }

    _target: type = field(default_factory=lambda: HashField)
    num_levels: int = 14
    """Levels of the table."""
    features_per_level: int = 2
    """Features of each entry."""
    log2_hashmap_size: int = 19
    """Logarithm of the entries of each level."""
    base_res: int = 16
    """Resolution of the coarsest level."""
    max_res: int = 2048
    """Resolution of the finest level."""
    hidden_dim: int = 64
    """Width of the network behind the table."""
    implementation: Literal["auto", "tcnn", "torch"] = "auto"
    """Whose layout the table has. tcnn: tiny-cuda-nn's, which computes it where it is installed; elsewhere, also where
    the finished run is opened, torch does. auto: tcnn where it is installed."""

    def settle(self, device_type: str) -> None:
        """`auto` becomes what this machine has."""
        if self.implementation == "auto":
            self.implementation = "tcnn" if tiny_cuda_nn.runs_on(device_type) else "torch"

    def check(self, option: str) -> None:
        """Also the order of the resolutions."""
        super().check(option)
        if self.base_res > self.max_res:
            raise InputError(
                f"{option}.base-res is {self.base_res} and {option}.max-res {self.max_res}: the coarsest level would "
                "be finer than the finest."
            )

    @property
    def num_parameters(self) -> int:
        return self.num_levels * self.features_per_level << self.log2_hashmap_size

    def encoder(self) -> Encoding:
        """The table. `auto` must have been settled."""
        assert self.implementation != "auto"
        # A field is built before it is known where it will be: where there is a GPU, it is there.
        with nullcontext() if TCNN_EXISTS else tiny_cuda_nn.standing_in():
            return OneGatherHashEncoding(
                num_levels=self.num_levels,
                min_res=self.base_res,
                max_res=self.max_res,
                log2_hashmap_size=self.log2_hashmap_size,
                features_per_level=self.features_per_level,
                implementation=self.implementation,
            )


class OneGatherHashEncoding(HashEncoding):
    """nerfstudio's encoding with one look-up in place of eight.

    Each look-up has a gradient of the table's size: with eight of them most of a training step on the CPU would be
    spent on zeros. The values are the same.
    """

    def pytorch_fwd(self, in_tensor: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch channels"]:
        """Trilinear interpolation of the hashed corners of each level's cell (Instant NGP, section 3)."""
        scaled = in_tensor[..., None, :] * self.scalings.to(in_tensor)[:, None]
        lower = scaled.floor()
        share = scaled - lower
        upper = torch.tensor(list(product((0, 1), repeat=3)), device=in_tensor.device)[:, None]
        corners = lower.int()[..., None, :, :] + upper
        weights = torch.where(upper.bool(), share[..., None, :, :], 1 - share[..., None, :, :]).prod(dim=-1)
        values = self.hash_table[self.hash_fn(corners)]
        return (weights[..., None] * values).sum(dim=-3).flatten(-2)


class HashField(FeatureField):
    """Hash table and a network with one hidden layer (Müller et al., Instant NGP)."""

    def __init__(self, config: HashFieldConfig, aabb: Float[Tensor, "2 3"], contracted: bool) -> None:
        super().__init__(config, aabb, contracted)
        self.table = config.encoder()
        self.network = MLP(
            in_dim=self.table.get_out_dim(), num_layers=2, layer_width=config.hidden_dim, out_dim=1 + config.feature_dim
        )

    def encode(self, unit: Float[Tensor, "points 3"]) -> Float[Tensor, "points channels"]:
        return self.network(self.table(unit).float())
