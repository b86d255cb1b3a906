"""tiny-cuda-nn's modules in torch: the same constructors, the same flat `params`, any device.

Most runs of nerfacto and instant-ngp were trained with tiny-cuda-nn, which needs a CUDA GPU. Its layout is not that of
nerfstudio's torch modules, so its parameters can be read by nothing but modules that compute what it computes. These
are they; `nerfstudio` builds a model of them as it would of the real ones.

Source: github.com/NVlabs/tiny-cuda-nn at 6ee3546, named by file and line below.
"""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.field_components import encodings, mlp
from nerfstudio.fields import sdf_field
from nerfstudio.fields.base_field import get_normalized_directions
from nerfstudio.utils.external import TCNN_EXISTS
from nerfstudio.utils.math import components_from_spherical_harmonics
from torch import Tensor, nn
from torch.nn import functional

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.hash_table import sum_rows

FACTORS = (1, 2654435761, 805459861)
"""Of the hash, an axis each (common_device.h:789)."""
FINEST_DENSE = 0x659
"""Resolution above which a level is always hashed (common_device.h:858)."""
ALIGNMENT = 16
"""Widths of inputs and outputs of a network are multiples of it (fully_fused_mlp.h:110, cutlass_mlp.h:117)."""
_32_BITS = 0xFFFFFFFF

Config = dict[str, Any]


def runs_on(device: torch.device | str) -> bool:
    """Whether tiny-cuda-nn itself is installed and computes there."""
    return TCNN_EXISTS and torch.device(device).type == "cuda"


@contextmanager
def standing_in() -> Iterator[None]:
    """What nerfstudio builds of tiny-cuda-nn is built of this module."""
    with ExitStack() as stack:
        for module in (encodings, mlp, sdf_field):
            stack.enter_context(mock.patch.object(module, "tcnn", sys.modules[__name__]))
        for module in (encodings, mlp):
            stack.enter_context(mock.patch.object(module, "TCNN_EXISTS", True))
        yield


class Module(nn.Module):
    """What tiny-cuda-nn's modules have in common: one flat vector of parameters.

    Args:
        n_input_dims: width of the input.
        n_output_dims: width of the output.
        parts: what the parameters are of, in their order, and how many each has.
    """

    def __init__(self, n_input_dims: int, n_output_dims: int, parts: list[tuple[str, int]]) -> None:
        super().__init__()
        self.n_input_dims, self.n_output_dims, self._parts = n_input_dims, n_output_dims, parts
        self.params = nn.Parameter(torch.zeros(sum(count for _, count in parts)))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        """torch's; a vector of another length is explained."""
        saved, errors = state_dict.get(f"{prefix}params"), kwargs["error_msgs"] if kwargs else args[-1]
        if isinstance(saved, Tensor) and saved.shape != self.params.shape:
            of = ", ".join(f"{count:,} of the {name}" for name, count in self._parts) or "none"
            errors.append(
                f"{prefix}params holds {' x '.join(f'{size:,}' for size in saved.shape) or 1} numbers where "
                f"tiny-cuda-nn has {len(self.params):,} ({of})"
            )
            return
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class Encoding(Module):
    """An encoding alone, its output not padded (cpp_api.cu, create_encoding)."""

    def __init__(self, n_input_dims: int, encoding_config: Config, seed: int = 1337, dtype: Any = None) -> None:
        del dtype
        encode = encoding_of(n_input_dims, encoding_config)
        super().__init__(n_input_dims, encode.width, encode.parts)
        self.encoding_config, self._encode = encoding_config, encode
        encode.initialize(self.params.data, torch.Generator().manual_seed(seed))

    def forward(self, x: Float[Tensor, "points inputs"]) -> Float[Tensor, "points outputs"]:
        return self._encode(x, self.params)


class Network(Module):
    """A perceptron without biases; its input is padded with ones (cpp_api.cu, create_network; identity.h:62)."""

    def __init__(self, n_input_dims: int, n_output_dims: int, network_config: Config, seed: int = 1337) -> None:
        perceptron = Perceptron(padded(n_input_dims), n_output_dims, network_config)
        super().__init__(n_input_dims, n_output_dims, perceptron.parts)
        self.network_config, self._network = network_config, perceptron
        perceptron.initialize(self.params.data, torch.Generator().manual_seed(seed))

    def forward(self, x: Float[Tensor, "points inputs"]) -> Float[Tensor, "points outputs"]:
        more = padded(self.n_input_dims) - self.n_input_dims
        return self._network(functional.pad(x, (0, more), value=1.0), self.params)


class NetworkWithInputEncoding(Module):
    """An encoding and a perceptron, whose parameters come first (network_with_input_encoding.h:107)."""

    def __init__(
        self, n_input_dims: int, n_output_dims: int, encoding_config: Config, network_config: Config, seed: int = 1337
    ) -> None:
        encode = encoding_of(n_input_dims, encoding_config)
        perceptron = Perceptron(padded(encode.width), n_output_dims, network_config)
        super().__init__(n_input_dims, n_output_dims, perceptron.parts + encode.parts)
        self.encoding_config, self.network_config = encoding_config, network_config
        self._encode, self._network, self._first = encode, perceptron, perceptron.size
        generator = torch.Generator().manual_seed(seed)
        perceptron.initialize(self.params.data[: self._first], generator)
        encode.initialize(self.params.data[self._first :], generator)

    def forward(self, x: Float[Tensor, "points inputs"]) -> Float[Tensor, "points outputs"]:
        encoded = self._encode(x, self.params[self._first :])
        more = padded(self._encode.width) - self._encode.width
        before, after = (more, 0) if self._encode.pads_in_front else (0, more)
        encoded = functional.pad(encoded, (before, after), value=self._encode.padding)
        return self._network(encoded, self.params[: self._first])


def padded(width: int) -> int:
    """The width that a network's input or output has inside tiny-cuda-nn."""
    return -(-width // ALIGNMENT) * ALIGNMENT


class EncodingFunction:
    """What an encoding computes of a point and its parameters."""

    width: int
    """Of its output."""
    padding: float = 1.0
    """What a network finds behind it."""
    pads_in_front = False
    parts: list[tuple[str, int]] = []

    def initialize(self, params: Tensor, generator: torch.Generator) -> None:
        """Set the parameters that training starts with."""

    def __call__(self, x: Tensor, params: Tensor) -> Tensor:
        """Points `[points, inputs]`, most of them in [0, 1], to `[points, width]` of the parameters' precision."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Level:
    scale: float
    resolution: int
    entries: int

    @property
    def is_hashed(self) -> bool:
        """grid_index in common_device.h:869 to 881."""
        return self.resolution > FINEST_DENSE or self.entries < self.resolution**3


def grid_levels(config: Config) -> list[_Level]:
    """The levels of a hash grid (grid.h:699 to 721; common_device.h:886, in single precision)."""
    one = np.float32
    log2 = one(np.log2(np.float64(one(config["per_level_scale"]))))
    levels = []
    for level in range(config["n_levels"]):
        power = one(np.exp2(np.float64(one(level) * log2)))
        scale = float(power * one(config["base_resolution"]) - one(1))
        resolution = math.ceil(scale) + 1
        entries = min(-(-(resolution**3) // 8) * 8, 1 << config["log2_hashmap_size"])
        levels.append(_Level(scale, resolution, entries))
    return levels


class HashGrid(EncodingFunction):
    """Multiresolution grid, dense where a level fits into its table, else hashed (grid.h:94 to 161)."""

    padding = 0.0  # grid.h:760

    def __init__(self, inputs: int, config: Config) -> None:
        if inputs != 3:  # noqa: PLR2004
            raise InputError(f"tiny-cuda-nn's hash grid over {inputs} dimensions is not known here; 3 are.")
        kinds = {"type": "Hash", "hash": "CoherentPrime"}
        for option, known in kinds.items():
            if config.get(option, known) != known:
                raise InputError(f"tiny-cuda-nn's hash grid with {option} '{config[option]}' is not known here.")
        self._interpolation = config.get("interpolation", "Linear")
        if self._interpolation not in ("Linear", "Smoothstep", "Nearest"):
            raise InputError(f"tiny-cuda-nn's hash grid with interpolation '{self._interpolation}' is not known here.")
        self._features = config["n_features_per_level"]
        self._levels = grid_levels(config)
        self.width = len(self._levels) * self._features
        self._dense = next((i for i, level in enumerate(self._levels) if level.is_hashed), len(self._levels))
        entries = sum(level.entries for level in self._levels)
        self.parts = [(f"hash grid of {len(self._levels)} levels", entries * self._features)]

    def initialize(self, params: Tensor, generator: torch.Generator) -> None:
        params.uniform_(-1e-4, 1e-4, generator=generator)  # grid.h, initialize_params

    def __call__(self, x: Tensor, params: Tensor) -> Tensor:
        levels = self._levels
        scale = torch.tensor([level.scale for level in levels], device=x.device)
        position = x.float()[:, :, None] * scale + 0.5  # points, axes, levels
        lower = position.floor()
        share = position - lower
        if self._interpolation == "Smoothstep":
            share = share.square() * (3 - 2 * share)
        if self._interpolation == "Nearest":
            index = self._index(lower.long()[..., None])
            return params.view(-1, self._features)[index[:, 0]].flatten(1)
        index = self._index(torch.stack([lower, lower + 1], dim=-1).long())
        x_, y_, z_ = torch.stack([1 - share, share], dim=-1).transpose(2, 3).unbind(dim=1)  # points, 2, levels
        weights = x_[:, :, None, None] * y_[:, None, :, None] * z_[:, None, None]
        corners = index.transpose(1, 2).flatten(0, 1), weights.flatten(1, 3).transpose(1, 2).flatten(0, 1)
        return sum_rows(params.view(-1, self._features), *corners).view(len(x), -1)

    def _index(self, corners: Tensor) -> Tensor:
        """Entries of the corners' products, `[points, corners, levels]`, of coordinates `[points, 3, levels, 1|2]`.

        tiny-cuda-nn counts in unsigned numbers of 32 bits, whose products may overflow; those of 64 end alike.
        """
        first = np.cumsum([0, *(level.entries for level in self._levels)])[:-1]
        parts = []
        for hashed in (False, True):
            chosen = slice(self._dense, None) if hashed else slice(0, self._dense)
            levels = self._levels[chosen]
            if not levels:
                continue
            factors = [FACTORS if hashed else (1, level.resolution, level.resolution**2) for level in levels]
            factor = torch.tensor(factors, device=corners.device).T[None, :, :, None]
            x, y, z = (corners[:, :, chosen] * factor).transpose(2, 3).unbind(dim=1)  # points, 1|2, levels
            x, y, z = x[:, :, None, None], y[:, None, :, None], z[:, None, None]
            entries = torch.tensor([level.entries for level in levels], device=corners.device)
            index = (x ^ y ^ z) & (entries - 1) if hashed else ((x + y + z) & _32_BITS) % entries
            parts.append(index.flatten(1, 3) + torch.tensor(first[chosen], device=corners.device))
        return torch.cat(parts, dim=-1)


class SphericalHarmonics(EncodingFunction):
    """Of directions that were mapped to [0, 1] (spherical_harmonics.h:49; sh_enc in common_device.h)."""

    pads_in_front = True

    def __init__(self, inputs: int, config: Config) -> None:
        self._degree = config["degree"]
        if inputs != 3 or not 1 <= self._degree <= 4:  # noqa: PLR2004
            raise InputError(f"tiny-cuda-nn's spherical harmonics of degree {self._degree} are not known here; 4 are.")
        self.width = self._degree**2

    def __call__(self, x: Tensor, params: Tensor) -> Tensor:
        return harmonics(2 * x.float() - 1)[:, : self.width].to(params.dtype)


def harmonics(directions: Float[Tensor, "points 3"]) -> Float[Tensor, "points 16"]:
    """tiny-cuda-nn's spherical harmonics up to degree 4; the terms of odd order are the negatives of nerfstudio's."""
    x, y, z = directions.unbind(dim=-1)
    xx, yy, zz = x * x, y * y, z * z
    return torch.stack(
        [
            torch.full_like(x, 0.28209479177387814),
            -0.48860251190291987 * y,
            0.48860251190291987 * z,
            -0.48860251190291987 * x,
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.94617469575755997 * zz - 0.31539156525251999,
            -1.0925484305920792 * x * z,
            0.54627421529603959 * (xx - yy),
            0.59004358992664352 * y * (yy - 3 * xx),
            2.8906114426405538 * x * y * z,
            0.45704579946446572 * y * (1 - 5 * zz),
            0.3731763325901154 * z * (5 * zz - 3),
            0.45704579946446572 * x * (1 - 5 * zz),
            1.4453057213202769 * z * (xx - yy),
            0.59004358992664352 * x * (3 * yy - xx),
        ],
        dim=-1,
    )


class Frequency(EncodingFunction):
    """Sines and cosines of each number, frequency by frequency (frequency.h, frequency_encoding)."""

    def __init__(self, inputs: int, config: Config) -> None:
        self._frequencies = config["n_frequencies"]
        self.width = 2 * inputs * self._frequencies

    def __call__(self, x: Tensor, params: Tensor) -> Tensor:
        powers = 2.0 ** torch.arange(self._frequencies, device=x.device)
        angle = math.pi * x.float()[..., None] * powers
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).to(params.dtype)


ENCODINGS: dict[str, Callable[[int, Config], EncodingFunction]] = {
    "HashGrid": HashGrid,
    "SphericalHarmonics": SphericalHarmonics,
    "Frequency": Frequency,
}
"""Those that nerfstudio asks for."""


def encoding_of(inputs: int, config: Config) -> EncodingFunction:
    """What a configuration describes.

    Raises:
        InputError: nobody here knows it.
    """
    kind = config.get("otype")
    if kind not in ENCODINGS:
        raise InputError(f"tiny-cuda-nn's encoding '{kind}' is not known here; {', '.join(ENCODINGS)} are.")
    return ENCODINGS[kind](inputs, config)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "None": lambda x: x,
    "ReLU": torch.relu,
    "LeakyReLU": lambda x: functional.leaky_relu(x, 0.01),
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Softplus": lambda x: functional.softplus(x, beta=10.0),
}
"""common_device.h:108 to 180."""


class Perceptron:
    """Matrices one after another, `[outputs, inputs]` each; widths of outputs are padded and what is more is dropped.

    Source: fully_fused_mlp.cu:656 to 671, cutlass_mlp.cu:55 to 82.
    """

    def __init__(self, inputs: int, outputs: int, config: Config) -> None:
        width, hidden = config["n_neurons"], config["n_hidden_layers"]
        ends = [inputs, *[width] * hidden, padded(outputs)]
        self.shapes = list(zip(ends[1:], ends[:-1]))
        self._outputs = outputs
        names = [config.get("activation", "ReLU"), config.get("output_activation", "None")]
        unknown = [name for name in names if name not in ACTIVATIONS]
        if unknown:
            raise InputError(f"tiny-cuda-nn's activation '{unknown[0]}' is not known here.")
        self._inner, self._last = (ACTIVATIONS[name] for name in names)
        self.size = sum(rows * columns for rows, columns in self.shapes)
        self.parts = [(f"network {' x '.join(map(str, ends))}", self.size)]

    def initialize(self, params: Tensor, generator: torch.Generator) -> None:
        """Glorot's uniform (gpu_matrix.h, initialize_xavier_uniform)."""
        for matrix in self.matrices(params):
            matrix.uniform_(-1, 1, generator=generator).mul_(math.sqrt(6 / sum(matrix.shape)))

    def matrices(self, params: Tensor) -> list[Tensor]:
        """The weights of each layer."""
        sizes = [rows * columns for rows, columns in self.shapes]
        return [part.view(shape) for part, shape in zip(params.split(sizes), self.shapes)]

    def __call__(self, x: Tensor, params: Tensor) -> Tensor:
        *inner, last = self.matrices(params)
        x = x.to(params.dtype)
        for matrix in inner:
            x = self._inner(functional.linear(x, matrix))
        return self._last(functional.linear(x, last[: self._outputs]))


def color_head(module: Any, features: int, more: Tensor | None) -> dict[str, Tensor]:
    """A colour head of tiny-cuda-nn as nerfstudio's torch MLP that reads its spherical harmonics and the feature.

    The columns of ones that pad the input become the first bias, together with the inputs that are constants. The
    harmonics of both are linear in one another, of whatever point: nerfstudio's, whose signs differ, are asked with
    directions that were mapped to [0, 1] and not back.

    Args:
        module: this file's `Network`, or tiny-cuda-nn's.
        features: width of the feature.
        more: what is read behind it; None: nothing.

    Returns:
        The state dict of `MLP(16 + features, ...)`.
    """
    perceptron = Perceptron(padded(module.n_input_dims), module.n_output_dims, module.network_config)
    first, *inner, last = [matrix.detach().float() for matrix in perceptron.matrices(module.params.detach())]
    theirs, feature, behind = first.tensor_split([16, 16 + features], dim=1)
    constant = behind.new_ones(behind.shape[1])
    if more is not None:
        constant[: len(more)] = more.detach()
    weights = [torch.cat([theirs @ _from_nerfstudio().to(theirs), feature], dim=1), *inner, last[:3]]
    state = {f"layers.{number}.weight": weight.clone() for number, weight in enumerate(weights)}
    state |= {f"layers.{number}.bias": weight.new_zeros(len(weight)) for number, weight in enumerate(weights)}
    state["layers.0.bias"] = behind @ constant
    return state


def _from_nerfstudio() -> Float[Tensor, "16 16"]:
    """What makes tiny-cuda-nn's harmonics of a direction out of nerfstudio's torch ones."""
    generator = torch.Generator().manual_seed(0)
    directions = functional.normalize(torch.randn(64, 3, generator=generator, dtype=torch.float64), dim=-1)
    theirs = components_from_spherical_harmonics(4, get_normalized_directions(directions)).double()
    return torch.linalg.lstsq(theirs, harmonics(directions)).solution.T
