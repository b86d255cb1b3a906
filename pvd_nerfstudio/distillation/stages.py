"""Which losses count when: the progressive schedule, a pure function of the step.

PVD aligns volumes from shallow to deep (PVD, section 3.3): first the features alone, then density and colour at
points, then pixels. `pvd` is that schedule with the paper's numbers; `bank` is ours, which measured better.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from pvd_nerfstudio.distillation.bank import chunks_until
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.help import tell_defaults
from pvd_nerfstudio.input.ranges import at_least, between
from pvd_nerfstudio.input.renamed import Renamed


@dataclass(frozen=True)
class LossWeights:
    """What each term of the loss is multiplied with; a term with weight 0 is not computed."""

    feature: float = 0.0
    log_density: float = 0.0
    opacity: float = 0.0
    color: float = 0.0
    pixel: float = 0.0


@dataclass(frozen=True)
class Stage:
    """One stage of the schedule, with its losses."""

    name: Literal["features", "points", "pixels"]
    weights: LossWeights

    @property
    def uses_points(self) -> bool:
        """Whether the step draws points."""
        weights = self.weights
        return max(weights.feature, weights.log_density, weights.opacity, weights.color) > 0

    @property
    def uses_rays(self) -> bool:
        """Whether the step draws rays."""
        return self.weights.pixel > 0


@dataclass
class DistillationConfig(Renamed):
    """The method's numbers; -1: the preset's."""

    old_names = {
        "parts": "chunks",
        "first_parts": "first_chunks",
        "rays_per_part": "rays_per_chunk",
        "points_per_part": "points_per_chunk",
        "photographs": "training_images",
    }
    ranges = {
        "feature_end": between(0, 1, also=-1),
        "point_end": between(0, 1, also=-1),
        "feature_weight": at_least(0, also=-1),
        "log_density_weight": at_least(0, also=-1),
        "opacity_weight": at_least(0, also=-1),
        "color_weight": at_least(0, also=-1),
        "pixel_weight": at_least(0, also=-1),
        "point_loss_in_pixels": at_least(0, also=-1),
        "points_per_step": at_least(1, also=-1),
        "rays_per_step": at_least(1, also=-1),
        "whole_rays": between(0, 1, also=-1),
        "rays_per_chunk": at_least(1, also=-1),
        "points_per_chunk": at_least(1, also=-1),
        "chunks": at_least(1, also=-1),
        "start_chunks": at_least(1, also=-1),
        "fill_every": at_least(1, also=-1),
        "first_chunks": at_least(1, also=-1),
        "refresh_every": at_least(1, also=-1),
        "empty_share": between(0, 1, also=-1),
    }

    preset: Literal["bank", "pvd"] = "bank"
    """bank: learn from a bank of the teacher's answers. pvd: the paper's losses and schedule, new answers each step."""
    feature_end: float = -1
    """End of the first stage (features alone), as a share of the run."""
    point_end: float = -1
    """End of the second stage (density and colour at points), as a share of the run; pixels take the rest."""
    feature_weight: float = -1
    """Weight of the feature loss."""
    log_density_weight: float = -1
    """Weight of the density loss in log space."""
    opacity_weight: float = -1
    """Weight of the density loss in the space of one step's opacity."""
    color_weight: float = -1
    """Weight of the colour loss at points."""
    pixel_weight: float = -1
    """Weight of the loss on pixels."""
    point_loss_in_pixels: float = -1
    """What the losses at points are multiplied with in the last stage; 0 drops them there."""
    norm: Literal["preset", "mean", "frobenius"] = "preset"
    """How a difference becomes a loss: mean of squares, or the root of their sum (the papers')."""
    points_per_step: int = -1
    """Points that a step draws from the bank, in each process; left out, --pipeline.fit-step may change it."""
    rays_per_step: int = -1
    """Rays that a step draws from the bank, in each process; left out, --pipeline.fit-step may change it."""
    whole_rays: float = -1
    """Share of those rays that are sampled over their whole length, not only where the teacher shows something."""
    rays_per_chunk: int = -1
    """Rays of one chunk: the teacher is queried for all of them at once."""
    points_per_chunk: int = -1
    """Points kept of those rays' samples."""
    chunks: int = -1
    """Chunks that the bank holds."""
    start_chunks: int = -1
    """Chunks that the teacher fills before the first step; left out, --pipeline.fit-step may change it."""
    fill_every: int = -1
    """Steps between two new chunks at the start, until there are first_chunks; left out, as above."""
    first_chunks: int = -1
    """Chunks that come fast, for few of them are soon learned by heart; left out, as above."""
    refresh_every: int = -1
    """Steps between two new chunks from then on; left out, as above."""
    empty_share: float = -1
    """Share of the kept points that is drawn uniformly, not by compositing weight: empty and hidden space."""
    training_images: bool = False
    """Whether rays of the training cameras learn the pixels of the training images, and only pseudo views the
    teacher's."""
    insists_on_features: tyro.conf.Suppress[bool] = False
    """Whether the feature loss was asked for by name, not by a preset."""

    @property
    def chosen(self) -> dict[str, Any]:
        """What is not left to the preset."""
        return {name: value for name, value in vars(self).items() if value not in (-1, "preset")}

    @property
    def is_resolved(self) -> bool:
        """Whether nothing is left to the preset."""
        return len(self.chosen) == len(vars(self))

    def resolved(self, preferred: Mapping[str, Any] | None = None) -> "DistillationConfig":
        """The same with the preset's value wherever none was given.

        Args:
            preferred: what the student has in place of values of the preset `bank`.

        Raises:
            InputError: some stage has nothing to learn from.
        """
        chosen = self.chosen
        left_out = vars(self).keys() - chosen.keys()
        if left_out == {"start_chunks", "fill_every"}:  # a run of the last release, which filled its bank at once
            chosen |= {"start_chunks": self.first_chunks, "fill_every": 1}
        elif left_out:  # otherwise it is resolved already, and knows
            chosen["insists_on_features"] = max(self.feature_weight, self.feature_end) > 0
        values = dict(PRESETS[self.preset])
        if self.preset == "bank":
            values |= preferred or {}
        config = DistillationConfig(**(values | chosen))
        config.check()
        return config

    def check(self) -> None:
        """Refuse stages in another order than theirs, and one that has nothing to learn from.

        Raises:
            InputError: says which.
        """
        if self.feature_end > self.point_end:
            raise InputError(
                f"--pipeline.distillation.feature-end is {self.feature_end:g}, which is behind "
                f"--pipeline.distillation.point-end, {self.point_end:g}: the stages are features, points, pixels."
            )
        for stage in {self.stage(start) for start in (0.0, self.feature_end, self.point_end) if start < 1}:
            if not (stage.uses_points or stage.uses_rays):
                raise InputError(
                    f"The stage '{stage.name}' has no loss: set one of its weights (--pipeline.distillation.*-weight) "
                    "above 0, or move the end of the stage before it (--pipeline.distillation.*-end)."
                )

    def stage(self, progress: float) -> Stage:
        """The stage at a moment of the run. Needs a resolved configuration.

        Args:
            progress: share of the run that is over, in [0, 1).
        """
        if progress < self.feature_end:
            return Stage("features", LossWeights(feature=self.feature_weight))
        if progress < self.point_end:
            return Stage("points", self._point_weights(1.0))
        return Stage("pixels", self._point_weights(self.point_loss_in_pixels, pixel=self.pixel_weight))

    def chunks_with_points(self, steps: int) -> float:
        """How many chunks, from the first on, come while a run of so many steps learns from points."""
        if self.point_loss_in_pixels > 0:
            return math.inf
        last = math.ceil(self.point_end * steps) - 1
        schedule = self.start_chunks, self.fill_every, self.first_chunks, self.refresh_every
        return chunks_until(last, *schedule) if last >= 0 else 0

    def _point_weights(self, scale: float, pixel: float = 0.0) -> LossWeights:
        return LossWeights(
            feature=scale * self.feature_weight,
            log_density=scale * self.log_density_weight,
            opacity=scale * self.opacity_weight,
            color=scale * self.color_weight,
            pixel=pixel,
        )


PRESETS: dict[str, dict[str, Any]] = {
    "bank": {
        "feature_end": 0.0,
        "point_end": 0.4,
        "feature_weight": 0.0,
        "log_density_weight": 0.01,
        "opacity_weight": 1.0,
        "color_weight": 1.0,
        "pixel_weight": 1.0,
        "point_loss_in_pixels": 0.0,
        "norm": "mean",
        "points_per_step": 8192,
        "rays_per_step": 1024,
        "whole_rays": 0.1,
        "rays_per_chunk": 4096,
        "points_per_chunk": 32768,
        "chunks": 128,
        "start_chunks": 2,
        "fill_every": 4,
        "first_chunks": 16,
        "refresh_every": 12,
        "empty_share": 0.2,
    },
    # PVD's supplement: stage ends 2,000, 5,000 and 30,000; 4,096 rays a step; loss weights 2e-3 and 1.
    "pvd": {
        "feature_end": 2 / 30,
        "point_end": 5 / 30,
        "feature_weight": 2e-3,
        "log_density_weight": 2e-3,
        "opacity_weight": 0.0,
        "color_weight": 2e-3,
        "pixel_weight": 1.0,
        "point_loss_in_pixels": 1.0,
        "norm": "frobenius",
        "points_per_step": 32768,
        "rays_per_step": 4096,
        "whole_rays": 1.0,
        "rays_per_chunk": 4096,
        "points_per_chunk": 32768,
        "chunks": 1,
        "start_chunks": 1,
        "fill_every": 1,
        "first_chunks": 1,
        "refresh_every": 1,
        "empty_share": 1.0,
    },
}
BY_STUDENT = (
    *("points_per_step", "rays_per_step"),
    *("chunks", "start_chunks", "fill_every", "first_chunks", "refresh_every"),
)
"""Numbers for which some students prefer others than the preset's."""


def _told(name: str) -> str:
    values = (preset[name] for preset in PRESETS.values())
    ours, theirs = (f"{value:.3g}" if isinstance(value, float) else value for value in values)
    return f"{ours}{' or what suits the student' if name in BY_STUDENT else ''}; pvd: {theirs}"


tell_defaults(DistillationConfig, {name: _told(name) for name in PRESETS["bank"]})
