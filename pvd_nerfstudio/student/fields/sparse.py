"""Plenoxels' representation: values at the vertices of a sparse voxel grid, and no network.

With no network to share what was seen, each vertex would have to meet many rays. A teacher that answers at points is
queried at the vertices themselves, at the start and after each subdivision, and training goes on from there.
"""

from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from nerfstudio.field_components.encodings import Encoding
from nerfstudio.utils.math import components_from_spherical_harmonics
from torch import Generator, Tensor
from torch.nn import Parameter, functional

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.ranges import SHARE, at_least, between
from pvd_nerfstudio.input.text import say
from pvd_nerfstudio.rendering.occupancy import unpacked
from pvd_nerfstudio.student.fields.base import MAX_LOG_DENSITY, FieldConfig, StudentField
from pvd_nerfstudio.student.fields.growth import Growing, Moment
from pvd_nerfstudio.student.fields.interpolation import cell_corners, weighted_rows
from pvd_nerfstudio.student.fields.packed import NAMES, packed
from pvd_nerfstudio.student.fields.packed import unpacked as unpacked_table
from pvd_nerfstudio.student.memory import check_fits

NOTHING = 0
"""Row of the table for vertices that are not stored. It holds zeros and learns nothing."""
EMPTY = -8.0
"""Log-density where nothing is stored: what the first channel is counted from."""
DENSITY_SCALE = 10.0
"""Log-density of one unit in the table: log-densities go from -8 to 7, coefficients of colours from -3 to 3."""
CONSTANT_HARMONIC = 0.28209479
"""The spherical harmonic of degree 0."""
START = 0.0
"""Log-density that training starts with."""
OCCUPIED_SHARE = 0.06
"""Share of a scene's vertices that are usually kept; the sizes are checked with it before the scene is known."""
INDEX_BYTES = 24
"""What a vertex of the index takes while it is built."""
MAX_DEGREE = 3
HARDLY_SEEN = 0.01
"""Compositing weight under which contracted space is dropped."""
CARRYING = 64
"""Cells along each side in which the largest weights are looked for; and one about each is kept."""


@dataclass
class SparseFieldConfig(FieldConfig):
    """Sizes of the `sparse` student."""

    ranges = {
        "resolution": at_least(2),
        "subdivide_at": SHARE,
        "prune_at": SHARE,
        "prune_threshold": at_least(0),
        "prune_weight": SHARE,
        "sh_degree": between(0, MAX_DEGREE),
        "tv_weight": at_least(0),
    }
    sizes = {"small": {"resolution": 128}, "medium": {"resolution": 192}}
    ladder = tuple({"resolution": size} for size in range(16, 513, 8))

    _target: type = field(default_factory=lambda: SparseField)
    resolution: int = 256
    """Voxels along each side at the end of the run."""
    subdivide_at: tuple[float, ...] = (0.03, 0.06)
    """Shares of the run at which every voxel is cut into eight; the run starts that much coarser."""
    prune_at: tuple[float, ...] = (0.5,)
    """Shares of the run at which voxels without density are dropped, as they are at each subdivision."""
    prune_threshold: float = 0.1
    """Density under which a voxel and all its neighbours hold nothing."""
    prune_weight: float | None = None
    """Share of any pixel's light under which what lies about a voxel is dropped, when it is cut or pruned; left out:
    0.01 in contracted space, where fog fills everything; nothing in a scene box and in a composition."""
    sh_degree: int = 2
    """Degree of the spherical harmonics of the colour, 0 to 3: 1, 4, 9 or 16 coefficients a colour."""
    tv_weight: float = 0.0
    """Weight of the total variation in the loss (Plenoxels, eq. 3): smooths what no view pins down. Not in a
    composition."""

    @property
    def preferred(self) -> dict[str, Any]:
        """Twice the batch: a step's time is the update of the table, whatever the number of rays."""
        return {"rays_per_step": 2048, "points_per_step": 16384}

    @property
    def coefficients(self) -> int:
        """Of each colour."""
        return (self.sh_degree + 1) ** 2

    @property
    def channels(self) -> int:
        """Log-density, and the coefficients of three colours."""
        return 1 + 3 * self.coefficients

    @property
    def num_parameters(self) -> int:
        return round(OCCUPIED_SHARE * self.channels * (self.resolution + 1) ** 3)

    @property
    def training_bytes(self) -> int:
        return super().training_bytes + INDEX_BYTES * (self.resolution + 1) ** 3

    @property
    def disk_bytes(self) -> int:
        return self.num_parameters * (self.channels + 1) // self.channels  # a byte each, and two for the density

    def encoder(self) -> Encoding:
        return VoxelEncoding(self)

    def check(self, option: str) -> None:
        """Also that the resolution can be halved as often as it is subdivided."""
        super().check(option)
        coarsest = 1 << len(self.subdivide_at)
        if self.resolution < coarsest or self.resolution % coarsest:
            raise InputError(
                f"{option}.resolution is {self.resolution}, which cannot be halved {len(self.subdivide_at)} times: "
                f"choose a multiple of {coarsest}, or fewer subdivisions ({option}.subdivide-at)."
            )

    def enlarge(self, factor: float) -> None:
        """In whole voxels of the start."""
        coarsest = 1 << len(self.subdivide_at)
        self.resolution = coarsest * ceil(factor * self.resolution / coarsest)

    def resolution_at(self, progress: float) -> int:
        """Voxels along each side at a share of the run."""
        return self.resolution >> sum(progress < share for share in self.subdivide_at)

    def phase_at(self, progress: float) -> int:
        """How many times the grid has been subdivided or pruned at a share of the run, counting the start."""
        return 1 + sum(progress >= share for share in (*self.subdivide_at, *self.prune_at))


class VoxelEncoding(Growing, Encoding):
    """Trilinear interpolation of the values at vertices, of which only those in occupied space are stored.

    `index [vertices, vertices, vertices]` gives each vertex its row of `table [rows, channels]`. A checkpoint holds
    the table, packed in that of a finished run, and one bit a vertex in place of the index.
    """

    index: Int[Tensor, "x y z"]
    place: Int[Tensor, "rows"]

    def __init__(self, config: SparseFieldConfig) -> None:
        super().__init__(in_dim=3)
        self.config = config
        self.out_dim = config.channels
        self.phase, self.is_packed = 0, False
        self.least_weight = config.prune_weight or 0.0
        self.register_buffer("index", torch.empty(0), persistent=False)
        self.register_buffer("place", torch.empty(0), persistent=False)
        self._number(torch.zeros((config.resolution_at(0) + 1,) * 3, dtype=torch.bool))
        self.table = Parameter(torch.zeros(1, config.channels))

    def forward(self, in_tensor: Float[Tensor, "points 3"]) -> Float[Tensor, "points channels"]:
        number, weight = cell_corners(in_tensor, len(self.index))
        rows = self.index.view(-1)[number]
        return weighted_rows(self.table, rows, weight, nothing=NOTHING)

    @property
    def stored(self) -> Bool[Tensor, "x y z"]:
        """Which vertices have a row."""
        return self.index != NOTHING

    @torch.no_grad()
    def grow(self, now: Moment) -> bool:
        """Take the voxels of occupied space at the start; subdivide and prune them when it is time."""
        self.is_packed = False  # it is learned on
        phase, resolution = self.config.phase_at(now.progress), self.config.resolution_at(now.progress)
        if phase <= self.phase:
            return False
        if self.phase == 0:
            self._start(now)
        else:
            self._prune(now)
        if len(self.index) <= resolution:
            occupied = self._occupied(now)
            while len(self.index) <= resolution:
                self._subdivide(occupied, now)
            self._take_over(now)
        self.phase = phase
        return True

    def _start(self, now: Moment) -> None:
        """Store the vertices of occupied space."""
        occupied = self._occupied(now)
        self._check_memory(int(_vertices(occupied).sum()))
        self._number(_vertices(_coarser(occupied, len(self.index) - 1)))
        self.table.data = self.table.new_zeros(len(self.place), self.out_dim)
        self.table.data[1:, 0] = (START - EMPTY) / DENSITY_SCALE
        self._take_over(now)

    def _prune(self, now: Moment) -> None:
        """Drop the vertices without density, at themselves or beside them; all of them are never dropped."""
        stored = self.stored
        dense = torch.zeros_like(stored)
        density = torch.exp(self.table[1:, 0] * DENSITY_SCALE + EMPTY)
        dense[stored] = density > self.config.prune_threshold
        wanted = stored & (functional.max_pool3d(dense[None].float(), 3, stride=1, padding=1)[0] > 0)
        if self.least_weight and now.carried is not None:
            wanted &= self._seen(now.carried(min(CARRYING, len(stored) - 1)))
        if not wanted.any():
            say(
                "No voxel has the density of --pipeline.model.sparse.prune-threshold and the weight of prune-weight: "
                "all are kept.",
                "yellow",
            )
            return
        rows = torch.cat([self.index.new_zeros(1), self.index[wanted]]).long()
        now.resize(self, "table", lambda values: values[rows])
        self._number(wanted)

    def _seen(self, weights: Float[Tensor, "x y z"]) -> Bool[Tensor, "vertices vertices vertices"]:
        """Vertices in cells that carry weight, or beside them."""
        cells = functional.max_pool3d((weights >= self.least_weight)[None].float(), 3, stride=1, padding=1)
        voxels = functional.interpolate(cells[None], size=(len(self.index) - 1,) * 3, mode="nearest")[0, 0] > 0
        return _vertices(voxels)

    def neighbours(self, rows: Int[Tensor, "rows"]) -> Int[Tensor, "rows 3"]:
        """Rows of the next vertex along each axis; NOTHING where none is stored."""
        steps = torch.eye(3, dtype=torch.long, device=rows.device)
        x, y, z = (self._coordinates(rows)[:, None] + steps).clamp_max(len(self.index) - 1).unbind(-1)
        return self.index[x, y, z].long()

    def _coordinates(self, rows: Int[Tensor, "rows"]) -> Int[Tensor, "rows 3"]:
        """Where the vertices of rows stand in the grid."""
        place, vertices = self.place[rows].long(), len(self.index)
        return torch.stack([place // vertices**2, place // vertices % vertices, place % vertices], dim=-1)

    def pack(self) -> None:
        """Round the table to what a checkpoint of a finished run holds."""
        self.table.data = unpacked_table(packed(self.table.data), self.out_dim)
        self.is_packed = True

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.is_packed:
            parts = packed(destination.pop(f"{prefix}table").detach())
            destination |= {f"{prefix}{name}": part for name, part in parts.items()}

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **options: Any) -> None:
        self.is_packed = all(f"{prefix}{name}" in state_dict for name in NAMES)
        if self.is_packed:
            parts = {name: state_dict.pop(f"{prefix}{name}") for name in NAMES}
            state_dict[f"{prefix}table"] = unpacked_table(parts, self.out_dim)
        super()._load_from_state_dict(state_dict, prefix, *args, **options)

    def get_extra_state(self) -> dict[str, Any]:
        """The stored vertices as a checkpoint holds them, eight in a byte, and how often they have changed."""
        bits = np.packbits(self.stored.cpu().numpy())
        return {"phase": self.phase, "vertices": len(self.index), "stored": torch.from_numpy(bits)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """The stored vertices from a checkpoint."""
        self.phase, vertices = int(state["phase"]), int(state["vertices"])
        if not 1 < vertices <= self.config.resolution + 1:
            raise ValueError(f"{vertices} vertices along a side of at most {self.config.resolution} voxels")
        self._number(unpacked(state["stored"], (vertices, vertices, vertices)).to(self.index.device))
        if len(self.table) != len(self.place):
            raise ValueError(f"{len(self.table) - 1} values for {len(self.place) - 1} vertices")

    def _number(self, wanted: Bool[Tensor, "x y z"]) -> None:
        """Give the wanted vertices rows, from 1 on."""
        flat = wanted.flatten()
        self.index = torch.where(flat, flat.cumsum(0), NOTHING).int().view_as(wanted)
        self.place = torch.cat([flat.new_zeros(1, dtype=torch.int), flat.nonzero()[:, 0].int()])

    def _subdivide(self, occupied: Bool[Tensor, "x y z"], now: Moment) -> None:
        """Twice the voxels along each side, of occupied space; the interpolation stays what it was."""
        vertices = 2 * len(self.index) - 1
        children = functional.interpolate(_voxels(self.stored)[None].float(), scale_factor=2)[0, 0] > 0
        wanted = _vertices(children & _coarser(occupied, vertices - 1))
        number, weight = cell_corners(wanted.nonzero() / (vertices - 1), len(self.index))
        rows = self.index.view(-1)[number]
        now.resize(
            self,
            "table",
            lambda values: torch.cat([values[:1], weighted_rows(values, rows, weight, nothing=NOTHING)]),
        )
        self._number(wanted)

    def _take_over(self, now: Moment) -> None:
        """Start from the teacher: its density at each vertex, and its colour as the same in all directions."""
        if now.teacher is None or len(self.place) == 1:
            return
        rows = torch.arange(1, len(self.place), device=self.place.device)
        log_density, rgb = now.teacher(self._coordinates(rows) / (len(self.index) - 1))
        values = self.table.data[1:]
        values[:, :1] = (log_density.clamp(EMPTY, MAX_LOG_DENSITY) - EMPTY) / DENSITY_SCALE
        values[:, 1 :: self.config.coefficients] = torch.logit(rgb, eps=0.01) / CONSTANT_HARMONIC
        now.forget(self.table, [0, *range(1, self.out_dim, self.config.coefficients)])

    def _occupied(self, now: Moment) -> Bool[Tensor, "x y z"]:
        """The finest voxels that occupied space reaches into, as far as the occupancy grid can tell."""
        finest = self.config.resolution
        each = ceil(now.cells / finest)
        middles = (torch.arange(finest * each, device=self.index.device) + 0.5) / (finest * each)
        slabs = []
        for x in middles.split(8 * each):
            unit = torch.stack(torch.meshgrid(x, middles, middles, indexing="ij"), dim=-1)
            hit = now.occupied(unit.view(-1, 3)).view(unit.shape[:3])
            slabs.append(functional.max_pool3d(hit[None].float(), each)[0] > 0)
        return torch.cat(slabs)

    def _check_memory(self, vertices: int) -> None:
        needed = 20 * vertices * self.out_dim
        what = f"The sparse student's {vertices:,} vertices with {self.out_dim} channels"
        check_fits(needed, self.index.device, what, "Lower --pipeline.model.sparse.resolution or sh-degree.")


class SparseField(StudentField):
    """Log-density and the coefficients of spherical harmonics, straight from the voxels (Plenoxels, section 3.1).

    There is no feature vector: what `shallow` gives beside the log-density are the coefficients.
    """

    def __init__(self, config: SparseFieldConfig, aabb: Float[Tensor, "2 3"], contracted: bool) -> None:
        super().__init__(config, aabb, contracted)
        self.sh_degree = config.sh_degree
        self.tv_weight = config.tv_weight
        self.voxels = VoxelEncoding(config)
        if config.prune_weight is None and contracted:
            self.voxels.least_weight = HARDLY_SEEN

    def encode(self, unit: Float[Tensor, "points 3"]) -> Float[Tensor, "points channels"]:
        values = self.voxels(unit)
        return torch.cat([values[:, :1] * DENSITY_SCALE + EMPTY, values[:, 1:]], dim=-1)

    def deep(
        self, feature: Float[Tensor, "points channels"], directions: Float[Tensor, "points 3"]
    ) -> Float[Tensor, "points 3"]:
        basis = components_from_spherical_harmonics(self.sh_degree + 1, directions)
        return torch.sigmoid((feature.view(len(feature), 3, -1) * basis[:, None]).sum(dim=-1))

    def regularization(self, generator: Generator, samples: int = 8192) -> dict[str, Tensor]:
        table = self.voxels.table
        if not self.tv_weight or len(table) == 1:
            return {}
        rows = torch.randint(1, len(table), (samples,), generator=generator, device=table.device)
        beside = self.voxels.neighbours(rows)
        steps = (table[beside] - table[rows, None]) * (beside != NOTHING)[..., None]
        return {"total_variation": self.tv_weight * (steps.square().sum(dim=1) + 1e-8).sqrt().mean()}


def _voxels(vertices: Bool[Tensor, "x y z"]) -> Bool[Tensor, "1 x-1 y-1 z-1"]:
    """Voxels with a vertex that is set."""
    return functional.max_pool3d(vertices[None].float(), 2, stride=1) > 0


def _coarser(voxels: Bool[Tensor, "x y z"], resolution: int) -> Bool[Tensor, "x y z"]:
    """A voxel of a coarser grid is set when any of those in it is."""
    ratio = len(voxels) // resolution
    return functional.max_pool3d(voxels[None].float(), ratio)[0] > 0


def _vertices(voxels: Bool[Tensor, "x y z"]) -> Bool[Tensor, "x+1 y+1 z+1"]:
    """Corners of the voxels that are set."""
    return functional.max_pool3d(functional.pad(voxels[None].float(), (1,) * 6), 2, stride=1)[0] > 0
