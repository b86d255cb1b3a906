"""The teacher as the viewer shows it: through edits that change while one looks."""

import math
from functools import partial
from pathlib import Path

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.model_components.renderers import RGBRenderer
from torch import Tensor, nn
from torch.nn import functional
from viser.transforms import SO3

from pvd_nerfstudio.edits.file import Edits
from pvd_nerfstudio.edits.kinds import Insert, Keep, box_of
from pvd_nerfstudio.edits.place import Ask, Matter, Places
from pvd_nerfstudio.edits.regions import Box
from pvd_nerfstudio.rendering.occupancy import OccupancyGrid
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.teacher.occupancy import fill_grid
from pvd_nerfstudio.teacher.scene_box import completed
from pvd_nerfstudio.teacher.targets import SharedSamples, blend, render_in_sight

CELLS = 96
"""Cells of the edited scene's grid along each side."""
COARSE = 2.5
"""How much longer samples are than in a conversion: an image is looked at for a moment."""
RAYS_AT_ONCE = 1 << 13
THRESHOLD = 0.02
"""Opacity of a sample from which on a cell of an inserted run counts."""


class EditedScene(nn.Module):
    """What stands in for a pipeline's model in nerfstudio's viewer.

    The occupied cells of an edited scene are what its edits make of those of the plain one, so that a change costs no
    query of the teacher.

    Args:
        teacher: who is shown.
        plain: how rays become samples in its conversion, unedited.
        renderer: says what is behind everything.
    """

    def __init__(self, teacher: FrozenTeacher, plain: SharedSamples, renderer: RGBRenderer) -> None:
        super().__init__()
        teacher.edit(())  # one that cannot be edited says so now
        self.teacher, self._renderer = teacher, renderer
        self._plain = SharedSamples(plain.grid, plain.near, plain.far, plain.spacing.scaled(COARSE), plain.has_sky)
        self._samples = self._plain
        self._edits: Edits = ()
        self._shown: Edits | None = ()
        self._inserted: dict[Path, OccupancyGrid] = {}

    @property
    def device(self) -> torch.device:
        """Where it renders."""
        return self.teacher.device

    def take(self, edits: Edits) -> None:
        """Show other edits from now on.

        Raises:
            InputError: they cannot be made; those before are shown on.
        """
        edits = completed(edits)
        self._show(edits)
        self._edits = edits

    def _show(self, edits: Edits) -> None:
        if edits == self._shown:
            return
        self._shown = None  # the viewer may interrupt what follows at any line
        samples = self._through(edits)
        self.teacher.edit(edits, self._plain.grid)
        self._samples, self._shown = samples, edits

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """The edited scene from a camera, of which a crop of the viewer's leaves a part."""
        self._show(self._edits if obb_box is None else (*self._edits, Keep(region=box_of_crop(obb_box))))
        rays = camera.to(self.device).generate_rays(camera_indices=0, keep_shape=True)
        flat = rays.flatten()
        starts = range(0, len(flat), RAYS_AT_ONCE)
        parts = [render_in_sight(self.teacher, self._samples, flat[at : at + RAYS_AT_ONCE], shift=0.5) for at in starts]
        colors, opacities = (torch.cat(values) for values in zip(*parts))
        image = blend(colors, opacities, self._renderer)
        return {"rgb": image.view(*rays.shape, 3), "accumulation": opacities.view(*rays.shape, 1)}

    def _through(self, edits: Edits) -> SharedSamples:
        """Samples in the cells of an edited scene."""
        plain = self._plain
        if not edits:
            return plain
        inserted = [self._grid_of(edit.run) for edit in edits if isinstance(edit, Insert)]
        box = plain.grid.aabb
        if not plain.grid.contracted:
            box = box_of(edits, box).to(self.device)
        grid = OccupancyGrid(box, CELLS, plain.grid.contracted).to(self.device)
        grid.scale = plain.grid.scale
        middles = (torch.arange(CELLS, device=self.device) + 0.5) / CELLS
        size = float((box[1] - box[0]).max()) / CELLS
        ask, others = held_by(plain.grid, size), iter(inserted)
        for edit in edits:
            able = edit.into(held_by(next(others), size)) if isinstance(edit, Insert) else edit
            ask = partial(able.answer, ask)
        held = ask(_points(grid.to_world(torch.cartesian_prod(middles, middles, middles))))
        grid.occupy((held.density > 0).view(CELLS, CELLS, CELLS))
        return SharedSamples(grid, plain.near, plain.far, plain.spacing, plain.has_sky)

    def _grid_of(self, place: Path) -> OccupancyGrid:
        """The cells of a run that is inserted, filled once."""
        if place not in self._inserted:
            other = self.teacher.inserted(place)
            grid = OccupancyGrid(other.aabb, CELLS, other.space.contracted).to(self.device)
            fill_grid(grid, other, self._plain.spacing, THRESHOLD)
            self._inserted[place] = grid
        return self._inserted[place]


def held_by(grid: OccupancyGrid, size: float) -> Ask:
    """A volume that is 1 in a grid's occupied cells and about them, as far as a cell of another size reaches."""
    reach = math.ceil(size / (float((grid.aabb[1] - grid.aabb[0]).max()) / grid.resolution))
    reach = 1 if grid.contracted else min(reach, grid.resolution // 2)
    grown = OccupancyGrid(grid.aabb, grid.resolution, grid.contracted).to(grid.aabb.device)
    grown.scale = grid.scale
    cells = functional.max_pool3d(grid.occupied[None].float(), 2 * reach + 1, stride=1, padding=reach)
    grown.occupy(cells[0] > 0)
    return lambda places: Matter(grown.contains(places.positions)[:, None].float())


def box_of_crop(crop: OrientedBox) -> Box:
    """The viewer's crop as a region."""
    angles = SO3.from_matrix(crop.R.double().numpy()).as_rpy_radians()
    center, scale = (tuple(map(float, value)) for value in (crop.T, crop.S.clamp_min(1e-6)))
    return Box(center, scale, tuple(map(float, (angles.roll, angles.pitch, angles.yaw))))  # type: ignore[arg-type]


def _points(positions: Tensor) -> Places:
    zero = torch.zeros_like(positions[:, :1])
    return Places(positions, positions, positions, zero, zero, zero, wants_color=False)
