"""Weights of earlier releases of nerfstudio, under the names and in the layout of the one that is installed.

Up to 0.3.1 nerfacto was made of tiny-cuda-nn's modules themselves; up to 0.3.4 it had its table and its network in two
modules, which were there twice. Both became one module in 1.0 (nerfstudio's pull requests 1936 and 2063).
"""

from typing import Any

import torch
from torch import Tensor, nn

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.tiny_cuda_nn import Perceptron, padded

GRID, NETWORK = "field.mlp_base_grid.", "field.mlp_base_mlp."
_TCNN = "tcnn_encoding.params"
_CONSTANTS = ("field.max_res", "field.num_levels", "field.log2_hashmap_size")
"""Numbers of the configuration among the weights, which were not always there."""


def current_layout(state: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """A state dict as this release would have saved it; one that has nothing old is returned as it is.

    Args:
        state: of any release.
        model: what it is for.

    Raises:
        InputError: this release has no module that computes the same.
    """
    wanted = model.state_dict()
    state = {_named(name, wanted): value for name, value in state.items()}
    if GRID + "hash_table" in state or GRID + _TCNN in state:
        twice = ("field.mlp_base.0.", "field.mlp_base.1.")
        state = {name: value for name, value in state.items() if not name.startswith(twice)}
        _join(state, model)
    for name in [name for name in state if name.startswith("proposal_networks.") and name.endswith(".mlp_base.params")]:
        _split(state, name.removesuffix("mlp_base.params"), model)
    for name, value in wanted.items():
        if name in _CONSTANTS or (name.endswith(_TCNN) and not value.numel()):
            state.setdefault(name, value)
    return state


def _named(name: str, wanted: dict[str, Any]) -> str:
    """The name under which modules of tiny-cuda-nn, and what moved into another module, are found today."""
    if name in wanted:
        return name
    owner, _, last = name.rpartition(".")
    if last == "params":
        for today in (f"{owner}.{_TCNN}", f"{owner}.model.params"):
            if today in wanted:
                return today
    return name


def _join(state: dict[str, Any], model: Any) -> None:
    """Table and network in one module."""
    if GRID + "hash_table" in state:
        state["field.mlp_base.model.0.hash_table"] = state.pop(GRID + "hash_table")
        for name in [name for name in state if name.startswith(NETWORK)]:
            state[f"field.mlp_base.model.1.{name.removeprefix(NETWORK)}"] = state.pop(name)
        return
    table, network = state.pop(GRID + _TCNN), state.pop(NETWORK + _TCNN, torch.zeros(0))
    module = model.field.mlp_base.model
    width = module.encoding_config["n_levels"] * module.encoding_config["n_features_per_level"]
    if padded(width) != width:
        first = _perceptron(module, width).matrices(network)[0]
        if first[:, width:].any():  # a constant input then, none today
            raise InputError(
                f"This run's table has {width} features, no multiple of 16, and tiny-cuda-nn pads them otherwise since "
                "nerfstudio 1.0: its network has no counterpart there."
            )
    state["field.mlp_base.model.params"] = torch.cat([network, table])


def _split(state: dict[str, Any], prefix: str, model: Any) -> None:
    """A proposal network's table and network in two modules; what the old one padded with zeros is padded with ones."""
    params: Tensor = state.pop(f"{prefix}mlp_base.params")
    module = model.get_submodule(f"{prefix}mlp_base.1.tcnn_encoding")
    perceptron = _perceptron(module, module.n_input_dims)
    network, table = params[: perceptron.size].clone(), params[perceptron.size :]
    perceptron.matrices(network)[0][:, module.n_input_dims :] = 0
    state[f"{prefix}mlp_base.1.{_TCNN}"] = network
    state[f"{prefix}encoding.{_TCNN}"] = state[f"{prefix}mlp_base.0.{_TCNN}"] = table


def _perceptron(module: Any, width: int) -> Perceptron:
    return Perceptron(padded(width), module.n_output_dims, module.network_config)
