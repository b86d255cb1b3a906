"""Teachers that show whole views (Gaussians, surfaces): what their renderings alone say.

One path serves them all, `Model.get_outputs_for_camera`: colour, opacity (`accumulation`; 1 where there is none) and
depth. Depth stands in for density: it says which cells are occupied, and which part of a ray matters.

Limits: only what the views see from outside is occupied, a shell about the surfaces; what is half transparent lies
where its mean depth says; what is seen outside the scene box counts as nothing, unless the student contracts space.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.model_components.renderers import RGBRenderer
from torch import Generator, Tensor
from torch.nn import functional

from pvd_nerfstudio.data.views import piece_of
from pvd_nerfstudio.distillation.bank import BankChunk, RayTargets, take
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.teacher.frozen import FrozenTeacher, image_of
from pvd_nerfstudio.teacher.targets import SharedSamples, blend

DrawViews = Callable[[int, Generator], list[Cameras]]
"""Gives any number of single cameras, `[1]` in shape."""

SOLID = 0.5
"""Opacity from which on the depth of a pixel is believed."""
WINDOWS = 16
"""Windows of views that are rendered at a time, in full resolution, for the bank."""
AROUND = 5
"""Pixels along the side of the square about each in which depths tell where its surfaces may lie."""
DRAWN, LARGEST_WINDOW = 4, 400
"""Windows of a teacher that is drawn, and their side: there whole views take hardly longer than small pieces."""
SPARE = 4
"""Pixels rendered for each that is kept: neighbours are alike, and some miss the scene."""
DRAWN_SPARE = 8
"""The same of a teacher that is drawn, whose further views would cost more than pixels that are thrown away."""
_Z_DEPTH = {"SurfaceModel", "SplatfactoModel"}
"""Models, or bases of models, whose depth is measured along the optical axis and not along the ray, unless we draw
them."""


@dataclass
class Seen:
    """The pixels of one view."""

    origins: Float[Tensor, "pixels 3"]
    directions: Float[Tensor, "pixels 3"]
    rgb: Float[Tensor, "pixels 3"]
    """Premultiplied with the opacity."""
    opacity: Float[Tensor, "pixels 1"]
    rendering: Float[Tensor, "pixels 3"]
    """As the teacher shows it, whatever lies behind the scene included."""
    distance: Float[Tensor, "pixels 1"]
    """Along the ray to what is seen, in world units; infinite where nothing is."""

    def over(self, renderer: RGBRenderer) -> Float[Tensor, "pixels 3"]:
        """What can be distilled, over the background that a renderer shows in evaluation."""
        return blend(self.rgb, self.opacity, renderer)

    @property
    def is_solid(self) -> Bool[Tensor, "pixels"]:
        """Which pixels are opaque enough to believe their depth."""
        return (self.opacity > SOLID)[:, 0] & self.distance.isfinite()[:, 0]

    @property
    def points(self) -> Float[Tensor, "solid 3"]:
        """Where the opaque pixels lie in space."""
        solid = self.is_solid
        return self.origins[solid] + self.distance[solid] * self.directions[solid]


def look(teacher: FrozenTeacher, camera: Cameras, contracted: bool = False) -> Seen:
    """What a teacher shows through one camera, its background taken out.

    Pixels that show something outside the scene box are empty, unless the student contracts space.
    """
    camera = camera.to(teacher.device)
    rays = camera.generate_rays(camera_indices=0, keep_shape=True).flatten()
    outputs = {name: value.flatten(0, 1) for name, value in teacher.outputs_for(camera).items() if value.dim() > 1}
    rgb, opacity = image_of(outputs), outputs.get("accumulation", outputs.get("accumulation_fine"))
    if opacity is None or _fills_background(teacher):
        opacity = torch.ones_like(rgb[:, :1])
    background = outputs.get("background")
    if background is None or background.shape != rgb.shape:
        background = torch.full_like(rgb, float(teacher.space.background == "white"))
    premultiplied = (rgb - (1 - opacity) * background).clamp(0, 1)
    distance = outputs.get("depth", outputs.get("depth_fine"))
    if distance is None:
        raise InputError(
            f"The teacher, a {type(teacher.model).__name__}, has neither a field that answers at points nor a depth "
            "among its outputs, so where its surfaces lie is unknown: it cannot be distilled."
        )
    if not teacher.is_drawn and _Z_DEPTH & {base.__name__ for base in type(teacher.model).__mro__}:
        distance = distance * rays.metadata["directions_norm"]
    seen = opacity > 0
    inside = SceneBox(aabb=teacher.aabb).within(rays.origins + distance * rays.directions)[:, None]
    outside = (opacity > SOLID) & ~inside & (not contracted)
    return Seen(
        origins=rays.origins,
        directions=rays.directions,
        rgb=premultiplied.masked_fill(outside, 0.0),
        opacity=opacity.masked_fill(outside, 0.0),
        rendering=rgb,
        distance=distance.masked_fill(outside | ~seen, torch.inf),
    )


def show(
    teacher: FrozenTeacher, camera: Cameras, renderer: RGBRenderer, contracted: bool = False
) -> Float[Tensor, "height width 3"]:
    """The image of one camera as it can be distilled (see `look`), over the background of a renderer."""
    return look(teacher, camera, contracted).over(renderer).view(int(camera.height), int(camera.width), 3)


def query_pixels(
    teacher: FrozenTeacher,
    shared: SharedSamples,
    draw_views: DrawViews,
    rays_per_chunk: int,
    generator: Generator,
) -> BankChunk:
    """One chunk of the bank: pixels of random pieces of views, and no points.

    Args:
        teacher: who is queried.
        shared: the samples; rays that miss all occupied cells say nothing and are left out.
        draw_views: gives cameras.
        rays_per_chunk: rays in the chunk.
        generator: of all randomness.
    """
    kept: list[RayTargets] = []
    windows = DRAWN if teacher.is_drawn else WINDOWS
    found, spare = 0, math.ceil((DRAWN_SPARE if teacher.is_drawn else SPARE) * rays_per_chunk / windows)
    side = LARGEST_WINDOW if teacher.is_drawn else math.ceil(math.sqrt(spare))
    for _ in range(50):
        for camera in draw_views(windows, generator):
            piece = piece_of(camera, side, side, generator)
            seen = look(teacher, piece, shared.grid.contracted)
            start, end = _span(shared, seen, int(piece.height))
            targets = RayTargets(seen.origins, seen.directions, seen.rgb, seen.opacity, start, end)
            some = torch.randperm(len(start), generator=generator, device=generator.device)[:spare]
            targets = take(targets, some)
            index = shared.march(targets.origins, targets.directions).ray_indices.unique()
            kept.append(take(targets, index))
            found += len(index)
        if found >= rays_per_chunk:
            together = RayTargets(*(torch.cat(parts) for parts in zip(*(vars(part).values() for part in kept))))
            chosen = torch.randperm(found, generator=generator, device=generator.device)[:rays_per_chunk]
            return BankChunk(rays=take(together, chosen), points=None)
    raise InputError("The cameras hardly see the teacher's occupied space. Does --data belong to the teacher's scene?")


def _span(shared: SharedSamples, seen: Seen, height: int) -> tuple[Tensor, Tensor]:
    """Where what each pixel shows begins and ends along its ray; the whole ray where it is transparent.

    What several surfaces share has a depth that is that of none: those of the pixels around tell how far they reach.
    """
    solid = (seen.opacity > SOLID) & seen.distance.isfinite()
    margin = _margin(shared, seen.distance)
    near = torch.where(solid, (seen.distance - margin).clamp_min(0.0), torch.inf)
    far = torch.where(solid, seen.distance + margin, 0.0)
    near, far = (value.view(1, height, -1) for value in (near, far))
    near = -functional.max_pool2d(-near, AROUND, stride=1, padding=AROUND // 2).view(-1, 1)
    far = functional.max_pool2d(far, AROUND, stride=1, padding=AROUND // 2).view(-1, 1)
    return torch.where(solid, near, 0.0), torch.where(solid, far, torch.inf)


def _margin(shared: SharedSamples, distance: Float[Tensor, "pixels 1"]) -> Float[Tensor, "pixels 1"]:
    """How far from its mean depth a surface may reach: two cells or four samples, as long as they are there."""
    grid, spacing = shared.grid, shared.spacing
    width = 4.0 * grid.scale if grid.contracted else float((grid.aabb[1] - grid.aabb[0]).max())
    return max(2 * width / grid.resolution, 4 * spacing.step_size) * spacing.length(distance) / spacing.step_size


def _fills_background(teacher: FrozenTeacher) -> bool:
    """Whether what shows behind the scene is the teacher's own rendering and not one colour."""
    return teacher.space.background == "last_sample" or (
        getattr(teacher.model.config, "background_model", "none") != "none"
    )
