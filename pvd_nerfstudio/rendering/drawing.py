"""Gaussians to an image, by gsplat's kernels where they run, and by our own rasteriser everywhere else."""

import gsplat
import torch
from jaxtyping import Float
from torch import Tensor

from pvd_nerfstudio.rendering.kernels import kernels_run
from pvd_nerfstudio.rendering.splatting import BLUR, CLOSEST, Gaussians, View, project, rasterize


def render(
    gaussians: Gaussians, view: View, hidden: float = 1e-4
) -> tuple[Float[Tensor, "height width channels"], Float[Tensor, "height width 1"]]:
    """What a camera sees.

    Args:
        gaussians: what there is.
        view: the camera.
        hidden: transmittance under which what is behind is left out; the kernels have a bound of their own.

    Returns:
        The colours, premultiplied with the opacity, and the opacity.
    """
    if gaussians.means.is_cuda and len(gaussians.means) and kernels_run("gsplat"):
        return _by_kernels(gaussians, view)
    return rasterize(project(gaussians, view), gaussians.opacities, gaussians.colors, view, hidden)


def _by_kernels(gaussians: Gaussians, view: View) -> tuple[Tensor, Tensor]:
    pose, inner = (torch.eye(size, dtype=gaussians.means.dtype, device=gaussians.means.device) for size in (4, 3))
    pose[:3, :3], pose[:3, 3] = view.rotation, view.translation
    inner[0, 0], inner[1, 1], inner[0, 2], inner[1, 2] = *view.focal, *view.centre
    image, opacity, _ = gsplat.rasterization(
        means=gaussians.means,
        quats=gaussians.quats,
        scales=gaussians.scales,
        opacities=gaussians.opacities[:, 0],
        colors=gaussians.colors,
        viewmats=pose[None],
        Ks=inner[None],
        width=view.width,
        height=view.height,
        near_plane=CLOSEST,
        eps2d=BLUR,
        packed=False,
    )
    return image[0], opacity[0]
