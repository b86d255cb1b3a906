"""`mlp` and `vm` students in a .safetensors file: density and colour, with torch and safetensors alone."""

import json

import torch
from safetensors import safe_open
from torch.nn.functional import grid_sample, linear


class Student:
    def __init__(self, path):
        with safe_open(path, "pt") as file:
            self.about = json.loads(file.metadata()["student"])
            self.values = {name: file.get_tensor(name) for name in file.keys()}

    def network(self, x, name, skip=None):
        inputs = x
        for i in range(sum(key.startswith(name) and key.endswith("weight") for key in self.values)):
            x = x if i == 0 else x.relu() if i != skip else torch.cat([inputs, x.relu()], -1)
            x = linear(x, *(self.values[f"{name}.layers.{i}.{part}"] for part in ("weight", "bias")))
        return x

    def products(self, unit, name):  # of three planes and the lines across them, [points, 3 components]
        parts = [self.values[f"field.{name}_factors.{part}_coef"].permute(0, 3, 1, 2) for part in ("plane", "line")]
        places = [[[0, 1], [0, 2], [1, 2]], [[2, 2], [1, 1], [0, 0]]]
        places = [2 * torch.stack([unit[:, axes] for axes in three])[:, :, None] - 1 for three in places]
        planes, lines = (grid_sample(*pair, align_corners=True)[..., 0] for pair in zip(parts, places))
        return (planes * lines).flatten(0, 1).T

    def __call__(self, positions, directions):  # [points, 3] each, in the run's world
        about, (low, high), scale = self.about, torch.tensor(self.about["aabb"]), torch.tensor(self.about["scale"])
        unit, stretch, norm = (positions - low) / (high - low), scale, (positions / scale).abs().amax(-1, keepdim=True)
        if about["contracted"]:
            norm = norm.clamp_min(1)
            unit, stretch = ((2 - 1 / norm) * positions / scale / norm + 2) / 4, scale * norm**2
        unit, sizes = unit.clamp(0, 1), about["sizes"][about["architecture"]]
        if about["architecture"] == "mlp":
            angle = (2 * torch.pi * unit[..., None] * 2.0 ** torch.arange(sizes["num_frequencies"])).flatten(1)
            skip = sizes["num_layers"] // 2 if sizes["num_layers"] > 2 else None
            out = self.network(torch.cat([angle.sin(), (angle + torch.pi / 2).sin(), unit], -1), "field.trunk", skip)
        else:
            feature = linear(self.products(unit, "color"), self.values["field.basis.weight"])
            out = torch.cat([self.products(unit, "density").sum(-1, keepdim=True), feature], -1)
        x, y, z = ((directions + 1) / 2).unbind(-1)  # spherical harmonics as tiny-cuda-nn has them
        sh = [0.282095 + x * 0, 0.488603 * y, 0.488603 * z, 0.488603 * x, 1.092548 * x * y, 1.092548 * y * z]
        sh += [
            0.315392 * (3 * z * z - 1),
            1.092548 * x * z,
            0.546274 * (x * x - y * y),
            0.590044 * y * (3 * x * x - y * y),
        ]
        sh += [2.890611 * x * y * z, 0.457046 * y * (5 * z * z - 1), 0.373176 * z * (5 * z * z - 3)]
        sh += [0.457046 * x * (5 * z * z - 1), 1.445306 * z * (x * x - y * y), 0.590044 * x * (x * x - 3 * y * y)]
        feature = torch.cat([torch.stack(sh, -1), out[:, 1:]], -1)
        density = (out[:, :1] - stretch.log()).clamp(max=7 - scale.log()).exp()
        return density, self.network(feature, "field.color_head").sigmoid()
