"""Gaussians as they are stored, in splatfacto's words, with colours that depend on the direction."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.utils.math import components_from_spherical_harmonics
from torch import Tensor

from pvd_nerfstudio.rendering.drawing import render
from pvd_nerfstudio.rendering.splatting import Gaussians, View

SHAPES = {"means": (3,), "scales": (3,), "quats": (4,), "opacities": (1,), "features_dc": (3,)}
"""Shape of each parameter of a Gaussian; `features_rest` has one that depends on the degree."""
PARAMETERS = (*SHAPES, "features_rest")
"""Names of the parameters: scales are logarithms, opacities are before their sigmoid, quaternions have w first, and
colours are coefficients of spherical harmonics, the constant one apart from the rest."""
SH_OF_ONE = 0.28209479177387814
"""The constant spherical harmonic."""
MIDDLE = 0.5
"""Colour of what has no spherical harmonics."""
LARGEST_DEGREE = 3


def seen_from(eye: Float[Tensor, "3"], stored: Mapping[str, Tensor]) -> Gaussians:
    """The Gaussians with the colours that they have from a point.

    Args:
        eye: where one looks from, in world coordinates.
        stored: what is stored of them, by the names in `PARAMETERS`.
    """
    colors, rest = MIDDLE + SH_OF_ONE * stored["features_dc"], stored["features_rest"]
    if rest.shape[1]:
        towards = torch.nn.functional.normalize(stored["means"].detach() - eye, dim=-1)
        colors = colors + (harmonics(degree_of(rest), towards)[:, None] @ rest)[:, 0]
    return Gaussians(
        means=stored["means"],
        quats=stored["quats"],
        scales=stored["scales"].exp(),
        opacities=stored["opacities"].sigmoid(),
        colors=colors.clamp_min(0),
    )


def bases_of(degree: int) -> int:
    """How many spherical harmonics there are beside the constant one."""
    return (degree + 1) ** 2 - 1


def draw(
    stored: Mapping[str, Tensor], view: View, hidden: float = 1e-4, crop: OrientedBox | None = None
) -> Float[Tensor, "height width 5"]:
    """Colour and distance, both premultiplied with the opacity, and the opacity; always in single precision or better.

    Args:
        stored: the Gaussians, by the names in `PARAMETERS`.
        view: the camera.
        hidden: transmittance under which what is behind is left out.
        crop: a box outside which nothing is drawn.
    """
    with torch.autocast(view.rotation.device.type, enabled=False):
        gaussians = seen_from(view.position, stored)
        if crop is not None:
            inside = crop.within(gaussians.means)
            gaussians = Gaussians(*(value[inside] for value in vars(gaussians).values()))
        distance = (gaussians.means.detach() - view.position).norm(dim=-1, keepdim=True)
        painted = replace(gaussians, colors=torch.cat([gaussians.colors, distance], dim=-1))
        return torch.cat(render(painted, view, hidden), dim=-1)


def degree_of(rest: Float[Tensor, "gaussians bases 3"]) -> int:
    """Degree of spherical harmonics, by the number of the coefficients behind the constant one."""
    return round((rest.shape[1] + 1) ** 0.5) - 1


def harmonics(degree: int, directions: Float[Tensor, "points 3"]) -> Float[Tensor, "points bases"]:
    """Spherical harmonics of unit vectors as splats have them, without the constant one.

    They are nerfstudio's with a minus where the order is odd (the Condon-Shortley phase).
    """
    bands = [torch.arange(-band, band + 1, device=directions.device) for band in range(1, degree + 1)]
    signs = 1 - 2 * (torch.cat(bands) % 2) if bands else 1
    return components_from_spherical_harmonics(degree + 1, directions)[:, 1:] * signs
