"""Gaussians that show nothing go, and where one is not enough there are two."""

import torch

from pvd_nerfstudio.pipeline.refinement import refine
from pvd_nerfstudio.student.fields.gaussians import GaussianField, SplatFieldConfig


def sown(count: int = 100, **options: float) -> tuple[GaussianField, dict[str, torch.optim.Optimizer]]:
    """Gaussians of which each optimiser remembers their number."""
    generator = torch.Generator().manual_seed(0)
    config = SplatFieldConfig(num_gaussians=120, **options)  # type: ignore[arg-type]
    field = GaussianField(config, torch.tensor([[-1.0] * 3, [1.0] * 3]), False)
    places = torch.randn(count, 3, generator=generator)
    field.sow(places, torch.rand(count, 3, generator=generator), torch.zeros_like(places))
    optimizers = {}
    for name, value in field.named.items():
        optimizers[name] = torch.optim.AdamW([value], lr=0.0, weight_decay=0.0)
        value.grad = torch.arange(1.0, count + 1).view(-1, *[1] * (value.dim() - 1)).expand_as(value).clone()
        optimizers[name].step()
    return field, optimizers


def remembered(field: GaussianField, optimizers: dict[str, torch.optim.Optimizer], name: str) -> torch.Tensor:
    parameter = field.named[name]
    assert optimizers[name].param_groups[0]["params"] == [parameter]
    moments = optimizers[name].state[parameter]["exp_avg"]
    assert moments.shape == parameter.shape
    return (10 * moments.flatten(1)[:, 0]).round()


def test_what_is_faint_goes_and_what_is_pulled_at_is_divided() -> None:
    field, optimizers = sown()
    field.opacities.data[:7] = -8.0
    before = field.means.detach().clone()
    pull = torch.zeros(100)
    pull[40:46] = torch.arange(6.0) + 1
    removed, divided = refine(field, optimizers, pull, torch.Generator().manual_seed(1))
    assert (removed, divided, len(field)) == (7, 6, 99)
    for name in field.named:
        ages = remembered(field, optimizers, name)
        kept = ages[ages > 0].long().tolist()
        assert set(range(8, 101)) - set(range(41, 47)) <= set(kept) and (ages == 0).sum() >= 6
    others = [number for number in range(7, 100) if not 40 <= number < 46]
    assert set(map(tuple, before[others].tolist())) <= set(map(tuple, field.means.tolist()))


def test_there_are_never_more_than_there_may_be() -> None:
    field, optimizers = sown(growth=1.0)
    generator = torch.Generator().manual_seed(1)
    assert refine(field, optimizers, torch.ones(100), generator)[1] == 20
    assert len(field) == 120
    assert refine(field, optimizers, torch.ones(120), generator) == (0, 0)


def test_only_what_is_pulled_at_is_divided_and_only_a_share_at_once() -> None:
    field, optimizers = sown(growth=0.1)
    pull = torch.zeros(100)
    pull[:3] = 1.0
    assert refine(field, optimizers, pull, torch.Generator().manual_seed(1)) == (0, 3)
    field, optimizers = sown(growth=0.1)
    assert refine(field, optimizers, torch.ones(100), torch.Generator().manual_seed(1)) == (0, 10)


def test_the_same_seed_divides_alike_and_leaves_the_global_generator_alone() -> None:
    fields = []
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    for _ in range(2):
        field, optimizers = sown(growth=1.0)
        refine(field, optimizers, torch.ones(100), torch.Generator().manual_seed(1))
        fields.append(field)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(fields[0].means, fields[1].means)


def test_when_it_happens() -> None:
    config = SplatFieldConfig(refinements=4)
    assert [step for step in range(200) if config.is_refined(step, 200)] == [25, 50, 75, 100]
    assert not any(SplatFieldConfig(refinements=0).is_refined(step, 50) for step in range(50))
