"""The student's answer against the teacher's. Pure functions; `norm` says how a difference becomes one number."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

MIN_LOG_DENSITY = -2.0
MAX_LOG_DENSITY = 7.0
"""Outside these bounds every density is as good as empty or opaque (PVD, section 3.2)."""

Norm = Literal["mean", "frobenius"]


def norm_of(difference: Float[Tensor, "points channels"], norm: Norm) -> Float[Tensor, ""]:
    """Mean of squares, or the Frobenius norm (PVD, eq. 6)."""
    if norm == "mean":
        return difference.square().mean()
    return difference.square().sum().clamp_min(1e-12).sqrt()


def feature_loss(
    student: Float[Tensor, "points channels"], teacher: Float[Tensor, "points channels"], norm: Norm
) -> Float[Tensor, ""]:
    """Distance of the features (PVD, eq. 5); where the teacher's are NaN an edit has made them meaningless."""
    return norm_of(torch.where(teacher.isnan(), 0.0, student - teacher), norm)


def log_density_loss(
    student: Float[Tensor, "points 1"], teacher: Float[Tensor, "points 1"], norm: Norm
) -> Float[Tensor, ""]:
    """Distance of the log-densities, zero where both lie beyond the same bound.

    The papers clamp both sides; a student beyond a bound that its teacher is within would then get no gradient, so
    here only a pair that agrees is let off.
    """
    target = teacher.clamp(MIN_LOG_DENSITY, MAX_LOG_DENSITY)
    agree = ((target == MIN_LOG_DENSITY) & (student < target)) | ((target == MAX_LOG_DENSITY) & (student > target))
    return norm_of((student - target).masked_fill(agree, 0.0), norm)


def opacity_loss(
    student: Float[Tensor, "points 1"], teacher: Float[Tensor, "points 1"], step_size: float, norm: Norm
) -> Float[Tensor, ""]:
    """Distance of the opacities of one step, 1 - exp(-density step): what a pixel sees of the density.

    Args:
        student: log-density.
        teacher: log-density.
        step_size: length of a sample.
        norm: how the difference is measured.
    """
    return norm_of(_opacity(student, step_size) - _opacity(teacher, step_size), norm)


def color_loss(
    student: Float[Tensor, "points 3"],
    teacher: Float[Tensor, "points 3"],
    weight: Float[Tensor, "points 1"],
    norm: Norm,
) -> Float[Tensor, ""]:
    """Distance of the colours, each point weighted by `weight` (its mean is divided out)."""
    return norm_of((student - teacher) * (weight / weight.mean().clamp_min(1e-6)).sqrt(), norm)


def pixel_loss(
    student: Float[Tensor, "rays 3"],
    student_opacity: Float[Tensor, "rays 1"],
    teacher: Float[Tensor, "rays 3"],
    teacher_opacity: Float[Tensor, "rays 1"],
    background: Float[Tensor, "rays 3"],
    norm: Norm,
    weight: Float[Tensor, "rays 1"] | None = None,
) -> Float[Tensor, ""]:
    """Distance of two pixels over the same background (PVD, eq. 7), each weighted by `weight`.

    The colours are premultiplied with their opacity: a random background makes the opacities count.
    """
    difference = student - teacher + background * (teacher_opacity - student_opacity)
    return norm_of(difference if weight is None else difference * weight.sqrt(), norm)


def pixel_errors(
    student: Float[Tensor, "rays 3"],
    student_opacity: Float[Tensor, "rays 1"],
    teacher: Float[Tensor, "rays 3"],
    teacher_opacity: Float[Tensor, "rays 1"],
) -> Float[Tensor, "rays"]:
    """Squared error of each pixel, mean over the channels and over all backgrounds in [0, 1].

    With d the difference of the colours and o that of the opacities, the mean of (d + background o)^2.
    """
    color, opacity = student - teacher, teacher_opacity - student_opacity
    return (color.square() + color * opacity + opacity.square() / 3).mean(dim=-1)


def _opacity(log_density: Tensor, step_size: float) -> Tensor:
    return -torch.expm1(-step_size * torch.exp(log_density.clamp(max=MAX_LOG_DENSITY)))
