"""The path through nerfacc's kernels, with stand-ins for what it has in CUDA, which check as it does.

On a pretended GPU; on a real one the tests marked `cuda` compare the kernels themselves.
"""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nerfacc
import pytest
import torch
from conftest import Run, distil_config
from helpers import start, weights_of
from pretended import OnGPU, a_gpu
from torch import Tensor

from pvd_nerfstudio.rendering import compositing, occupancy
from pvd_nerfstudio.rendering.compositing import render_weights
from pvd_nerfstudio.rendering.occupancy import OccupancyGrid
from pvd_nerfstudio.rendering.space import Spacing

MOST = 400
"""Steps that a ray has here."""
AABB = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])


def check(value: Tensor, dimensions: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """What its CHECK_INPUT and TORCH_CHECK do."""
    assert value.is_cuda and value.is_contiguous() and value.dim() == dimensions and value.dtype == dtype
    assert isinstance(value, OnGPU)
    return value.held


def intersect(origins: Tensor, directions: Tensor, boxes: Tensor, near: float, far: float, miss: float) -> tuple:
    values = check(origins, 2), check(directions, 2), check(boxes, 2)
    return tuple(OnGPU(value) for value in nerfacc.grid._ray_aabb_intersect(*values, near, far, miss))


def traverse(*arguments: Any) -> tuple[SimpleNamespace, SimpleNamespace]:
    """Steps are counted from the near plane; one is kept if its middle lies in an occupied cell and before far."""
    origins, directions, binaries, boxes, enter, leave, hits, near, far, step, cone, intervals, samples = arguments
    assert intervals and samples and not cone and len(binaries) == 1 and check(boxes, 2).shape == (1, 6)
    cells, box = check(binaries, 4, torch.bool)[0], boxes.held[0].view(2, 3)  # type: ignore[attr-defined]
    check(enter, 2), check(leave, 2), check(hits, 2, torch.bool)
    origins, directions, near, far = check(origins, 2), check(directions, 2), check(near, 1), check(far, 1)
    assert near.isfinite().all(), "here the kernel would march for ever"
    middle = near[:, None] + (torch.arange(MOST) + 0.5) * step
    unit = origins[:, None] + middle[..., None] * directions[:, None]
    unit = (unit - box[0]) / (box[1] - box[0]) * len(cells)
    inside = ((unit >= 0) & (unit < len(cells))).all(dim=-1) & (middle < far[:, None])
    x, y, z = unit.clamp(0, len(cells) - 1).long().unbind(dim=-1)
    kept = inside & cells[x, y, z]
    # Edges, of which samples beside each other share one.
    is_left = torch.cat([kept, torch.zeros_like(kept[:, :1])], dim=1)
    is_right = torch.cat([torch.zeros_like(kept[:, :1]), kept], dim=1)
    owner, number = (is_left | is_right).nonzero(as_tuple=True)
    left, right = is_left[owner, number], is_right[owner, number]
    edges = near[owner] + number * step
    middles = (edges[left] + edges[right]) / 2
    return (
        spec(edges, owner, (is_left | is_right).sum(dim=1), OnGPU(left), OnGPU(right)),
        spec(middles, owner[left], kept.sum(dim=1), None, None),
    )


def spec(values: Tensor, owners: Tensor, counts: Tensor, left: Tensor | None, right: Tensor | None) -> SimpleNamespace:
    return SimpleNamespace(
        vals=OnGPU(values),
        ray_indices=OnGPU(owners),
        chunk_starts=OnGPU(counts.cumsum(0) - counts),
        chunk_cnts=OnGPU(counts),
        is_left=left,
        is_right=right,
    )


def exclusive_sum(starts: Tensor, counts: Tensor, values: Tensor, normalize: bool, backward: bool) -> Tensor:
    assert not normalize and starts.shape == counts.shape
    starts, counts, values = check(starts, 1, torch.long), check(counts, 1, torch.long), check(values, 1)
    parts = [values[start : start + count] for start, count in zip(starts.tolist(), counts.tolist())]
    if backward:
        sums = [part.flip(0).cumsum(0).flip(0) - part for part in parts]
    else:
        sums = [part.cumsum(0) - part for part in parts]
    return OnGPU(torch.cat([*sums, values[:0]]))


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, stand_in in (
        ("ray_aabb_intersect", intersect),
        ("traverse_grids", traverse),
        ("exclusive_sum", exclusive_sum),
    ):
        monkeypatch.setattr(nerfacc.cuda, name, stand_in)
    for module in (compositing, occupancy):
        monkeypatch.setattr(module, "kernels_run", lambda package: package == "nerfacc")
    with a_gpu():
        yield


def half_full() -> OccupancyGrid:
    grid = OccupancyGrid(AABB, 8)
    grid.occupy(torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5)
    return grid


def rays(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    origins = 3 * torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    aims = torch.rand(count, 3, generator=generator) - 0.5
    directions = torch.nn.functional.normalize(aims - origins, dim=-1)
    near = 0.5 + 0.1 * torch.rand(count, 1, generator=generator)
    return origins, directions, near, torch.full_like(near, 3.5)


def test_its_march_finds_the_same_samples(kernels: None) -> None:
    expected = half_full().march(*rays(40), Spacing(0.04))
    on_gpu = half_full().to("cuda")
    found = on_gpu.march(*(value.to("cuda") for value in rays(40)), Spacing(0.04))
    assert len(found) == len(expected) > 400
    for name in ("ray_indices", "starts", "ends"):
        torch.testing.assert_close(getattr(found, name).cpu(), getattr(expected, name), atol=1e-5, rtol=0)


def test_rays_past_everything_and_near_planes_that_are_no_number_end(kernels: None) -> None:
    grid = half_full().to("cuda")
    origins, directions, near, far = (value.to("cuda") for value in rays(5))
    assert len(grid.march(origins, -directions, near, far, Spacing(0.04))) == 0
    near[2] = torch.nan
    assert len(grid.march(origins, directions, near, far, Spacing(0.04))) > 0


def test_its_weights_and_their_gradients_are_ours(kernels: None) -> None:
    index = torch.tensor([0, 0, 0, 2, 2])
    density, lengths = torch.rand(5, 1), torch.full((5, 1), 0.3)
    gradients, results = [], []
    for device in ("cpu", "cuda"):
        asked = density.clone().to(device).requires_grad_()
        weights = render_weights(asked, lengths.to(device), index.to(device), 4)
        (weights * torch.arange(5.0, device=device)[:, None]).sum().backward()
        assert asked.grad is not None
        gradients.append(asked.grad.cpu())
        results.append(weights.detach().cpu())
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*gradients)
    nothing = torch.zeros(0, 1, device="cuda")
    assert render_weights(nothing, nothing, torch.zeros(0, dtype=torch.long, device="cuda"), 4).shape == (0, 1)


def test_a_run_with_its_kernels_comes_out_as_without(kernels: None, teacher: Run, tmp_path: Path) -> None:
    options = (
        *("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "3"),
        *("--pipeline.distillation.point-end", "0", "--pipeline.distillation.rays-per-step", "16"),
        *("--pipeline.distillation.rays-per-chunk", "16", "--pipeline.distillation.points-per-chunk", "16"),
        *("--pipeline.model.grid-resolution", "16", "--pipeline.model.render-step-size", "0.2"),
    )
    weights = []
    for device in ("cuda", "cpu"):
        config = distil_config(tmp_path / device, *options)
        config.machine.device_type = device
        trainer = start(config)
        trainer.train()
        weights.append(weights_of(trainer.base_dir))
    for name, value in weights[1].items():
        if torch.is_tensor(value) and value.is_floating_point():
            torch.testing.assert_close(weights[0][name], value, atol=1e-4, rtol=1e-3)
