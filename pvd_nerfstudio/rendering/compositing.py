"""Packed samples to pixels.

Convention: the samples of all rays lie in one flat list, sorted by ray and along each ray; `ray_indices [samples]`
says whose they are. Sums along rays are nerfacc's `accumulate_along_rays`, which runs everywhere.
"""

import nerfacc
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pvd_nerfstudio.rendering.kernels import kernels_run


def render_weights(
    density: Float[Tensor, "samples 1"],
    lengths: Float[Tensor, "samples 1"],
    ray_indices: Int[Tensor, "samples"],
    num_rays: int,
) -> Float[Tensor, "samples 1"]:
    """Compositing weight of each sample, T (1 - exp(-density length)), T the transmittance in front of it.

    nerfacc computes it on CUDA where it runs; elsewhere one running sum over all samples does, in double precision
    because the sum goes on across rays.

    Source: Mildenhall et al., NeRF, eq. 3.
    """
    if density.is_cuda and kernels_run("nerfacc"):
        ends = lengths[:, 0]
        weights, _, _ = nerfacc.render_weight_from_density(
            torch.zeros_like(ends), ends, density[:, 0], ray_indices=ray_indices, n_rays=num_rays
        )
        return weights[:, None]
    optical = density * lengths
    before = torch.cumsum(optical.double(), dim=0) - optical.double()
    first = torch.searchsorted(ray_indices, ray_indices)
    transmittance = torch.exp(before.index_select(0, first) - before).to(optical.dtype)
    return transmittance * -torch.expm1(-optical)


def accumulate(
    weights: Float[Tensor, "samples 1"],
    values: Float[Tensor, "samples channels"] | None,
    ray_indices: Int[Tensor, "samples"],
    num_rays: int,
) -> Float[Tensor, "rays channels"]:
    """Weighted sum of `values` along each ray; without values the opacity, `[rays, 1]`."""
    return nerfacc.accumulate_along_rays(weights[:, 0], values, ray_indices, num_rays)


def median_depth(
    weights: Float[Tensor, "samples 1"],
    distances: Float[Tensor, "samples 1"],
    ray_indices: Int[Tensor, "samples"],
    far: Float[Tensor, "rays 1"],
) -> Float[Tensor, "rays 1"]:
    """Distance of the sample in which half of a ray's light is reached, as nerfstudio's `DepthRenderer("median")`.

    That of the last sample where a ray does not come so far, and `far` where it has none.
    """
    total = weights[:, 0].double().cumsum(0)
    before = total - weights[:, 0].double()
    first = torch.searchsorted(ray_indices, ray_indices)
    reached = total - before.index_select(0, first) < 1 / 2
    rays = torch.arange(len(far), device=far.device)
    start, end = torch.searchsorted(ray_indices, rays), torch.searchsorted(ray_indices, rays, right=True)
    steps = torch.zeros_like(rays).index_add(0, ray_indices, reached.long())
    index = torch.minimum(start + steps, end - 1).clamp_min(0)
    return torch.where((end > start)[:, None], distances.index_select(0, index), far)
