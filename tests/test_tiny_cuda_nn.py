"""tiny-cuda-nn's layout in torch against its source in numpy, and against itself where it is installed."""

from pathlib import Path

import numpy as np
import pytest
import tcnn_reference as reference
import torch
from nerfstudio.utils.external import TCNN_EXISTS, tcnn

from pvd_nerfstudio import tiny_cuda_nn
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.teacher.frozen import FrozenTeacher

GRIDS = [
    # levels, coarsest, finest, log2 of the table, features: of nerfacto and its proposals, big, huge; a student
    (16, 16, 2048, 19, 2),
    (5, 16, 128, 17, 2),
    (5, 16, 256, 17, 2),
    (16, 16, 4096, 21, 4),
    (16, 16, 8192, 21, 4),
    (5, 16, 512, 17, 2),
    (7, 16, 2048, 17, 2),
    (14, 16, 2048, 10, 2),
    (4, 16, 1626, 22, 1),
    (3, 2, 9, 19, 8),
    (1, 16, 16, 19, 2),
    (16, 16, 32, 19, 2),
]


def grid(levels, coarsest, finest, log2, features, **more):
    growth = np.exp((np.log(finest) - np.log(coarsest)) / (levels - 1)) if levels > 1 else 1
    return {
        "otype": "HashGrid",
        "n_levels": levels,
        "n_features_per_level": features,
        "log2_hashmap_size": log2,
        "base_resolution": coarsest,
        "per_level_scale": growth,
    } | more


def mlp(width, hidden, last="None"):
    kind = "FullyFusedMLP" if width in (16, 32, 64, 128) else "CutlassMLP"
    return {
        "otype": kind,
        "activation": "ReLU",
        "output_activation": last,
        "n_neurons": width,
        "n_hidden_layers": hidden,
    }


def points(count, width=3):
    """Inside the unit cube and on its corners and faces."""
    some = torch.rand(count, width, generator=torch.Generator().manual_seed(1))
    some[0], some[1], some[2, 0] = 0.0, 1.0, 1.0
    return some


def random_params(module, seed=2, scale=1.0):
    with torch.no_grad():
        module.params.uniform_(-scale, scale, generator=torch.Generator().manual_seed(seed))
    return module.params.detach().numpy()


def close(ours, theirs, tolerance):
    theirs = torch.tensor(np.array(theirs), dtype=torch.float64)
    assert ours.shape == theirs.shape
    error = (ours.double() - theirs).abs().max() / theirs.abs().max().clamp_min(1.0)
    assert error < tolerance, float(error)


@pytest.mark.parametrize("sizes", GRIDS)
@pytest.mark.parametrize("interpolation", ["Linear", "Smoothstep", "Nearest"])
def test_hash_grids_are_those_of_the_source(sizes, interpolation):
    config = grid(*sizes, interpolation=interpolation)
    module = tiny_cuda_nn.Encoding(3, config)
    assert len(module.params) == reference.parameters_of_grid(config)
    params, some = random_params(module), points(6)
    close(module(some).detach(), [reference.encode(config, params, point) for point in some.numpy()], 1e-5)


def test_points_outside_the_cube_wrap_around_as_unsigned_numbers_do():
    config = grid(8, 16, 512, 12, 2)
    module = tiny_cuda_nn.Encoding(3, config)
    params, some = random_params(module), 3 * points(8) - 1
    close(module(some).detach(), [reference.encode(config, params, point) for point in some.numpy()], 1e-5)


NETWORKS = [
    # width, hidden layers, inputs, outputs; the last is of no hidden layer, which fully fused networks do not have
    (64, 1, 32, 16),
    (64, 2, 31, 3),
    (64, 2, 63, 3),
    (128, 2, 144, 3),
    (256, 2, 160, 3),
    (16, 1, 10, 1),
    (256, 1, 64, 33),
    (64, 3, 15, 40),
    (64, 0, 20, 5),
]


@pytest.mark.parametrize("width, hidden, inputs, outputs", NETWORKS)
@pytest.mark.parametrize("last", ["None", "Sigmoid"])
def test_networks_are_those_of_the_source(width, hidden, inputs, outputs, last):
    config = mlp(width, hidden, last)
    module = tiny_cuda_nn.Network(inputs, outputs, config)
    assert len(module.params) == reference.parameters_of_network(config, inputs, outputs)
    params, some = random_params(module, scale=0.2), 2 * points(5, inputs) - 1
    expected = [reference.network_alone(config, params, point, outputs) for point in some.numpy()]
    close(module(some).detach(), expected, 1e-5)


WITH_GRID = [
    (GRIDS[0], 64, 1, 16),
    (GRIDS[1], 16, 1, 1),
    (GRIDS[3], 128, 1, 16),
    (GRIDS[4], 256, 2, 16),
    (GRIDS[8], 64, 3, 20),
]


@pytest.mark.parametrize("sizes, width, hidden, outputs", WITH_GRID)
def test_networks_behind_a_grid_are_those_of_the_source(sizes, width, hidden, outputs):
    encoding, config = grid(*sizes), mlp(width, hidden)
    module = tiny_cuda_nn.NetworkWithInputEncoding(3, outputs, encoding, config)
    params, some = random_params(module, scale=0.2), points(5)
    expected = [reference.network_with_grid(encoding, config, params, point, outputs) for point in some.numpy()]
    close(module(some).detach(), expected, 1e-5)


@pytest.mark.parametrize("sizes, width, hidden, outputs", WITH_GRID)
def test_half_precision_stays_close(sizes, width, hidden, outputs):
    encoding, config = grid(*sizes), mlp(width, hidden)
    module = tiny_cuda_nn.NetworkWithInputEncoding(3, outputs, encoding, config)
    random_params(module, scale=0.2)
    module.half()
    params, some = module.params.detach().float().numpy(), points(5)

    def half(value):
        return float(np.float16(value))

    expected = [reference.network_with_grid(encoding, config, params, point, outputs, half) for point in some.numpy()]
    answer = module(some).detach()
    assert answer.dtype == torch.float16
    close(answer, expected, 2e-3)


FREE = [{"otype": "SphericalHarmonics", "degree": degree} for degree in (1, 2, 3, 4)] + [
    {"otype": "Frequency", "n_frequencies": count} for count in (2, 6)
]


@pytest.mark.parametrize("config", FREE)
def test_encodings_without_parameters_are_those_of_the_source(config):
    module, some = tiny_cuda_nn.Encoding(3, config), points(7)
    assert not len(module.params)
    close(module(some), [reference.encode(config, None, point) for point in some.numpy()], 1e-5)


def test_gradients_are_those_of_finite_differences():
    module = tiny_cuda_nn.NetworkWithInputEncoding(3, 2, grid(3, 4, 16, 6, 2), mlp(16, 1)).double()
    random_params(module, scale=0.5)
    some = points(4).double()

    def loss(params):
        return torch.func.functional_call(module, {"params": params}, some).sum()

    assert torch.autograd.gradcheck(loss, module.params, eps=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    "config, said",
    [
        ({"otype": "OneBlob", "n_bins": 4}, "OneBlob"),
        (grid(4, 16, 64, 10, 2, hash="Rng"), "Rng"),
        (grid(4, 16, 64, 10, 2, type="Tiled"), "Tiled"),
        ({"otype": "SphericalHarmonics", "degree": 6}, "degree 6"),
        ({}, "None"),
    ],
)
def test_encodings_that_are_not_known_are_named(config, said):
    with pytest.raises(InputError, match=said):
        tiny_cuda_nn.Encoding(3, config)


def test_a_vector_of_another_length_is_explained():
    module = tiny_cuda_nn.NetworkWithInputEncoding(3, 16, grid(4, 16, 64, 10, 2), mlp(64, 1))
    state = {"params": module.params[:-5].detach().clone()}
    with pytest.raises(RuntimeError) as raised:
        module.load_state_dict(state)
    said = str(raised.value)
    assert f"{len(module.params) - 5:,}" in said and "2,048 of the network 16 x 64 x 16" in said
    assert "8,192 of the hash grid of 4 levels" in said


LEGO = Path(__file__).parents[2] / "shared" / "teachers" / "lego-tcnn"


@pytest.fixture(scope="module")
def real():
    """tiny-cuda-nn itself."""
    if not TCNN_EXISTS:
        pytest.skip("tiny-cuda-nn is not installed")
    return tcnn


def compare(theirs, ours, some, scale=1.0):
    """The same parameters in both; half precision in one of them."""
    assert theirs.params.shape == ours.params.shape
    random_params(ours, scale=scale)
    theirs.params.data.copy_(ours.params.data)
    with torch.no_grad():
        answer, expected = ours.cuda()(some.cuda()), theirs(some.cuda())
    close(answer.cpu(), expected.float().cpu().numpy(), 4e-3)


@pytest.mark.cuda
@pytest.mark.parametrize("sizes", GRIDS)
def test_hash_grids_are_those_of_tiny_cuda_nn(real, sizes):
    config = grid(*sizes)
    compare(real.Encoding(3, config), tiny_cuda_nn.Encoding(3, config), points(4096))


@pytest.mark.cuda
@pytest.mark.parametrize("config", FREE)
def test_encodings_without_parameters_are_those_of_tiny_cuda_nn(real, config):
    compare(real.Encoding(3, config), tiny_cuda_nn.Encoding(3, config), points(4096))


@pytest.mark.cuda
@pytest.mark.parametrize("width, hidden, inputs, outputs", NETWORKS[:-1])
@pytest.mark.parametrize("last", ["None", "Sigmoid"])
def test_networks_are_those_of_tiny_cuda_nn(real, width, hidden, inputs, outputs, last):
    config = mlp(width, hidden, last)
    ours = tiny_cuda_nn.Network(inputs, outputs, config)
    compare(real.Network(inputs, outputs, config), ours, 2 * points(4096, inputs) - 1, scale=0.2)


@pytest.mark.cuda
@pytest.mark.parametrize("sizes, width, hidden, outputs", WITH_GRID)
def test_networks_behind_a_grid_are_those_of_tiny_cuda_nn(real, sizes, width, hidden, outputs):
    arguments = 3, outputs, grid(*sizes), mlp(width, hidden)
    theirs = real.NetworkWithInputEncoding(*arguments)
    compare(theirs, tiny_cuda_nn.NetworkWithInputEncoding(*arguments), points(4096), scale=0.2)


@pytest.mark.cuda
@pytest.mark.skipif(not LEGO.exists(), reason=f"{LEGO} is not here")
def test_a_teacher_answers_as_it_does_in_tiny_cuda_nn(real, monkeypatch):
    some = 3 * points(1 << 16).cuda() - 1.5
    towards = torch.nn.functional.normalize(points(1 << 16).cuda() - 0.5, dim=-1)
    theirs = FrozenTeacher(find_run(LEGO), "cuda").query_points(some, towards, 0.01)
    monkeypatch.setattr(tiny_cuda_nn, "TCNN_EXISTS", False)
    ours = FrozenTeacher(find_run(LEGO), "cuda").query_points(some, towards, 0.01)
    assert (theirs[0] - ours[0]).abs().mean() < 0.02
    assert (theirs[1] - ours[1]).abs().mean() < 0.005
