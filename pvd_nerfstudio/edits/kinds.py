"""What an edit does to a volume.

An edit answers for the edited volume by what it is told of the volume below it, at the same places or at others.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pvd_nerfstudio.edits.place import EVERYWHERE, Ask, Matter, Motion, Places
from pvd_nerfstudio.edits.regions import Region, Vector, rotation_of
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.ranges import ANY, SHARE, Ranges, above, at_least, between, inside

LARGEST = 1 << 23
"""Places that may be asked at once: copies of copies of everything would be endless."""
WORTH_LEAVING_OUT = 0.8
"""Share of places with something left, under which the others are not asked for."""
LUMINANCE = (0.2126, 0.7152, 0.0722)
"""Of red, green and blue (ITU-R BT.709)."""


class Edit:
    """One edit."""

    kind: ClassVar[str]

    def answer(self, below: Ask, places: Places) -> Matter:
        """What the edited volume holds; `below` asks the one that is edited."""
        raise NotImplementedError

    def changes(self, positions: Float[Tensor, "places 3"]) -> Bool[Tensor, "places"]:
        """Where the edited volume may be another than the one below."""
        raise NotImplementedError

    def box(self, box: Float[Tensor, "2 3"]) -> Float[Tensor, "2 3"]:
        """A box around the edited volume, of a volume in a box."""
        return box

    def left(self, positions: Float[Tensor, "places 3"]) -> Float[Tensor, "places 1"]:
        """How much of what is behind everything, the sky, is left at positions."""
        return torch.ones_like(positions[:, :1])

    @property
    def places(self) -> list[Float[Tensor, "2 3"]]:
        """Boxes in which all lies that it may change; infinite ones where nothing is known."""
        return [EVERYWHERE]


@dataclass(frozen=True, kw_only=True)
class _InRegion(Edit):
    region: Region
    """Where it acts."""

    def changes(self, positions: Float[Tensor, "places 3"]) -> Bool[Tensor, "places"]:
        return self.region.share(positions)[:, 0] > 0

    @property
    def places(self) -> list[Float[Tensor, "2 3"]]:
        return self.region.parts


@dataclass(frozen=True, kw_only=True)
class _Factor(_InRegion):
    """The density times a factor; what is left keeps its colour."""

    def answer(self, below: Ask, places: Places) -> Matter:
        return below(places).times(self._factors(self.region.share(places.positions)))

    def _factors(self, share: Float[Tensor, "places 1"]) -> Float[Tensor, "places 1"]:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Keep(_Factor):
    """Erases all outside a region."""

    kind = "keep"

    def _factors(self, share: Tensor) -> Tensor:
        return share

    def changes(self, positions: Float[Tensor, "places 3"]) -> Bool[Tensor, "places"]:
        return self.region.share(positions)[:, 0] < 1

    @property
    def places(self) -> list[Float[Tensor, "2 3"]]:
        return [EVERYWHERE]

    def left(self, positions: Float[Tensor, "places 3"]) -> Float[Tensor, "places 1"]:
        return self.region.share(positions)


@dataclass(frozen=True, kw_only=True)
class Erase(_Factor):
    """Erases what is in a region."""

    kind = "erase"

    def left(self, positions: Float[Tensor, "places 3"]) -> Float[Tensor, "places 1"]:
        return 1 - self.region.share(positions)

    def _factors(self, share: Tensor) -> Tensor:
        return 1 - share


@dataclass(frozen=True, kw_only=True)
class _Times(_Factor):
    factor: float
    """What its density is multiplied with: below 1 to make it thinner, above 1 to make it thicker."""

    def _factors(self, share: Tensor) -> Tensor:
        return 1 + share * (self.factor - 1)


@dataclass(frozen=True, kw_only=True)
class Thin(_Times):
    """Makes what is in a region more transparent."""

    kind = "thin"
    ranges: ClassVar[Ranges] = {"factor": inside(0, 1)}


@dataclass(frozen=True, kw_only=True)
class Thicken(_Times):
    """Makes what is in a region more opaque."""

    kind = "thicken"
    ranges: ClassVar[Ranges] = {"factor": above(1)}


@dataclass(frozen=True, kw_only=True)
class Recolor(_InRegion):
    """Gives what is in a region other colours: turned, faded, brightened, or mixed with one colour."""

    kind = "recolor"
    ranges: ClassVar[Ranges] = {
        "hue": between(-360, 360),
        "saturation": at_least(0),
        "brightness": at_least(0),
        "color": SHARE,
        "strength": SHARE,
    }

    hue: float = 0.0
    """By how many degrees colours turn around grey: 120 makes red green."""
    saturation: float = 1.0
    """Factor of the distance from grey: 0 leaves grey, 1 all as it is."""
    brightness: float = 1.0
    """Factor of all colours."""
    color: Vector | None = None
    """In place of the three: red, green and blue, from 0 to 1, that all is mixed with."""
    strength: float = 1.0
    """How much of the new colour there is, from 0 to 1."""

    def problem(self) -> str | None:
        """What of its numbers makes no sense together."""
        adjusts = (self.hue, self.saturation, self.brightness) != (0.0, 1.0, 1.0)
        if self.color is None:
            return None if adjusts else "it changes nothing: say hue, saturation, brightness or color"
        return "color stands in place of hue, saturation and brightness: say either" if adjusts else None

    def answer(self, below: Ask, places: Places) -> Matter:
        matter = below(places)
        if matter.rgb is None:
            return matter
        share = self.region.share(places.positions)
        index = share[:, 0].nonzero()[:, 0]
        rgb = matter.rgb[index]
        mixed = torch.lerp(rgb, self.recolored(rgb), self.strength * share[index])
        return replace(matter, rgb=matter.rgb.index_copy(0, index, mixed)).without_feature(index)

    def recolored(self, rgb: Float[Tensor, "places 3"]) -> Float[Tensor, "places 3"]:
        """Colours at full strength."""
        if self.color is not None:
            return rgb.new_tensor(self.color).expand_as(rgb)
        return (rgb @ self._matrix.to(rgb).T).clamp(0, 1)

    @cached_property
    def _matrix(self) -> Float[Tensor, "3 3"]:
        """Source: Haeberli, Matrix Operations for Image Processing, 1993."""
        angle = torch.tensor(self.hue).deg2rad()
        grey = torch.full((3,), 3**-0.5)
        across = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) * 3**-0.5
        turn = angle.cos() * torch.eye(3) + (1 - angle.cos()) * torch.outer(grey, grey) + angle.sin() * across
        luminance = torch.tensor(LUMINANCE).expand(3, 3)
        return self.brightness * (self.saturation * torch.eye(3) + (1 - self.saturation) * luminance) @ turn


@dataclass(frozen=True, kw_only=True)
class _Moving(Edit):
    """What brings matter from somewhere else."""

    ranges: ClassVar[Ranges] = {"translation": ANY, "rotation": ANY, "scale": above(0), "pivot": ANY}

    translation: Vector = (0.0, 0.0, 0.0)
    """By how much it is shifted, after it is turned and scaled."""
    rotation: Vector = (0.0, 0.0, 0.0)
    """Roll, pitch and yaw by which it is turned, in radians."""
    scale: float = 1.0
    """Factor of its size; it stays as opaque as it is."""
    pivot: Vector | None = None
    """What it is turned and scaled about; left out: the middle of the region, of another run its origin."""

    @property
    def _middle(self) -> Float[Tensor, "3"]:
        raise NotImplementedError

    @cached_property
    def motion(self) -> Motion:
        """Where it goes."""
        pivot = self._middle if self.pivot is None else torch.tensor(self.pivot)
        return Motion(rotation_of(self.rotation), self.scale, pivot, torch.tensor(self.translation))

    def met(self, region: Region | None, places: Places) -> tuple[Places, Tensor, Tensor]:
        """Where what comes to some of the places comes from, which places these are, and how much of it comes."""
        origins = self.motion.back(places.positions)
        share = torch.ones_like(origins[:, :1]) if region is None else region.share(origins)
        index = share[:, 0].nonzero()[:, 0]
        # What is larger stays as opaque as it is: density is per length.
        return places[index].moved_back(self.motion), index, share[index] / self.scale


@dataclass(frozen=True, kw_only=True)
class _OfRegion(_Moving):
    region: Region
    """What is taken."""

    @property
    def _middle(self) -> Float[Tensor, "3"]:
        return self.region.middle

    def box(self, box: Float[Tensor, "2 3"]) -> Float[Tensor, "2 3"]:
        part = self.region.within(box)
        return around(box, self.motion.bounds(part)) if (part[0] < part[1]).all() else box

    @property
    def places(self) -> list[Float[Tensor, "2 3"]]:
        return [self.motion.bounds(box) for box in self.region.parts]

    def changes(self, positions: Float[Tensor, "places 3"]) -> Bool[Tensor, "places"]:
        return self.region.share(self.motion.back(positions))[:, 0] > 0

    def answer(self, below: Ask, places: Places) -> Matter:
        sources, index, share = self.met(self.region, places)
        if len(places) + len(sources) > LARGEST:
            raise InputError("--edits bring copies of copies of nearly everything: too many to be asked for.")
        left = self._left(places)
        held = left[:, 0].nonzero()[:, 0]
        is_sparse = 0 < len(held) + len(sources) and len(held) < WORTH_LEAVING_OUT * len(places)
        asked = places[held] if is_sparse else places
        # Asked in one go: one after another, many moves would ask for few places very often.
        matter, brought = below(asked.and_also(sources)).parted(len(asked))
        matter = matter.times(left[held]).at(held, len(places)) if is_sparse else matter.times(left)
        return matter.mixed_with(brought.times(share), index)

    def _left(self, places: Places) -> Float[Tensor, "places 1"]:
        """How much is left where it is taken from."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Copy(_OfRegion):
    """Brings what is in a region to another place, too."""

    kind = "copy"

    def _left(self, places: Places) -> Float[Tensor, "places 1"]:
        return torch.ones_like(places.positions[:, :1])


@dataclass(frozen=True, kw_only=True)
class Move(_OfRegion):
    """Brings what is in a region to another place."""

    kind = "move"

    def _left(self, places: Places) -> Float[Tensor, "places 1"]:
        return 1 - self.region.share(places.positions)

    def changes(self, positions: Float[Tensor, "places 3"]) -> Bool[Tensor, "places"]:
        return super().changes(positions) | (self.region.share(positions)[:, 0] > 0)

    @property
    def places(self) -> list[Float[Tensor, "2 3"]]:
        return super().places + self.region.parts


@dataclass(frozen=True, kw_only=True)
class Insert(_Moving):
    """Brings another run into the scene."""

    kind = "insert"

    run: Path
    """The run: its config.yml, its folder or one of its checkpoints; a relative path starts at the file's folder."""
    region: Region | None = None
    """What of it is taken, in its own coordinates; left out: all."""

    @property
    def _middle(self) -> Float[Tensor, "3"]:
        return torch.zeros(3)

    def into(self, other: Ask) -> "Inserted":
        """The edit, once the run can be asked."""
        return Inserted(self, other)

    def box(self, box: Float[Tensor, "2 3"]) -> Float[Tensor, "2 3"]:
        return box if self.region is None else around(box, self.motion.bounds(self.region.bounds))

    @property
    def places(self) -> list[Float[Tensor, "2 3"]]:
        return [EVERYWHERE if self.region is None else self.motion.bounds(self.region.bounds)]

    def changes(self, positions: Float[Tensor, "places 3"]) -> Bool[Tensor, "places"]:
        if self.region is None:
            return torch.ones_like(positions[:, 0], dtype=torch.bool)
        return self.region.share(self.motion.back(positions))[:, 0] > 0


@dataclass(frozen=True)
class Inserted(Edit):
    """An insert whose run can be asked."""

    edit: Insert
    other: Ask

    def answer(self, below: Ask, places: Places) -> Matter:
        matter = below(places)
        sources, index, share = self.edit.met(self.edit.region, places)
        return matter.mixed_with(self.other(sources).times(share), index) if len(index) else matter


def around(*boxes: Float[Tensor, "2 3"]) -> Float[Tensor, "2 3"]:
    """A box around boxes."""
    low, high = torch.stack([box.cpu() for box in boxes], dim=1)
    return torch.stack([low.amin(dim=0), high.amax(dim=0)])


EDITS: dict[str, Any] = {edit.kind: edit for edit in (Keep, Erase, Move, Copy, Recolor, Thin, Thicken, Insert)}
"""Every kind of edit by the word for it in a file."""


def box_of(edits: Iterable[Edit], box: Float[Tensor, "2 3"]) -> Float[Tensor, "2 3"]:
    """A box around an edited volume; an `insert` must have a region.

    Args:
        edits: in their order.
        box: around the volume before.
    """
    box = box.cpu()
    for edit in edits:
        box = edit.box(box)
    return box


def any_changes(edits: Iterable[Edit], positions: Float[Tensor, "places 3"]) -> Bool[Tensor, "places"]:
    """Where an edited volume may be another than it was."""
    changed = torch.zeros_like(positions[:, 0], dtype=torch.bool)
    for edit in edits:
        changed |= edit.changes(positions)
    return changed
