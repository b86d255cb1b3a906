"""Weighty points: the losses at points look where the image is made, by the teacher or by the student.

A point that carries weight in the student's rendering alone is where it shows something that is not there: the
teacher's weights would never lead to it.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from pvd_nerfstudio.distillation.active import Rule


def probability(
    teacher: Float[Tensor, "samples 1"],
    student: Float[Tensor, "samples 1"] | None,
    ray_indices: Int[Tensor, "samples"],
    rule: Rule,
    empty_share: float,
) -> Float[Tensor, "samples"]:
    """With which probability a sample of a batch of rays becomes a point to learn from.

    Args:
        teacher: compositing weights.
        student: the same of the student; None while it knows nothing.
        ray_indices: which ray each sample belongs to, sorted.
        rule: error: in proportion to both weights together. papers: alike for the weightiest 30 % of each ray (PVD-AL,
            section 3.4.3), zero for the others.
        empty_share: what all samples alike get of it, under the rule `error`: empty and hidden space.
    """
    weights = teacher[:, 0] if student is None else teacher[:, 0] + student[:, 0]
    if rule == "papers":
        return weightiest(weights, ray_indices).float() / len(weights)
    weights = weights.clamp_min(1e-8)
    return (1 - empty_share) * weights / weights.sum() + empty_share / len(weights)


def draw(probability: Float[Tensor, "samples"], count: int, generator: Generator) -> Int[Tensor, "count"]:
    """Numbers of samples, with replacement, from any number of them: `torch.multinomial` takes 2^24 at most."""
    total = probability.double().cumsum(0)
    where = total[-1] * torch.rand(count, dtype=total.dtype, generator=generator, device=total.device)
    return torch.searchsorted(total, where, right=True).clamp_max(len(total) - 1)


def weightiest(
    weights: Float[Tensor, "samples"], ray_indices: Int[Tensor, "samples"], share: float = 0.3
) -> Bool[Tensor, "samples"]:
    """The samples of largest weight: this share of each ray, rounded up.

    Args:
        weights: of the samples.
        ray_indices: which ray each belongs to, sorted.
        share: in (0, 1].
    """
    by_weight = torch.argsort(weights, descending=True, stable=True)
    order = by_weight[torch.argsort(ray_indices[by_weight], stable=True)]
    count = torch.bincount(ray_indices)
    first = count.cumsum(0) - count
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - first[ray_indices]
    return rank < (share * count).ceil()[ray_indices]
