"""Instant-NGP's representation: a multiresolution hash table and a small network."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float
from nerfstudio.field_components.encodings import Encoding
from nerfstudio.field_components.mlp import MLP
from nerfstudio.utils.external import TCNN_EXISTS
from torch import Tensor

from pvd_nerfstudio import tiny_cuda_nn
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.hash_table import HashTable
from pvd_nerfstudio.input.ranges import COUNT, between
from pvd_nerfstudio.student.fields.base import FeatureField, FeatureFieldConfig

FINEST = 1 << 20
"""Resolution up to which cells have indices."""


@dataclass
class HashFieldConfig(FeatureFieldConfig):
    """Sizes of the `hash` student; the defaults are the paper's."""

    ranges = {
        "num_levels": between(1, 64),
        "features_per_level": between(1, 64),
        "log2_hashmap_size": between(1, 60),
        "base_res": COUNT,
        "max_res": between(1, FINEST),
        "hidden_dim": COUNT,
    }
    sizes = {"small": {"log2_hashmap_size": 15}, "medium": {"log2_hashmap_size": 17}}
    along_a_side = "base_res", "max_res"
    ladder = tuple({"log2_hashmap_size": size} for size in range(8, 25))

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

    def enlarge(self, factor: float) -> None:
        """As far as tables are indexed."""
        super().enlarge(factor)
        self.max_res = min(self.max_res, FINEST)

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
            return HashTable(
                num_levels=self.num_levels,
                min_res=self.base_res,
                max_res=self.max_res,
                log2_hashmap_size=self.log2_hashmap_size,
                features_per_level=self.features_per_level,
                implementation=self.implementation,
            )


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
