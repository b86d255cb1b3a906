"""The student: an ordinary nerfstudio model that marches through an occupancy grid and needs nothing but itself."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, make_dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.model_components import renderers
from nerfstudio.model_components.renderers import RGBRenderer
from nerfstudio.models.base_model import ModelConfig
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.bounded import Bounded
from pvd_nerfstudio.input.help import hide
from pvd_nerfstudio.input.ranges import COUNT, above, at_least
from pvd_nerfstudio.input.text import say
from pvd_nerfstudio.processes import take_from_first
from pvd_nerfstudio.rendering.at_once import at_once
from pvd_nerfstudio.rendering.compositing import accumulate, median_depth, render_weights
from pvd_nerfstudio.rendering.normals import normals_of
from pvd_nerfstudio.rendering.occupancy import OccupancyGrid, PackedSamples
from pvd_nerfstudio.rendering.pixels import rays_at
from pvd_nerfstudio.rendering.space import Spacing
from pvd_nerfstudio.rendering.termination import answer_in_sight
from pvd_nerfstudio.rendering.turns import Turns, portions
from pvd_nerfstudio.student.average import Averaged
from pvd_nerfstudio.student.fields.base import FieldConfig
from pvd_nerfstudio.student.fields.growth import Moment, grow
from pvd_nerfstudio.student.metrics import NOTHING, Judged
from pvd_nerfstudio.student.registry import STUDENTS, StudentName

PointAnswers = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Positions and directions `[points, 3]` to log-density `[points, 1]` and colour `[points, 3]`."""
SeenAnswers = Callable[[Tensor], tuple[Tensor, Tensor]]
"""The same of positions alone: somebody knows from where they are seen."""

BEND, LARGEST_BEND = 2.0, 8.0
"""Distance, in scales, from which samples in contracted space are even in disparity: behind most of what lies in the
box in its middle; and the largest, for a ray has twice as many samples as there are up to it."""
PAPERS_HALF_SIDE = 1.5
"""Half a side of the scene boxes that the papers' bounds of the density are for: nerfstudio's of Blender's scenes."""

RAYS_AT_ONCE, CANDIDATES = 8192, 1 << 24
"""Rays of an image that are rendered in one go on a CPU; and samples that those may have on a GPU."""
POINTS_AT_ONCE = 1 << 14
"""Points that a field answers in one go: what it makes of them should stay in the cache."""

if TYPE_CHECKING:
    StudentSizes = ModelConfig
else:
    StudentSizes = make_dataclass(
        "StudentSizes",
        [(name, config, field(default_factory=config)) for name, config in STUDENTS.items()],
        bases=(ModelConfig,),
    )
    """One field a student: its sizes. Made from the registry, so that other packages' students have options too."""


@dataclass
class StudentModelConfig(StudentSizes):
    """What is trained. The teacher's run gives what is left out."""

    ranges = {
        "scale": above(0),
        "grid_resolution": at_least(2),
        "render_step_size": above(0),
        "disparity_from": above(0),
        "train_step_factor": above(0),
        "near_plane": at_least(0),
        "far_plane": above(0),
        "eval_num_rays_per_chunk": COUNT,
    }

    _target: type = field(default_factory=lambda: StudentModel)
    student: StudentName = "mlp"
    """Architecture of the student; set it with --student."""
    scale: float | None = None
    """World length that counts as one: densities are per it, and contracted space is as it is up to there; left out:
    in a scene box 2/3 of half its side, in contracted space half of what the teacher shows is nearer to the middle."""
    grid_resolution: int = 128
    """Cells of the occupancy grid along each side."""
    render_step_size: float | None = None
    """Length of a sample on a ray, in world units; left out: 1/400 of the diagonal of the scene box; in contracted
    space 1/200 of that of the box in its middle, for rays there have many more samples."""
    disparity_from: float | None = None
    """Distance from which samples are even in disparity: longer with its square; left out: nowhere in a scene box; in
    contracted space as far as what cameras show needs, from 2 to 8 scales."""
    train_step_factor: float = 1.6
    """How much longer samples are in training than in images: fewer of them, at random places. Left at 1.6 it may grow
    in contracted space (--pipeline.fit-step)."""
    near_plane: float | None = None
    """Distance at which rays start; left out: the teacher's."""
    far_plane: float | None = None
    """Distance at which rays end; left out: the teacher's."""
    contracted: bool | None = None
    """Whether space outside a box in its middle is contracted; left out: as the teacher's."""
    background_color: Literal["white", "black", "random", "last_sample"] | None = None
    """Colour where nothing is hit; left out: the teacher's. random: black in images, as in nerfstudio. last_sample:
    what the field shows at the far plane, in contracted space alone."""
    depth: Literal["median", "expected"] | None = None
    """What `depth` is: where half of the light is reached, or the mean; left out: as the teacher's method means it.
    `expected_depth` is the mean always."""
    enable_collider: bool = False
    """Not used: near_plane and far_plane bound the rays."""
    eval_num_rays_per_chunk: int = RAYS_AT_ONCE
    """Rays rendered at a time in evaluation; left at 8192 there may be eight times as many on a GPU."""

    @property
    def chosen(self) -> FieldConfig:
        """The chosen student's sizes."""
        return getattr(self, self.student)

    @property
    def sh_degree(self) -> int:
        """splatfacto's name for the degree of the spherical harmonics, which nerfstudio's exporter asks for."""
        return getattr(self.chosen, "sh_degree", 0)

    @property
    def chosen_parts(self) -> dict[str, FieldConfig]:
        """The sizes of the students that the chosen one is composed of.

        Raises:
            InputError: there is no such student.
        """
        for name in self.chosen.composed_of:
            if name not in STUDENTS or getattr(self, name).composed_of:
                whole = [known for known in STUDENTS if not getattr(self, known).composed_of]
                raise InputError(
                    f"The student '{self.student}' cannot be composed of '{name}'. Parts can be: {', '.join(whole)}."
                )
        return {name: getattr(self, name) for name in self.chosen.composed_of}

    def __str__(self) -> str:
        """As it is printed: of the students the one that is used."""
        shown, used = copy.copy(self), {self.student, *self.chosen.composed_of}
        for name in STUDENTS.keys() - used:
            vars(shown).pop(name, None)
        return super(StudentModelConfig, shown).__str__()

    def build_within(self, limit: int) -> None:
        """Build the next model under a limit of numbers in a tensor: these sizes are from a file."""
        vars(self)["_limit"] = limit

    def setup(self, **kwargs: Any) -> Any:
        """nerfstudio's; within the limit, if there is one. It is good for once: later the student may have grown."""
        limit = vars(self).pop("_limit", None)
        with nullcontext() if limit is None else Bounded(limit):
            return self.chosen.model()(self, **kwargs)

    def check(self, option: str) -> None:
        """Refuse numbers that do not go together, also those of the chosen student.

        Args:
            option: what its options begin with.

        Raises:
            InputError: says which.
        """
        if self.near_plane is not None and self.far_plane is not None and self.near_plane >= self.far_plane:
            raise InputError(
                f"Rays would start at {self.near_plane:g} and end at {self.far_plane:g}: lower {option}.near-plane or "
                f"raise {option}.far-plane."
            )
        for name, config in ({self.student: self.chosen} | self.chosen_parts).items():
            config.check(f"{option}.{name}")

    def fit(self, scale: float, bend: float) -> None:
        """Fill in the scale and, within bounds, the distance up to which samples of contracted space are even."""
        self.scale = self.scale or scale
        if self.contracted:
            self.disparity_from = self.disparity_from or self.scale * min(max(BEND, bend / self.scale), LARGEST_BEND)

    def enlarge(self, box: Float[Tensor, "2 3"], longer: float, most: float) -> None:
        """Keep cells and samples as small as they are in a scene box, in one with longer sides.

        Args:
            box: the one that the sizes are for.
            longer: how much longer the sides are.
            most: by which factor cells along the sides become more at most; beyond it cells and samples grow.
        """
        factor = min(longer, most)
        self.render_step_size = self.render_step_size or self.spacing(box).step_size * longer / factor
        self.grid_resolution = math.ceil(factor * self.grid_resolution)
        for config in (self.chosen, *self.chosen_parts.values()):
            config.enlarge(factor)

    def spacing(self, aabb: Float[Tensor, "2 3"]) -> Spacing:
        """How long samples are in images of a scene."""
        scale = self.scale or 1.0
        length = scale * 2 * math.sqrt(3) / 200 if self.contracted else float((aabb[1] - aabb[0]).norm()) / 400
        bend = scale * BEND if self.contracted else math.inf
        return Spacing(self.render_step_size or length, self.disparity_from or bend)


hide(StudentModelConfig, "student", "enable_collider", "collider_params", "loss_coefficients", "prompt")


class StudentModel(Averaged, Judged):
    """A field and the occupancy grid that its samples come from."""

    config: StudentModelConfig
    turns: Turns | None = None
    """Whom images take turns with; set while there is a viewer."""
    beside: Callable[[Cameras, dict[str, Tensor]], dict[str, Tensor]] | None = None
    """Adds further images from a camera to the student's own."""
    all_alike = False
    """Whether all parameters are one group, as in runs of the first release."""

    def populate_modules(self) -> None:
        """Build field, grid and renderer; the grid is full until it is filled or loaded."""
        super().populate_modules()
        config = self.config
        assert config.near_plane is not None and config.far_plane is not None and config.background_color is not None
        self.near, self.far = config.near_plane, config.far_plane
        aabb = self.scene_box.aabb
        options = {"parts": config.chosen_parts} if config.chosen.composed_of else {}
        self.field = config.chosen.setup(aabb=aabb, contracted=config.contracted, **options)
        self.grid = OccupancyGrid(aabb, config.grid_resolution, bool(config.contracted))
        self._take_scale()  # the first time it is the hand-over's to say: see `fit`
        self.has_sky = bool(config.contracted) and config.background_color == "last_sample"
        self.renderer_rgb = RGBRenderer(background_color="black" if self.has_sky else config.background_color)

    @property
    def feature_dim(self) -> int | None:
        """Width of the feature vector; None where there is none."""
        return getattr(self.config.chosen, "feature_dim", None)

    def fit(self, scale: float | None = None, bend: float = 0.0) -> None:
        """Take a scale, and how far the samples of contracted space are even, unless the user has said so.

        Args:
            scale: what counts as one; left out: what suits the scene box.
            bend: the distance up to which samples should be even; it stays within bounds.
        """
        low, high = self.grid.aabb
        self.config.fit(float((high - low).mean()) / 2 / PAPERS_HALF_SIDE if scale is None else scale, bend)
        self._take_scale()

    def _take_scale(self) -> None:
        self.field.scale = self.grid.scale = self.config.scale or 1.0
        self.spacing = self.config.spacing(self.grid.aabb)

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """`matrices`, those of networks, where there are any; and `fields`, all the rest."""
        parameters = list(self.field.parameters())
        matrices = [] if self.all_alike else self.field.matrices
        if not matrices:
            return {"fields": parameters}
        known = {id(matrix) for matrix in matrices}
        return {"matrices": matrices, "fields": [value for value in parameters if id(value) not in known]}

    def grow(
        self,
        progress: float,
        optimizer: Optimizer | None = None,
        teacher: SeenAnswers | None = None,
        rays: Callable[[], RayBundle] | None = None,
    ) -> bool:
        """Give the field the size that is right at a share of the run; returns whether anything changed.

        Args:
            progress: the share, in [0, 1).
            optimizer: who learns; None before there is one.
            teacher: answers positions with log-density and with the colour that cameras see; None where nobody can.
            rays: gives some of those that are learned from; None before there are any.
        """

        def occupied(unit: Tensor) -> Tensor:
            return self.grid.contains(self.field.to_world(unit))

        def seen(unit: Tensor) -> tuple[Tensor, Tensor]:
            """The teacher's log-density per cell, and its colour."""
            assert teacher is not None
            positions = self.field.to_world(unit)
            log_density, rgb = teacher(positions)
            return log_density + self.grid.stretch(positions).log(), rgb

        def carried(cells: int) -> Tensor:
            assert rays is not None
            return self.carried(rays(), cells)

        answers, weights = None if teacher is None else seen, None if rays is None else carried
        grew = grow(self.field, Moment(progress, occupied, self.grid.resolution, optimizer, answers, weights))
        if grew:
            self.drop_average()
        return grew

    @torch.no_grad()
    def carried(self, rays: RayBundle, cells: int) -> Float[Tensor, "cells cells cells"]:
        """Largest compositing weight that the field shows on some rays in each cell of a grid over the unit cube; the
        sky has what is left of a ray."""
        largest = torch.zeros(cells**3, device=self.device)

        def note(positions: Tensor, weights: Tensor) -> None:
            x, y, z = (self.field.to_unit(positions) * cells).long().clamp(0, cells - 1).unbind(dim=-1)
            largest.scatter_reduce_(0, (x * cells + y) * cells + z, weights[:, 0], "amax")

        for begin in range(0, len(rays), self.config.eval_num_rays_per_chunk):
            some = rays[begin : begin + self.config.eval_num_rays_per_chunk]
            samples = self.sample(some)
            positions, index = samples.positions(some.origins, some.directions), samples.ray_indices
            density = self.field.to_density(self._shallow(positions)[0])
            weights = render_weights(density, samples.ends - samples.starts, index, len(some))
            note(positions, weights)
            if self.has_sky:
                note(some.origins + self.far * some.directions, 1 - accumulate(weights, None, index, len(some)))
        take_from_first(largest)
        return largest.view(cells, cells, cells)

    def inherit_color_head(self, weights: dict[str, Tensor] | None) -> None:
        """Start with a teacher's colour head, where there is one of the same shapes; the log says which."""
        head = self.field.color_head
        if head is None:
            return
        shapes = {name: value.shape for name, value in head.state_dict().items()}
        if weights is None or {name: value.shape for name, value in weights.items()} != shapes:
            say("The teacher's colour head does not fit the student's, which starts at random.")
            return
        head.load_state_dict(weights)
        say("The student starts with the teacher's colour head.")

    @property
    def train_spacing(self) -> Spacing:
        """How long samples are in training."""
        return self.spacing.scaled(self.config.train_step_factor)

    def forward(self, ray_bundle: RayBundle | RaySamples, color: bool = True) -> dict[str, Tensor]:  # type: ignore[override]
        """Render rays; or answer at points, given as `RaySamples`, with their colour or without.

        Both go through forward, so that several processes (DDP) see every use of the weights. In evaluation there are
        `normals` too, for nerfstudio's exporters, which come here; images take the way around.
        """
        if isinstance(ray_bundle, RaySamples):
            return self.get_point_outputs(ray_bundle, color)
        if self.training:
            return self.get_pixels(ray_bundle)
        outputs = self.get_outputs(ray_bundle)
        return outputs | {"normals": self.normals(ray_bundle, outputs["depth"])}

    def get_point_outputs(self, points: RaySamples, color: bool = True) -> dict[str, Tensor]:
        """Log-density `[points, 1]`, feature `[points, channels]` and, if asked for, colour `[points, 3]` at points."""
        log_density, feature = self.field.shallow(points.frustums.origins)
        outputs = {"log_density": log_density, "feature": feature}
        if color:
            outputs["rgb"] = self.field.deep(feature, points.frustums.directions)
        return outputs

    def answer(
        self, positions: Float[Tensor, "points 3"], directions: Float[Tensor, "points 3"]
    ) -> tuple[Float[Tensor, "points 1"], Float[Tensor, "points 3"]]:
        """Log-density and colour at one point or more."""
        log_density, feature = self._shallow(positions)
        return log_density, self._deep(feature, directions)

    def _shallow(self, positions: Float[Tensor, "points 3"]) -> tuple[Tensor, Tensor]:
        """Log-density and feature, as many points at a time as caches like."""
        parts = positions.split(at_once(POINTS_AT_ONCE, positions.device))
        log_densities, features = zip(*(self.field.shallow(some) for some in parts))
        return torch.cat(log_densities), torch.cat(features)

    def _deep(self, features: Float[Tensor, "points channels"], directions: Float[Tensor, "points 3"]) -> Tensor:
        """Colours, likewise."""
        size = at_once(POINTS_AT_ONCE, features.device)
        parts = zip(features.split(size), directions.split(size))
        return torch.cat([self.field.deep(*part) for part in parts])

    def sample(self, rays: RayBundle) -> PackedSamples:
        """Samples of the rays in occupied space; one sample of length 0 where there is none at all.

        In evaluation rays start at the camera, as nerfstudio's do: a viewer may stand closer than the near plane.
        """
        closest = self.near if self.training else 0.0
        near = torch.full_like(rays.origins[:, :1], closest) if rays.nears is None else rays.nears
        far = torch.full_like(near, self.far) if rays.fars is None else rays.fars
        spacing = self.train_spacing if self.training else self.spacing
        samples = self.grid.march(rays.origins, rays.directions, near, far, spacing)
        if not len(samples):
            return PackedSamples(torch.zeros_like(near[:1, 0], dtype=torch.long), near[:1], near[:1])
        return samples

    def normals(self, rays: RayBundle, depth: Float[Tensor, "rays 1"]) -> Float[Tensor, "rays 3"]:
        """Normals of what rays meet at a depth, in [0, 1] as nerfstudio has them: 0.5 is 0."""
        surface = rays.origins + depth * rays.directions
        reach = 2 * self.spacing.length(depth)
        parts = [
            normals_of(lambda asked: self.field.shallow(asked)[0], some, far)
            for some, far in zip(surface.split(POINTS_AT_ONCE // 6), reach.split(POINTS_AT_ONCE // 6))
        ]
        return (torch.cat(parts) + 1) / 2

    def normal_image(self, camera: Cameras, outputs: dict[str, Tensor]) -> Float[Tensor, "height width 3"]:
        """Normals of what a camera sees, in [0, 1]; grey where that is nothing.

        Args:
            camera: whose images were made.
            outputs: those images.
        """
        rays, shape = camera.generate_rays(camera_indices=0, keep_shape=True).flatten(), outputs["depth"].shape[:2]
        normals = self.normals(rays.to(self.device), outputs["depth"].view(-1, 1).to(self.device)).to(outputs["rgb"])
        return torch.where(outputs["accumulation"] > NOTHING, normals.view(*shape, 3), 0.5)

    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """Images from a camera, each `[height, width, channels]`; with what the pipeline has beside them."""
        outputs = super().get_outputs_for_camera(camera, obb_box)
        hit = outputs["accumulation"] > NOTHING
        for name in ("depth", "expected_depth"):  # at the far plane, what meets nothing would stretch the colour map
            farthest = outputs[name][hit].amax() if hit.any() else outputs[name].amin()
            outputs[name] = torch.where(hit, outputs[name], farthest)
        return outputs if self.beside is None else self.beside(camera, outputs)

    @torch.no_grad()
    def get_outputs_for_camera_ray_bundle(self, camera_ray_bundle: RayBundle) -> dict[str, Tensor]:
        """Images of rays `[height, width]`, each `[height, width, channels]`, on the device of the rays."""
        rays, device = camera_ray_bundle.flatten(), camera_ray_bundle.origins.device
        parts = [self.get_outputs(rays[part].to(self.device)) for part in self.portions(len(rays))]
        shape = (*camera_ray_bundle.shape, -1)
        return {name: torch.cat([part[name].to(device) for part in parts]).view(shape) for name in parts[0]}

    def portions(self, total: int) -> Iterator[slice]:
        """The rays of an image, as many at a time as memory likes; where there is a viewer, others have their turn
        between two portions: an image in the midst of training shows the weights of several steps."""
        most = self.config.eval_num_rays_per_chunk
        if most == RAYS_AT_ONCE:  # the default
            fit = int(CANDIDATES / self.spacing.most(self.grid.longest))
            most = max(most, min(at_once(most, self.device), fit))
        if self.turns is None:
            return (slice(begin, begin + most) for begin in range(0, total, most))
        return portions(total, most, self._give_way)

    def _give_way(self) -> None:
        assert self.turns is not None
        self.turns.give_way(self._aside)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """While others have the weights: without the colour of a viewer's crop box; then evaluation goes on."""
        background, renderers.BACKGROUND_COLOR_OVERRIDE = renderers.BACKGROUND_COLOR_OVERRIDE, None
        try:
            yield
            self.eval()
        finally:
            renderers.BACKGROUND_COLOR_OVERRIDE = background

    def get_pixels(self, rays: RayBundle) -> dict[str, Tensor]:
        """What training looks at: premultiplied colour, and the opacity that goes with it: 1 where there is a sky."""
        samples, count = self.sample(rays), len(rays)
        index, positions = samples.ray_indices, samples.positions(rays.origins, rays.directions)
        log_density, rgb = self.answer(positions, rays.directions.index_select(0, index))
        weights = render_weights(self.field.to_density(log_density), samples.ends - samples.starts, index, count)
        premultiplied, opacity = accumulate(weights, rgb, index, count), accumulate(weights, None, index, count)
        if not self.has_sky:
            return {"premultiplied": premultiplied, "opacity": opacity}
        behind = (1 - opacity) * self.sky(rays.origins, rays.directions)
        return {"premultiplied": premultiplied + behind, "opacity": torch.ones_like(opacity)}

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Tensor]:  # type: ignore[override]
        """Colour, opacity (`accumulation`) and depths of rays; `occupancy`: how many hundreds of samples each takes."""
        rays, num_rays = ray_bundle, len(ray_bundle)
        samples = self.sample(rays)
        index = samples.ray_indices
        positions, lengths = samples.positions(rays.origins, rays.directions), samples.ends - samples.starts
        log_density, rgb = answer_in_sight(
            self._shallow, self._deep, self.field.to_density, positions, rays.directions, lengths, index
        )
        weights = render_weights(self.field.to_density(log_density), lengths, index, num_rays)
        accumulation = accumulate(weights, None, index, num_rays)
        middle = (samples.starts + samples.ends) / 2
        expected = accumulate(weights, middle, index, num_rays) / accumulation.clamp_min(1e-6)
        far = rays.fars if rays.fars is not None else torch.full_like(expected, self.far)
        expected = torch.where(accumulation > NOTHING, expected, far)
        is_mean = self.config.depth == "expected"
        depth = expected if is_mean else median_depth(weights, middle, index, far)
        image = self.renderer_rgb(rgb=rgb, weights=weights, ray_indices=index, num_rays=num_rays)
        if self.has_sky and renderers.BACKGROUND_COLOR_OVERRIDE is None:  # else a viewer's crop box has a colour
            image = image + (1 - accumulation) * self.sky(rays.origins, rays.directions)
        outputs = {
            "rgb": image,
            "accumulation": accumulation,
            "depth": torch.where(accumulation > NOTHING, depth, far),
            "expected_depth": expected,
            "occupancy": torch.bincount(index, minlength=num_rays)[:, None] / 100,
        }
        if rays.nears is not None and rays.fars is not None and renderers.BACKGROUND_COLOR_OVERRIDE is None:
            outputs["rgb"] = self._on_surface(rays, accumulation, image)
        return outputs

    def _on_surface(self, rays: RayBundle, opacity: Tensor, image: Tensor) -> Tensor:
        """Short rays through the faces of a mesh, of which nerfstudio makes textures: where they meet nothing, the face
        lies beside the grid, and has the colour that the field has there."""
        empty = (opacity <= NOTHING)[:, 0].nonzero()[:, 0]
        if not len(empty):
            return image
        assert rays.nears is not None and rays.fars is not None
        middle = rays.origins[empty] + (rays.nears + rays.fars)[empty] / 2 * rays.directions[empty]
        return image.index_copy(0, empty, self.answer(middle, rays.directions[empty])[1].to(image))

    def pixels(
        self, camera: Cameras, chosen: Int[Tensor, "pixels"], rays: RayBundle | None = None
    ) -> Float[Tensor, "pixels 3"]:
        """Some pixels of a view, by their numbers; their rays may be at hand already."""
        return self.get_outputs(rays_at(camera, chosen).to(self.device) if rays is None else rays)["rgb"]

    def rays_for(self, pixels: int, camera: Cameras) -> int:
        """How many are rendered where so many are asked for."""
        del camera
        return pixels

    def sky(self, origins: Float[Tensor, "rays 3"], directions: Float[Tensor, "rays 3"]) -> Float[Tensor, "rays 3"]:
        """What the field shows at the far plane, behind everything."""
        _, feature = self.field.shallow(origins + self.far * directions)
        return self.field.deep(feature, directions)
