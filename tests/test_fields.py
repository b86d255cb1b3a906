"""The student's fields: nerfstudio's own values, their bound, and the contraction of the teacher."""

import pytest
import torch
from nerfstudio.field_components.encodings import HashEncoding
from nerfstudio.field_components.spatial_distortions import SceneContraction

from pvd_nerfstudio.student.fields.base import FieldConfig, to_density
from pvd_nerfstudio.student.fields.hash import HashFieldConfig, OneGatherHashEncoding
from pvd_nerfstudio.student.fields.mlp import MLPFieldConfig

AABB = torch.tensor([[-1.5, -1.0, -1.0], [1.5, 1.0, 2.0]])
CONFIGS = [
    MLPFieldConfig(num_layers=4, hidden_dim=32),
    HashFieldConfig(num_levels=4, log2_hashmap_size=10, max_res=64, implementation="torch"),
]


def test_one_look_up_gives_nerfstudios_values_and_gradients() -> None:
    sizes = {"num_levels": 5, "log2_hashmap_size": 10, "max_res": 128, "implementation": "torch"}
    theirs, ours = HashEncoding(**sizes), OneGatherHashEncoding(**sizes)
    ours.load_state_dict(theirs.state_dict())
    points = torch.rand(500, 3)
    points[0], points[1], points[2] = 0.0, 1.0, 0.5
    for encoding in (theirs, ours):
        encoding(points).square().sum().backward()
    torch.testing.assert_close(ours(points), theirs(points), atol=1e-8, rtol=1e-5)
    torch.testing.assert_close(ours.hash_table.grad, theirs.hash_table.grad, atol=1e-8, rtol=1e-4)


@pytest.mark.parametrize("config", CONFIGS, ids=["mlp", "hash"])
def test_every_weight_learns_and_colours_stay_in_range(config: FieldConfig) -> None:
    field = config.setup(aabb=AABB, contracted=False)
    log_density, feature = field.shallow(torch.rand(200, 3) * 2 - 1)
    rgb = field.deep(feature, torch.nn.functional.normalize(torch.randn(200, 3), dim=-1))
    assert log_density.shape == (200, 1) and feature.shape == (200, config.feature_dim)
    assert rgb.min() >= 0 and rgb.max() <= 1
    (log_density.sum() + rgb.sum()).backward()
    for name, parameter in field.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_contracted_student_sees_the_space_that_nerfacto_sees() -> None:
    field = CONFIGS[0].setup(aabb=AABB, contracted=True)
    far = torch.tensor([[3.0, -8.0, 0.4], [40.0, 2.0, 900.0]])
    seen = []
    field.encode = lambda unit: seen.append(unit) or torch.zeros(len(unit), 16)
    field.shallow(far)
    torch.testing.assert_close(seen[0], (SceneContraction(order=float("inf"))(far) + 2) / 4)


def test_density_is_bounded() -> None:
    density = to_density(torch.tensor([[-50.0], [0.0], [50.0]]))
    assert torch.isfinite(density).all() and density[1] == 1.0
    assert density[2] == pytest.approx(torch.e**7, rel=1e-4)


def test_learning_rate_falls_with_the_width() -> None:
    assert MLPFieldConfig(hidden_dim=256).learning_rate < MLPFieldConfig(hidden_dim=128).learning_rate
