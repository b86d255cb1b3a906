"""What a run logged while it was trained, read back from its tensorboard files."""

from pathlib import Path
from typing import NamedTuple

from pvd_nerfstudio.distillation.stages import DistillationConfig
from pvd_nerfstudio.input.containment import contained
from pvd_nerfstudio.input.text import plain, say

TAGS = {
    "Train Loss": "loss",
    "Train Metrics Dict/psnr_to_teacher": "PSNR against the teacher, rays in training",
    "Eval Images Metrics/psnr": "PSNR against the ground truth, one view",
    "Eval Images Metrics/psnr_to_teacher": "PSNR against the teacher, one view",
    # as the first releases logged them
    "Train Metrics Dict/psnr_teacher": "PSNR against the teacher, rays in training",
    "Eval Images Metrics/psnr_teacher": "PSNR against the teacher, one view",
}
"""nerfstudio's names of what is drawn, to ours."""


class Point(NamedTuple):
    """What was logged at a step, and how long after the first."""

    step: int
    seconds: float
    value: float


Curve = list[Point]


def read_curves(folder: Path) -> dict[str, Curve]:
    """What a run logged; empty where it logged nothing, or what cannot be read.

    A resumed run has several files, which follow one another; the pause between them counts as time.

    Raises:
        InputError: a log is no file, or makes its reader try more than to read.
    """
    if not any(folder.glob("events.out.tfevents.*")):
        return {}
    with contained(f"The log in {plain(folder)}"):
        try:
            return _curves(folder)
        except Exception as error:  # tensorboard's reader has errors of many kinds for a damaged file
            say(f"The logs in {folder} cannot be read ({type(error).__name__}: {error}): no curves.", "yellow")
            return {}


def _curves(folder: Path) -> dict[str, Curve]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: PLC0415

    events = EventAccumulator(str(folder), size_guidance={"scalars": 2000})
    events.Reload()
    known = events.Tags()["scalars"]
    logged = {name: events.Scalars(tag) for tag, name in TAGS.items() if tag in known}
    start = min((curve[0].wall_time for curve in logged.values()), default=0.0)
    return {
        name: [Point(one.step, one.wall_time - start, one.value) for one in curve] for name, curve in logged.items()
    }


def stage_starts(method: DistillationConfig, steps: int) -> dict[str, float]:
    """The stages of a run, and the steps at which they begin; those that are empty are left out."""
    starts = {"features": 0.0, "points": method.feature_end, "pixels": method.point_end}
    ends = (method.feature_end, method.point_end, 1.0)
    return {name: start * steps for (name, start), end in zip(starts.items(), ends) if end > max(start, 0.0)}
