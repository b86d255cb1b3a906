"""Views that need no image: rays of the real cameras, and of pseudo ones around the scene."""

import copy
import math

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from torch import Generator, Tensor


def random_pixels(cameras: Cameras, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Random cameras `[count]`, and in each a random pixel, row and column `[count, 2]`."""
    device = generator.device
    chosen = torch.randint(len(cameras), (count,), generator=generator, device=device)
    share = torch.rand(count, 2, generator=generator, device=device)
    size = torch.cat([cameras.height[chosen], cameras.width[chosen]], dim=-1)
    return chosen, (share * size).long()


def counted_pixels(mask: Tensor | None, count: int) -> Int[Tensor, "pixels"]:
    """Numbers of a view's pixels that count, of `count` in all: every one without a mask, or if it hides them all."""
    if mask is None or not mask.any():
        return torch.arange(count)
    return mask.flatten().nonzero()[:, 0].cpu()


def rays_of(cameras: Cameras, count: int, generator: Generator) -> RayBundle:
    """Rays through random pixels of random cameras; `metadata["pixels"]` says which, row and column."""
    chosen, pixels = random_pixels(cameras, count, generator)
    rays = cameras.generate_rays(camera_indices=chosen[:, None], coords=pixels + 0.5)
    rays.metadata["pixels"] = pixels
    return rays


class Viewpoints:
    """The cameras that the rays of one chunk of the bank come from, in groups.

    Args:
        groups: cameras, and the share of the rays that comes from them; the shares add up to 1.
    """

    def __init__(self, groups: list[tuple[Cameras, float]]) -> None:
        self._groups = [(cameras, share) for cameras, share in groups if share > 0 and len(cameras)]

    @property
    def poses(self) -> Float[Tensor, "views 3 4"]:
        """Camera to world, of all."""
        return torch.cat([cameras.camera_to_worlds for cameras, _ in self._groups])

    def rays(self, count: int, generator: Generator) -> RayBundle:
        """Rays through random pixels; their camera indices count through `poses`."""
        bundles, first, total = [], 0, 0.0
        for cameras, share in self._groups:
            drawn, total = round(total * count), total + share
            bundle = rays_of(cameras, round(total * count) - drawn, generator)
            assert bundle.camera_indices is not None
            bundle.camera_indices += first
            first += len(cameras)
            bundles.append(bundle)
        return concatenate(bundles)


def look_at(origins: Float[Tensor, "views 3"], target: Float[Tensor, "3"]) -> Float[Tensor, "views 3 4"]:
    """Camera-to-world matrices of upright cameras (z is up, they look along -z)."""
    backward = torch.nn.functional.normalize(origins - target, dim=-1)
    x, _, z = torch.eye(3, device=origins.device)
    up = z.expand_as(backward)
    sideways = torch.linalg.cross(up, backward)
    right = torch.where(
        sideways.norm(dim=-1, keepdim=True) > 1e-3,  # noqa: PLR2004
        torch.nn.functional.normalize(sideways, dim=-1),
        x,
    )
    return torch.stack([right, torch.linalg.cross(backward, right), backward, origins], dim=-1)


def sphere(count: int, radius: float, centre: Tensor, whole: bool = False) -> Float[Tensor, "views 3 4"]:
    """Cameras spread evenly over the upper part of a sphere, or all of it: where no camera of a scene is known."""
    number = torch.arange(count) + 0.5
    lowest = -0.95 if whole else 0.02
    sine = lowest + (0.95 - lowest) * number / count
    angle = number * math.pi * (3 - math.sqrt(5))
    flat = (1 - sine.square()).sqrt()
    where = torch.stack([flat * angle.cos(), flat * angle.sin(), sine], dim=-1)
    return look_at(centre + radius * where, centre)


def like(cameras: Cameras, camera_to_worlds: Float[Tensor, "views 3 4"]) -> Cameras:
    """Cameras at other places with the intrinsics of the first."""
    count = len(camera_to_worlds)
    distortion = cameras.distortion_params
    return Cameras(
        camera_to_worlds=camera_to_worlds,
        fx=cameras.fx[:1].expand(count, 1),
        fy=cameras.fy[:1].expand(count, 1),
        cx=cameras.cx[:1].expand(count, 1),
        cy=cameras.cy[:1].expand(count, 1),
        width=cameras.width[:1].expand(count, 1),
        height=cameras.height[:1].expand(count, 1),
        distortion_params=None if distortion is None else distortion[:1].expand(count, -1),
        camera_type=cameras.camera_type[:1].expand(count, 1),
    )


def piece_of(camera: Cameras, height: int, width: int, generator: Generator) -> Cameras:
    """A random piece of a view, of a height and a width at most, in full resolution."""
    piece = copy.deepcopy(camera)
    share = torch.rand(2, generator=generator, device=generator.device).tolist()
    for length, most, centre, where in (("height", height, "cy", share[0]), ("width", width, "cx", share[1])):
        whole = int(getattr(camera, length))
        size = min(whole, most)
        corner = int(where * (whole - size + 1))
        setattr(piece, centre, getattr(camera, centre) - corner)
        setattr(piece, length, torch.full_like(getattr(camera, length), size))
    return piece


def concatenate(bundles: list[RayBundle]) -> RayBundle:
    """Several bundles in one."""
    indices = [bundle.camera_indices for bundle in bundles if bundle.camera_indices is not None]
    pixels = [bundle.metadata["pixels"] for bundle in bundles if "pixels" in bundle.metadata]
    return RayBundle(
        camera_indices=torch.cat(indices) if len(indices) == len(bundles) else None,
        metadata={"pixels": torch.cat(pixels)} if len(pixels) == len(bundles) else {},
        origins=torch.cat([bundle.origins for bundle in bundles]),
        directions=torch.cat([bundle.directions for bundle in bundles]),
        pixel_area=torch.cat([bundle.pixel_area for bundle in bundles]),
    )
