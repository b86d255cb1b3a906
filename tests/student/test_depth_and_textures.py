"""What comes out of a student beside its colours."""

from typing import Any

import pytest
import torch
from conftest import Run
from nerfstudio.cameras.rays import Frustums, RayBundle, RaySamples
from nerfstudio.model_components.renderers import DepthRenderer
from nerfstudio.utils.eval_utils import eval_setup

from pvd_nerfstudio.rendering.compositing import median_depth


def test_the_median_is_nerfstudios() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(20, 30, 1, generator=generator) * torch.rand(20, 1, 1, generator=generator) / 10
    ends = torch.rand(20, 30, 1, generator=generator).cumsum(dim=1)
    starts = torch.cat([torch.zeros(20, 1, 1), ends[:, :-1]], dim=1)
    zero = torch.zeros(20, 30, 3)
    samples = RaySamples(Frustums(zero, zero, starts, ends, starts))
    expected = DepthRenderer("median")(weights, samples)
    index = torch.arange(20).repeat_interleave(30)
    far = torch.full((21, 1), 77.0)
    found = median_depth(weights.flatten(0, 1), ((starts + ends) / 2).flatten(0, 1), index, far)
    torch.testing.assert_close(found[:20], expected)
    assert found[20] == 77.0


@pytest.fixture(scope="module")
def pipeline(student: Run) -> Any:
    return eval_setup(student.config)[1]


def test_both_depths_and_no_stretched_colour_map(pipeline: Any) -> None:
    """A ray that meets nothing is no farther than what is seen."""
    camera = pipeline.datamanager.eval_dataset.cameras[:1]
    outputs = pipeline.model.get_outputs_for_camera(camera)
    hit = outputs["accumulation"] > 1e-3
    assert hit.any() and not hit.all()
    for name in ("depth", "expected_depth"):
        assert outputs[name].max() == outputs[name][hit].max() < pipeline.model.far
    assert (outputs["depth"] - outputs["expected_depth"])[hit].abs().max() > 0
    pipeline.model.config.depth = "expected"
    assert torch.equal(pipeline.model.get_outputs_for_camera(camera)["depth"], outputs["expected_depth"])
    pipeline.model.config.depth = None


def test_a_texture_is_never_black_where_no_sample_lies(pipeline: Any) -> None:
    """Rays from the centres of faces, as nerfstudio's exporter makes them."""
    model = pipeline.model
    empty = (~model.grid.occupied).nonzero()[:50] + 0.5
    low, high = model.grid.aabb
    origins = (low + empty / model.grid.resolution * (high - low)).contiguous()
    towards = torch.nn.functional.normalize(torch.ones(50, 3), dim=-1)
    length = 1e-3
    one = torch.ones(50, 1)
    rays = RayBundle(origins - length / 2 * towards, towards, one, one.long(), nears=0 * one, fars=length * one)
    outputs = model.get_outputs_for_camera_ray_bundle(rays.reshape((50, 1)))
    texture = model.get_rgba_image(outputs, "rgb")[:, 0, :3]
    assert outputs["accumulation"].max() == 0
    torch.testing.assert_close(texture, model.answer(origins, towards)[1].clamp(0, 1))
    assert texture.max(dim=-1).values.min() > 0
