"""tiny-cuda-nn in numpy, one point and one number at a time: what its source says, and nothing that is fast.

Written from NVlabs/tiny-cuda-nn at commit 6ee3546, file and line beside each step; it shares no code with
`pvd_nerfstudio.tiny_cuda_nn`, which is compared with it.
"""

from math import ceil, exp, floor, log, pi, sin, tanh

import numpy as np

FACTORS = (1, 2654435761, 805459861)  # common_device.h:789
UINT32 = 1 << 32


def single(value):
    """Rounded to single precision."""
    return np.float32(value)


def grid_scale(level, per_level_scale, base_resolution):
    """common_device.h:886, in single precision throughout; grid.h:701 takes the logarithm."""
    log2 = single(np.log2(np.float64(single(per_level_scale))))
    power = single(np.exp2(np.float64(single(single(level) * log2))))
    return single(single(power * single(base_resolution)) - single(1))


def grid_resolution(scale):
    """common_device.h:893"""
    return ceil(float(scale)) + 1


def level_sizes(config):
    """Entries of each level: grid.h:699 to 721."""
    sizes = []
    for level in range(config["n_levels"]):
        resolution = grid_resolution(grid_scale(level, config["per_level_scale"], config["base_resolution"]))
        most = (UINT32 - 1) // 2
        count = most if float(resolution) ** 3 > most else resolution**3
        count = (count + 7) // 8 * 8
        sizes.append(min(count, 1 << config["log2_hashmap_size"]))
    return sizes


def grid_index(size, resolution, corner):
    """common_device.h:848"""
    stride, index = 1, 0
    if resolution <= 0x659:
        for coordinate in corner:
            index = (index + coordinate * stride) % UINT32
            stride = stride * resolution % UINT32
    else:
        stride = 0xFFFFFFFF
    if size < stride:
        index = 0
        for coordinate, factor in zip(corner, FACTORS):
            index ^= coordinate * factor % UINT32
    return index % size


def hash_grid(config, params, point):
    """grid.h:94 to 161: the levels' features, one after another."""
    features = config["n_features_per_level"]
    out, first = [], 0
    for level, size in enumerate(level_sizes(config)):
        scale = grid_scale(level, config["per_level_scale"], config["base_resolution"])
        resolution = grid_resolution(scale)
        cell, share = [], []
        for coordinate in point:
            position = float(scale) * float(coordinate) + 0.5  # common_device.h:1038, a fused multiply-add
            position = float(single(position))
            below = floor(position)
            cell.append(below % UINT32)
            part = float(single(position - below))
            if config.get("interpolation") == "Smoothstep":
                part = part * part * (3 - 2 * part)
            share.append(part)
        total = np.zeros(features)
        corners = 1 if config.get("interpolation") == "Nearest" else 8
        for corner in range(corners):
            weight, place = 1.0, []
            for axis in range(3):
                upper = corner >> axis & 1
                weight *= share[axis] if upper else 1 - share[axis]
                place.append((cell[axis] + upper) % UINT32)
            entry = (first + grid_index(size, resolution, place)) * features
            total += (1.0 if corners == 1 else weight) * params[entry : entry + features]
        out += list(total)
        first += size
    return out


def spherical_harmonics(degree, point):
    """spherical_harmonics.h:65 and sh_enc in common_device.h, up to degree 4."""
    x, y, z = (2 * float(coordinate) - 1 for coordinate in point)
    terms = [
        0.28209479177387814,
        -0.48860251190291987 * y,
        0.48860251190291987 * z,
        -0.48860251190291987 * x,
        1.0925484305920792 * x * y,
        -1.0925484305920792 * y * z,
        0.94617469575755997 * z * z - 0.31539156525251999,
        -1.0925484305920792 * x * z,
        0.54627421529603959 * x * x - 0.54627421529603959 * y * y,
        0.59004358992664352 * y * (-3 * x * x + y * y),
        2.8906114426405538 * x * y * z,
        0.45704579946446572 * y * (1 - 5 * z * z),
        0.3731763325901154 * z * (5 * z * z - 3),
        0.45704579946446572 * x * (1 - 5 * z * z),
        1.4453057213202769 * z * (x * x - y * y),
        0.59004358992664352 * x * (-x * x + 3 * y * y),
    ]
    return terms[: degree**2]


def frequency(count, point):
    """frequency.h, kernel frequency_encoding"""
    out = []
    for coordinate in point:
        for j in range(2 * count):
            out.append(sin(float(coordinate) * 2 ** (j // 2) * pi + j % 2 * pi / 2))
    return out


ACTIVATIONS = {
    "None": lambda x: x,
    "ReLU": lambda x: max(x, 0.0),
    "LeakyReLU": lambda x: x if x > 0 else 0.01 * x,
    "Sigmoid": lambda x: 1 / (1 + exp(-x)),
    "Tanh": tanh,
    "Softplus": lambda x: log(exp(10 * x) + 1) / 10,
}
"""common_device.h:108 to 180"""


def layers(config, inputs, outputs):
    """Shapes of the matrices, padded to 16: fully_fused_mlp.cu:656, cutlass_mlp.cu:55."""
    width, hidden = config["n_neurons"], config["n_hidden_layers"]
    padded = (outputs + 15) // 16 * 16
    if hidden == 0:
        return [(padded, inputs)]
    return [(width, inputs)] + [(width, width)] * (hidden - 1) + [(padded, width)]


def network(config, params, values, outputs, rounded=lambda x: x):
    """A perceptron without biases; `rounded` is what happens to each number between two layers."""
    shapes, first = layers(config, len(values), outputs), 0
    values = [rounded(value) for value in values]
    for number, (rows, columns) in enumerate(shapes):
        matrix = params[first : first + rows * columns].reshape(rows, columns)
        first += rows * columns
        last = number == len(shapes) - 1
        act = ACTIVATIONS[config["output_activation" if last else "activation"]]
        values = [rounded(act(float(np.dot(row, values)))) for row in matrix]
    return values[:outputs]


def padded_with(value, values):
    """A network's input is a multiple of 16 wide: encoding.h:70, with `alignment` 16."""
    return list(values) + [value] * (-len(values) % 16)


def parameters_of_grid(config):
    return sum(level_sizes(config)) * config["n_features_per_level"]


def parameters_of_network(config, inputs, outputs):
    return sum(rows * columns for rows, columns in layers(config, (inputs + 15) // 16 * 16, outputs))


def encode(config, params, point):
    """An encoding alone."""
    kinds = {
        "HashGrid": lambda: hash_grid(config, params, point),
        "SphericalHarmonics": lambda: spherical_harmonics(config["degree"], point),
        "Frequency": lambda: frequency(config["n_frequencies"], point),
    }
    return kinds[config["otype"]]()


def network_alone(config, params, values, outputs, rounded=lambda x: x):
    """`Network`: its input goes through an identity that pads with ones (cpp_api.cu, identity.h:62)."""
    return network(config, params, padded_with(1.0, values), outputs, rounded)


def network_with_grid(encoding, config, params, point, outputs, rounded=lambda x: x):
    """`NetworkWithInputEncoding` (network_with_input_encoding.h:107): the network's parameters come first."""
    width = encoding["n_levels"] * encoding["n_features_per_level"]
    count = parameters_of_network(config, width, outputs)
    encoded = hash_grid(encoding, params[count:], point)
    return network(config, params[:count], padded_with(0.0, encoded), outputs, rounded)
