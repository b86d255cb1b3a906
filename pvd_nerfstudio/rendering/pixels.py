"""Rays through some pixels of a view: of a panorama all of them would be gigabytes."""

import torch
from jaxtyping import Int
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor


def rays_at(camera: Cameras, pixels: Int[Tensor, "pixels"]) -> RayBundle:
    """Rays on the camera's device.

    Args:
        camera: one, `[1]` in shape.
        pixels: their numbers, row by row.
    """
    width = int(camera.width.flatten()[0])
    coords = torch.stack([pixels // width, pixels % width], dim=-1).cpu() + 0.5
    rays = camera.to("cpu").generate_rays(torch.zeros(len(pixels), 1, dtype=torch.long), coords)
    return rays.to(camera.device)


def num_pixels(camera: Cameras) -> int:
    """How many pixels a view has."""
    return int(camera.width.flatten()[0]) * int(camera.height.flatten()[0])
