"""A trained run that only answers: frozen, in evaluation mode, outside every module tree."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.models.base_model import Model
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException
from torch import Tensor

from pvd_nerfstudio.edits.file import Edits
from pvd_nerfstudio.edits.kinds import Insert, box_of
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.hash_table import quicken
from pvd_nerfstudio.input.text import plain
from pvd_nerfstudio.rendering.at_once import at_once
from pvd_nerfstudio.rendering.occupancy import NestedGrid, OccupancyGrid
from pvd_nerfstudio.rendering.space import Space
from pvd_nerfstudio.teacher.adapters import Answer, FieldAdapter, GenericAdapter, adapted, adapter_of, space_of
from pvd_nerfstudio.teacher.building import build, building, implementation_of, method_of, no_lpips
from pvd_nerfstudio.teacher.checkpoint import TeacherRun, digest, find_run, load_state
from pvd_nerfstudio.teacher.edited import EditedVolume
from pvd_nerfstudio.teacher.old_layouts import current_layout
from pvd_nerfstudio.teacher.scene_box import Metadata, scene_box_of

POINTS_AT_ONCE, RAYS_AT_ONCE = 1 << 14, 1 << 10
"""What is answered in one go on a CPU."""
LARGEST_DENSITY = 1e10
"""What is denser is as opaque in any sample."""


class FrozenTeacher:
    """A teacher that can be queried, and keeps count of the time that it takes.

    Not an `nn.Module` on purpose: a registered teacher would be switched to training mode and saved in every
    checkpoint of its student.

    Args:
        run: the trained run.
        device: where it answers.
        data: where its data set is now, for families whose checkpoints do not hold their scene box.
        at_points: whether Gaussians are asked at points.
        edits: what is done to its volume.

    Raises:
        InputError: the checkpoint does not fit its configuration, cannot be used on this machine, or does not say
            where its scene lies; or it is to be edited, and does not answer at points.
    """

    def __init__(
        self,
        run: TeacherRun,
        device: torch.device | str,
        data: Path | None = None,
        at_points: bool = True,
        edits: Edits = (),
    ) -> None:
        self.run = run
        self.edits: Edits = ()
        self.device = torch.device(device)
        self.seconds = 0.0
        state = load_state(run)
        self.digest = digest(state)
        config = copy.deepcopy(run.config.pipeline.model)
        family = adapter_of(config)
        self.space: Space = space_of(config)
        box = scene_box_of(run, state, data)
        with building(run, state), implementation_of(config, state, device), no_lpips():
            metadata = Metadata(run, data)
            self.model: Model = build(config, family.num_train_data(state), box, metadata, device, run)
            _load_strictly(self.model, state, run, family)
        self.model.to(device).eval().requires_grad_(False)
        quicken(self.model)
        self._adapter = self._plain = adapted(self.model, family)
        answers = not isinstance(self._plain, GenericAdapter) or self._plain.answers
        self._answers, self._at_points = answers, at_points
        self._inserted: dict[Path, FrozenTeacher] = {}
        if edits:
            self.edit(edits)

    def edit(self, edits: Edits, within: OccupancyGrid | None = None) -> None:
        """From now on answer with the edited volume, whatever was edited before.

        Args:
            edits: in their order.
            within: a grid outside which the volume that is edited counts as empty, so that nobody is asked there.

        Raises:
            InputError: it does not answer at points, or a run to be inserted does not; nothing has changed then.
        """
        if not self._answers:
            raise InputError(
                f"--edits: {method_of(self.run)} has no density at points, so its volume cannot be edited. Convert it "
                "into a student first, and edit that."
            )
        others = [self.inserted(edit.run)._adapter for edit in edits if isinstance(edit, Insert)]
        self._adapter = EditedVolume(self._plain, edits, others, within) if edits else self._plain
        self.edits = edits

    def inserted(self, place: Path) -> "FrozenTeacher":
        """A run that is inserted; it is loaded once."""
        if place not in self._inserted:
            try:
                other = FrozenTeacher(find_run(place), self.device)
            except InputError as error:
                raise InputError(f"--edits, the run to insert: {error}") from error
            if not other.has_density:
                raise InputError(
                    f"--edits: {method_of(other.run)} in {other.run.config_path} has no density at points, so it "
                    "cannot be inserted. Convert it into a student first, and insert that."
                )
            self._inserted[place] = other
        return self._inserted[place]

    @property
    def box(self) -> Float[Tensor, "2 3"]:
        """Where it shows something, unless space is contracted: the scene box, and where edits have brought matter."""
        return self.aabb if self.space.contracted else box_of(self.edits, self.aabb).to(self.device)

    def sky_left(self, positions: Float[Tensor, "points 3"]) -> Float[Tensor, "points 1"]:
        """How much of the sky is left where rays end: what is erased there is black."""
        left = torch.ones_like(positions[:, :1])
        for edit in self.edits:
            left = left * edit.left(positions)
        return left

    @property
    def aabb(self) -> Float[Tensor, "2 3"]:
        """The scene box."""
        return self.model.scene_box.aabb.to(self.device)

    def take_box(self, box: SceneBox) -> None:
        """Be asked within a data set's box, where the model's own is merely around what it shows."""
        if not self.has_datas_box:
            self.model.scene_box = box

    @property
    def has_datas_box(self) -> bool:
        """Whether the scene box is that of the data set."""
        return self._plain.has_datas_box(self.model.config)

    @property
    def is_drawn(self) -> bool:
        """Whether it shows Gaussians: whole views in no time, their depth along the rays, and no single ray."""
        return getattr(self.model, "is_drawn", False) and not self.edits

    @property
    def shows_views(self) -> bool:
        """Whether its images are of whole views, and not of rays."""
        return self.is_drawn or not self.has_density

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole model, proposal networks included."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def has_density(self) -> bool:
        """Whether density and colour can be queried anywhere in space; otherwise there are only pixels."""
        return self._answers and (self._at_points or not self.is_drawn)

    @cached_property
    def feature_dim(self) -> int | None:
        """Width of the feature vector; None where there is none."""
        if not self.has_density:
            return None
        middle = self.aabb.mean(dim=0, keepdim=True)
        feature = self.query(self._adapter.around(middle, torch.ones_like(middle), 1e-2)).feature
        return None if feature is None else feature.shape[1]

    @property
    def renders_natively(self) -> bool:
        """Whether the teacher can render with its own samples here: instant-ngp needs CUDA for it."""
        return self._adapter.renders_natively

    def color_head(self) -> dict[str, Tensor] | None:
        """Weights of the colour head, laid out as a student's; None where the family has none that could fit."""
        return self._adapter.color_head()

    def density(self, positions: Float[Tensor, "points 3"], extent: float) -> Float[Tensor, "points 1"]:
        """Density at world positions; `extent` is how far around them a family that knows no points looks."""
        with self._asked():
            density = self._adapter.density(positions, extent)
            self._check_finite(density, lambda: positions)
            return density.clamp_max(LARGEST_DENSITY)

    def densities(
        self, positions: Float[Tensor, "points 3"], extent: float, chunk: int | None = None
    ) -> Float[Tensor, "points 1"]:
        """What `density` is where the teacher shows anything, at as many positions as one likes; otherwise 0."""
        parts = []
        for some in positions.split(chunk or self._points_at_once):
            density = self.density(some, extent)
            parts.append(density if self.grid is None else density * self.grid.contains(some)[:, None])
        return torch.cat(parts)

    def unedited_densities(self, positions: Float[Tensor, "points 3"], extent: float) -> Float[Tensor, "points 1"]:
        """What `densities` would be without edits; 0 outside the scene box."""
        plain = EditedVolume(self._plain, (), ())
        with self._asked():
            return torch.cat([plain.density(some, extent) for some in positions.split(self._points_at_once)])

    def occupied(self, box: Float[Tensor, "2 3"], resolution: int, least: float) -> Bool[Tensor, "x y z"] | None:
        """Cells of a box with an opacity of at least so much; None where a family must be asked at points for them."""
        with self._asked():
            return self._adapter.occupied(box, resolution, least)

    @property
    def grid(self) -> OccupancyGrid | NestedGrid | None:
        """The grid of an earlier student or of instant-ngp, which shows nothing outside it; None for all others."""
        return self._adapter.grid

    def query(self, samples: RaySamples, chunk: int | None = None) -> Answer:
        """Log-density, colour and feature of samples, `[samples]` in shape, of which there is at least one."""
        with self._asked():
            size = chunk or self._points_at_once
            starts = range(0, len(samples.frustums.origins), size)
            parts = [self._ask(samples[start : start + size]) for start in starts]
            features = [part.feature for part in parts if part.feature is not None]
            return Answer(
                log_density=torch.cat([part.log_density for part in parts]),
                rgb=torch.cat([part.rgb for part in parts]),
                feature=torch.cat(features) if features else None,
            )

    def crowd(self, samples: RaySamples) -> float:
        """How many parts of the model an answer at one of these samples is made of, on average: 1 for fields."""
        with self._asked():
            return self._adapter.crowd(samples)

    def query_points(
        self,
        positions: Float[Tensor, "points 3"],
        directions: Float[Tensor, "points 3"],
        extent: float,
        chunk: int | None = None,
    ) -> tuple[Float[Tensor, "points 1"], Float[Tensor, "points 3"]]:
        """Log-density and colour at world positions, as many as one likes: features are not kept."""
        with self._asked():
            size = chunk or self._points_at_once
            parts = [
                self._ask(self._adapter.around(*pair, extent))
                for pair in zip(positions.split(size), directions.split(size))
            ]
            return torch.cat([part.log_density for part in parts]), torch.cat([part.rgb for part in parts])

    @property
    def _points_at_once(self) -> int:
        return at_once(POINTS_AT_ONCE, self.device)

    def render_rays(self, rays: RayBundle, chunk: int | None = None) -> Float[Tensor, "rays 3"]:
        """The teacher's own rendering of rays, with its own samples; needs `renders_natively` and rays to render."""
        assert self.renders_natively, "this teacher cannot render with its own samples here"
        size = chunk or at_once(RAYS_AT_ONCE, self.device)
        with self._asked():
            return torch.cat([image_of(self.model(rays[i : i + size])) for i in range(0, len(rays), size)])

    def render(self, camera: Cameras) -> Float[Tensor, "height width 3"]:
        """The teacher's own rendering of one camera."""
        if self.shows_views:
            return image_of(self.outputs_for(camera))
        rays = camera.to(self.device).generate_rays(camera_indices=0, keep_shape=True)
        return self.render_rays(rays.flatten()).view(*rays.shape, 3)

    def outputs_for(self, camera: Cameras) -> dict[str, Tensor]:
        """All that the model's `get_outputs_for_camera` says about one camera, each `[height, width, channels]`."""
        with self._asked():
            try:
                return self.model.get_outputs_for_camera(camera.to(self.device))
            except IOChangeException:  # the viewer wants another image
                raise
            except Exception as error:  # any method, which may need what is not here
                raise InputError(
                    f"{method_of(self.run)} cannot render on this {self.device.type.upper()}: "
                    f"{type(error).__name__}: {error}. Does it need a CUDA GPU, or a package that is not installed?"
                ) from error

    def _ask(self, samples: RaySamples) -> Answer:
        answer = self._adapter.query(samples)
        self._check_finite(answer.log_density, samples.frustums.get_positions)
        return replace(answer, log_density=answer.log_density.clamp_max(math.log(LARGEST_DENSITY)))

    def _check_finite(self, density: Tensor, positions: Callable[[], Tensor]) -> None:
        """Refuse a density, or its logarithm, that is no number.

        Raises:
            InputError: says where.
        """
        broken = ~density.isfinite()
        if broken.any():
            where = positions()[broken.any(dim=-1)][0]
            value = float(density[broken][0])
            raise InputError(
                f"The density of {method_of(self.run)} in {self.run.checkpoint_path} is {value:g} at "
                f"{[round(coordinate, 3) for coordinate in where.tolist()]}: its training has diverged. Use an earlier "
                "checkpoint, or train it again."
            )

    @contextmanager
    def _asked(self) -> Iterator[None]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        start = time.perf_counter()
        with torch.no_grad():
            yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds += time.perf_counter() - start


def image_of(outputs: dict[str, Any]) -> Tensor:
    """The image among a model's outputs: coarse-to-fine models call it `rgb_fine`."""
    return outputs["rgb"] if "rgb" in outputs else outputs["rgb_fine"]


def _load_strictly(model: Model, state: dict[str, Tensor], run: TeacherRun, family: type[FieldAdapter]) -> None:
    """Load all or nothing; not every model's `load_state_dict` reports what did not fit, so names are compared here."""
    try:
        model.update_to_step(run.step)
        family.fit(model, state)
        state = current_layout(state, model)
        model.load_state_dict(dict(state), strict=False)
    except InputError:
        raise
    except Exception as error:  # whatever a module makes of values that are not its own
        raise InputError(f"{run.checkpoint_path} does not fit {run.config_path}: {plain(error)}") from error
    wanted = {key for key in model.state_dict() if not key.startswith("lpips.")}
    missing, unexpected = sorted(wanted - set(state)), sorted(set(state) - wanted)
    if missing or unexpected:
        raise InputError(
            f"{run.checkpoint_path} does not fit {method_of(run)} as {run.config_path} describes it. "
            f"Missing: {_first(missing)}. Unexpected: {_first(unexpected)}. "
            "Was config.yml edited, or the checkpoint copied from another run?"
        )


def _first(keys: list[str], count: int = 3) -> str:
    more = f" and {len(keys) - count} more" if len(keys) > count else ""
    return ", ".join(keys[:count]) + more if keys else "none"
