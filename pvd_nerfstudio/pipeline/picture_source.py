"""For students that are drawn: where Gaussians begin, and the pictures of the teacher that they learn from."""

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Generator, Tensor

from pvd_nerfstudio.data.datamanager import DistillationDataManager
from pvd_nerfstudio.data.views import piece_of
from pvd_nerfstudio.distillation.bank import BankChunk, PictureTargets, seeded_generator
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.text import say
from pvd_nerfstudio.pipeline.bank_source import premultiplied
from pvd_nerfstudio.pipeline.handover import shared_samples
from pvd_nerfstudio.rendering.compositing import accumulate
from pvd_nerfstudio.rendering.lens import is_pinhole, turned
from pvd_nerfstudio.rendering.normals import normals_of
from pvd_nerfstudio.rendering.space import Spacing
from pvd_nerfstudio.student.splat import SplatModel
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.teacher.pixels import look
from pvd_nerfstudio.teacher.targets import query_rays, render_in_sight

RAYS_AT_ONCE = 8192
FLAT = {CameraType.PERSPECTIVE.value, CameraType.FISHEYE.value, CameraType.FISHEYE624.value}
"""Cameras that look in one direction; of all others parts are learned from."""
MOST_VIEWS = 1000
"""Views, or batches of rays, in which surfaces are looked for."""
SHELL = 50.0
"""Distance from the camera, in scales of the scene, at which lies what is farther away, and the sky."""
RAYS_A_GAUSSIAN = 2.0
"""Rays by which it is found out where Gaussians belong, for each of them."""


def picture_size(student: SplatModel, data: DistillationDataManager) -> tuple[int, int]:
    """Height and width of all pictures of the bank."""
    most, cameras = student.field.config.picture_size, data.train_cameras
    height = min(int(cameras.height.min()), most)
    has_panoramas = not set(cameras.camera_type.unique().tolist()) <= FLAT
    return height, height if has_panoramas else min(int(cameras.width.min()), most)


class PictureSource:
    """Makes chunks of the bank: the teacher seen from training views and pseudo ones.

    Args:
        teacher: who is queried; None: training images are read.
        student: who learns.
        data: gives views.
        training_images: whether training views are learned from their images, as far as no lens bends them.
    """

    def __init__(
        self,
        teacher: FrozenTeacher | None,
        student: SplatModel,
        data: DistillationDataManager,
        training_images: bool = False,
    ) -> None:
        self._teacher, self._student, self._data = teacher, student, data
        self._training_images = training_images or teacher is None
        self._height, self._width = picture_size(student, data)
        cameras = data.train_cameras
        if teacher is None and not all(is_pinhole(cameras[i : i + 1]) for i in range(len(cameras))):
            raise InputError(
                "A splat student learns from images without a lens alone, and these have one. Name its teacher with "
                "--teacher-checkpoint, which can be seen without."
            )

    def __call__(self, number: int, slot: int, generator: Generator) -> BankChunk:
        """The chunk of a number."""
        del number, slot
        draw = self._data.draw_photographed_views if self._teacher is None else self._data.draw_numbered_views
        views = draw(self._student.field.config.pictures_per_chunk, generator)
        pieces = [piece_of(_pinhole(view, generator), self._height, self._width, generator) for view, _ in views]
        shown = [self._show(piece, *view) for piece, view in zip(pieces, views)]
        numbers = [[getattr(piece, name).flatten() for name in ("fx", "fy", "cx", "cy")] for piece in pieces]
        return BankChunk(
            pictures=PictureTargets(
                poses=torch.stack([piece.camera_to_worlds.flatten() for piece in pieces]),
                intrinsics=torch.stack([torch.cat(values) for values in numbers]),
                rgb=torch.stack([rgb.flatten() for rgb, _, _ in shown]),
                opacity=torch.stack([opacity.flatten() for _, opacity, _ in shown]),
                seen=torch.stack([seen.float() for _, _, seen in shown]),
            )
        )

    def _show(self, piece: Cameras, view: Cameras, number: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Colour and opacity of a piece of a view, of its training image where that is wanted and not masked; and
        which pixels count."""
        if number is None or not self._training_images or not is_pinhole(view):
            rgb, opacity = self._render(piece)
            return rgb, opacity, torch.ones_like(opacity[:, 0], dtype=torch.bool)
        corner = [round(float((getattr(view, side) - getattr(piece, side)).flatten()[0])) for side in ("cy", "cx")]
        rows, columns = (torch.arange(size, device=view.device) for size in (self._height, self._width))
        pixels = torch.cartesian_prod(rows + corner[0], columns + corner[1])
        cameras = torch.full_like(pixels[:, 0], number)
        seen = self._data.seen(cameras, pixels)
        rgb, opacity = (view.fx.new_zeros(len(pixels), channels) for channels in (3, 1))
        counts = seen
        if self._teacher is not None and not seen.all():
            rgb, opacity = self._render(piece)
            counts = torch.ones_like(seen)
        rgb[seen], opacity[seen] = premultiplied(self._data.read_pixels(cameras[seen], pixels[seen]))
        return rgb, opacity, counts

    def _render(self, camera: Cameras) -> tuple[Tensor, Tensor]:
        """The teacher's colour `[pixels, 3]`, premultiplied, and opacity `[pixels, 1]`."""
        assert self._teacher is not None
        if self._teacher.shows_views:
            seen = look(self._teacher, camera, self._student.grid.contracted)
            return seen.rgb, seen.opacity
        rays = camera.to(self._teacher.device).generate_rays(camera_indices=0, keep_shape=True).flatten()
        shared = shared_samples(self._student)
        if shared.has_sky and self._teacher.renders_natively:  # nothing is transparent, and its own samples are fewer
            image = self._teacher.render_rays(rays)
            return image, torch.ones_like(image[:, :1])
        starts = range(0, len(rays), RAYS_AT_ONCE)
        parts = [render_in_sight(self._teacher, shared, rays[at : at + RAYS_AT_ONCE], shift=0.5) for at in starts]
        colors, opacities = zip(*parts)
        return torch.cat(colors), torch.cat(opacities)


def _pinhole(camera: Cameras, generator: Generator) -> Cameras:
    """The same view without its lens, for the teacher can be seen through any camera; of a panorama a part."""
    kind = int(camera.camera_type.flatten()[0])
    plain = Cameras(
        camera_to_worlds=camera.camera_to_worlds,
        fx=camera.fx,
        fy=camera.fy,
        cx=camera.cx,
        cy=camera.cy,
        width=camera.width,
        height=camera.height,
        camera_type=CameraType.PERSPECTIVE,
    )
    if kind in FLAT:
        return plain
    angles = torch.rand(2, generator=generator, device=generator.device).tolist()
    pose = camera.camera_to_worlds
    turn = turned(360 * angles[0], 120 * angles[1] - 60).to(pose)
    plain.camera_to_worlds = torch.cat([pose[..., :3] @ turn.T, pose[..., 3:]], dim=-1)
    plain.width = plain.height
    plain.fx = plain.fy = plain.cx = plain.cy = plain.height / 2
    return plain


def sow(teacher: FrozenTeacher, student: SplatModel, data: DistillationDataManager, seed: int) -> None:
    """Put the student's Gaussians where the teacher shows something, by compositing weight.

    Args:
        teacher: gives positions, colours and normals.
        student: is given its Gaussians.
        data: gives views.
        seed: of the run.
    """
    generator = seeded_generator(student.device, seed + 4, 0)
    wanted = max(1, round(student.field.config.start_share * student.field.config.num_gaussians))
    if not teacher.shows_views:
        places, colors, normals = _within_samples(teacher, student, data, wanted, generator)
    else:
        places, colors = _on_surfaces(teacher, student, data, wanted, generator)
        normals = torch.zeros_like(places)
    student.field.sow(places, colors, normals)
    say(f"{len(places):,} Gaussians begin where the teacher shows something.")


def _on_surfaces(
    teacher: FrozenTeacher, student: SplatModel, data: DistillationDataManager, wanted: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Positions and colours by the depth of a teacher's renderings."""
    positions, colors, found = [], [], 0
    for _ in range(MOST_VIEWS):
        (view,) = data.draw_views(1, generator)
        seen = look(teacher, _pinhole(view, generator), student.grid.contracted)
        solid = seen.is_solid.nonzero()[:, 0]
        count = min(wanted - found, round(len(solid) / RAYS_A_GAUSSIAN))
        chosen = solid[torch.randperm(len(solid), generator=generator, device=generator.device)[:count]]
        positions.append(seen.origins[chosen] + seen.distance[chosen] * seen.directions[chosen])
        colors.append(seen.rgb[chosen] / seen.opacity[chosen])
        found += count
        if found == wanted:
            break
    if not found:
        raise InputError("The cameras see nothing of the teacher. Does --data belong to the teacher's scene?")
    return torch.cat(positions), torch.cat(colors)


def _within_samples(
    teacher: FrozenTeacher, student: SplatModel, data: DistillationDataManager, wanted: int, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Positions, colours and normals, in samples by their compositing weight."""
    shared, shell = shared_samples(student), SHELL * student.grid.scale
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    found = 0
    for _ in range(MOST_VIEWS):
        rays, rendered = query_rays(teacher, shared, data.draw_rays, RAYS_AT_ONCE, generator)
        samples, weights = rendered.samples, rendered.weights[:, 0]
        if shared.has_sky:
            covered = accumulate(rendered.weights, None, samples.ray_indices, len(rays))
            weights = torch.cat([weights, (1 - covered)[:, 0].clamp_min(0)])
        # Where rays pass by all surfaces, fewer samples show anything than are wanted.
        count = min(wanted - found, round(len(rays) / RAYS_A_GAUSSIAN), int((weights > 0).sum()))
        if not count:
            continue
        chosen = torch.multinomial(weights, count, replacement=False, generator=generator)
        inside, sky = chosen[chosen < len(samples)], chosen[chosen >= len(samples)] - len(samples)
        # A random place in the sample: else all would lie on the planes of the march.
        share = torch.rand(len(inside), 1, generator=generator, device=generator.device)
        where = samples.starts[inside] + share * (samples.ends - samples.starts)[inside]
        index = torch.cat([samples.ray_indices[inside], sky])
        where = torch.cat([where.clamp_max(shell), where.new_full((len(sky), 1), shell)])
        towards = rays.directions[index]
        places = rays.origins[index] + where * towards
        normals = -towards
        normals[: len(inside)] = _normals(teacher, places[: len(inside)], student.spacing)
        parts.append((places, torch.cat([rendered.answer.rgb[inside], rendered.rgb[sky]]), normals))
        found += count
        if found == wanted:
            break
    if not found:
        raise InputError("The cameras see nothing of the teacher. Does --data belong to the teacher's scene?")
    places, colors, normals = (torch.cat(values) for values in zip(*parts))
    return places, colors, normals


def _normals(
    teacher: FrozenTeacher, positions: Float[Tensor, "points 3"], spacing: Spacing
) -> Float[Tensor, "points 3"]:
    """Where surfaces face, by the teacher's density about a sample's length around them."""
    reach = 2 * spacing.length(positions.norm(dim=-1, keepdim=True))

    def log_density(asked: Tensor) -> Tensor:
        return teacher.densities(asked, spacing.step_size).clamp_min(1e-10).log()

    return normals_of(log_density, positions, reach)
