"""The edited volume, between a teacher and whoever queries it: grid, bank, comparison, viewer.

It answers as a family's adapter does (`adapters.py`), so nobody above it knows that there are edits. It never renders
by the teacher's own renderer, which knows of none.
"""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import Frustums, RaySamples
from torch import Tensor

from pvd_nerfstudio.edits.kinds import Edit, Insert
from pvd_nerfstudio.edits.place import Ask, Matter, Places
from pvd_nerfstudio.rendering.occupancy import OccupancyGrid
from pvd_nerfstudio.teacher.adapters import Answer, FieldAdapter, log_of
from pvd_nerfstudio.teacher.samples import ball_samples


class EditedVolume(FieldAdapter):
    """What a family answers, edited.

    Args:
        plain: the adapter of the teacher.
        edits: what is done to its volume, in their order.
        inserted: for each `insert` among them, the adapter of its run.
        within: a grid outside which the teacher counts as empty.
    """

    def __init__(
        self,
        plain: FieldAdapter,
        edits: Sequence[Edit],
        inserted: Sequence[FieldAdapter],
        within: OccupancyGrid | None = None,
    ) -> None:
        super().__init__(plain.model)
        self._plain = plain
        others = iter(inserted)
        self._ask = _asked(plain, within)
        for edit in edits:
            able = edit.into(_asked(next(others))) if isinstance(edit, Insert) else edit
            self._ask = partial(able.answer, self._ask)

    @property
    def renders_natively(self) -> bool:
        """Its own renderer knows of no edits."""
        return False

    def density(self, positions: Float[Tensor, "points 3"], extent: float) -> Float[Tensor, "points 1"]:
        samples = self.around(positions, torch.ones_like(positions), extent)
        return self._ask(_places_of(samples, wants_color=False)).density

    def query(self, samples: RaySamples) -> Answer:
        matter = self._ask(_places_of(samples))
        assert matter.rgb is not None
        return Answer(log_of(matter.density), matter.rgb, matter.feature)

    def around(self, positions: Tensor, directions: Tensor, extent: float) -> RaySamples:
        """Balls, also where the teacher knows points: a run that is inserted may know none."""
        return ball_samples(positions, directions, extent)

    def crowd(self, samples: RaySamples) -> float:
        return self._plain.crowd(samples)

    def color_head(self) -> dict[str, Tensor] | None:
        return self._plain.color_head()


def _asked(plain: FieldAdapter, within: OccupancyGrid | None = None) -> Ask:
    """What a family answers; nothing outside its grid, nor outside its scene box unless space is contracted.

    Nobody is asked outside the scene box and outside `within`. In contracted space colours are asked for everywhere:
    they are the sky's where there is nothing.
    """
    contracted = plain.space(plain.model.config).contracted

    def answered(places: Places) -> Matter:
        samples = _samples_of(places)
        if not places.wants_color:
            matter = Matter(plain.density_of(samples))
        else:
            answer = plain.query(samples)
            matter = Matter(answer.log_density.exp(), answer.rgb, answer.feature)
        return matter if plain.grid is None else matter.times(plain.grid.contains(places.positions)[:, None])

    def ask(places: Places) -> Matter:
        positions = places.positions
        inside = torch.ones_like(positions[:, 0], dtype=torch.bool)
        if not contracted:
            low, high = plain.model.scene_box.aabb.to(positions)
            inside = ((positions >= low) & (positions <= high)).all(dim=-1)
        if within is not None:
            inside &= within.contains(positions)
        if inside.all():
            return answered(places)
        if contracted and places.wants_color:
            return answered(places).times(inside[:, None])
        # One at least, which says how wide a feature is.
        index = inside.nonzero()[:, 0] if inside.any() else inside.new_zeros(1, dtype=torch.long)
        return answered(places[index]).times(inside[index][:, None]).at(index, len(places))

    return ask


def _places_of(samples: RaySamples, wants_color: bool = True) -> Places:
    frustums = samples.frustums
    return Places(
        positions=frustums.get_positions(),
        origins=frustums.origins,
        directions=frustums.directions,
        starts=frustums.starts,
        ends=frustums.ends,
        pixel_area=frustums.pixel_area,
        wants_color=wants_color,
    )


def _samples_of(places: Places) -> RaySamples:
    frustums = Frustums(
        origins=places.origins.contiguous(),  # mipnerf takes nothing else
        directions=places.directions.contiguous(),
        starts=places.starts,
        ends=places.ends,
        pixel_area=places.pixel_area,
    )
    camera_indices = torch.zeros_like(places.starts, dtype=torch.long)
    return RaySamples(frustums=frustums, camera_indices=camera_indices, deltas=places.ends - places.starts)
