"""What follows from `--edits` for a conversion's options, before anything is built."""

from dataclasses import replace
from pathlib import Path

import torch
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor

from pvd_nerfstudio.data.orbit import Box, OrbitDataParserConfig
from pvd_nerfstudio.edits.file import MOST, Edits, as_text, parse_saved, read_edits
from pvd_nerfstudio.edits.kinds import box_of
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.text import say
from pvd_nerfstudio.pipeline import DistillationPipelineConfig
from pvd_nerfstudio.teacher.adapters import FAR, NEAR
from pvd_nerfstudio.teacher.checkpoint import TeacherRun
from pvd_nerfstudio.teacher.scene_box import completed, saved_scene_box, scene_box_of

BRINGING = {"move", "copy", "insert"}
"""Edits that may bring matter out of the scene box."""
MOST_LARGER = 2.0
"""By which the cells along a side become more at most; in scene boxes that are enlarged further they become larger."""


def take_over_edits(pipeline: DistillationPipelineConfig, run: TeacherRun) -> None:
    """What is done to the teacher's volume, and what had been done to its own teachers'.

    Args:
        pipeline: what is to be converted, all but this taken over already.
        run: the teacher's.

    Raises:
        InputError: the edits cannot be read, or there are too many.
    """
    data, model, taught = pipeline.datamanager, pipeline.model, run.config.pipeline.datamanager
    box = saved_scene_box(run)
    edits = () if pipeline.edits is None else completed(read_edits(pipeline.edits))
    texts = [getattr(taught, name, "") for name in ("earlier_edits", "edits")]
    earlier = [edit for text in texts for edit in parse_saved(text)]
    if len(earlier) + len(edits) > MOST:
        raise InputError(f"--edits: with those of earlier conversions there would be more than {MOST}.")
    data.earlier_edits, data.edits = (as_text(some) if some else "" for some in (earlier, edits))
    data.bounded = not model.contracted
    if earlier and box is not None:
        data.frame_box = _numbers(box.aabb)
    if data.bounded:
        _keep_detail(pipeline, run, edits)
    if not edits:
        return
    say(f"The teacher's volume is edited first, as {pipeline.edits} says: {', '.join(e.kind for e in edits)}.")
    if data.bounded and _brings(edits):
        model.near_plane, model.far_plane = min(model.near_plane or NEAR, NEAR), max(model.far_plane or FAR, FAR)
    if not data.orbit.is_on_path:  # pseudo views look at what there is now
        data.orbit = replace(data.orbit, region=None, radius=OrbitDataParserConfig().radius)
        if isinstance(data.dataparser, OrbitDataParserConfig):
            data.dataparser = data.orbit


def _keep_detail(pipeline: DistillationPipelineConfig, run: TeacherRun, edits: Edits) -> None:
    """Let cells and samples be as small in a scene box that edits enlarge as they would be in the one before."""
    before = getattr(run.config.pipeline, "sized_for", None)
    if not pipeline.keep_detail or not (before or _brings(edits)):
        return
    box = _box_of(run, pipeline)
    if box is None:
        return
    unedited = box.aabb if before is None else torch.tensor(before).view(2, 3)
    larger = (_sides(box_of(edits, box.aabb)) / _sides(unedited)).amax().item()
    if larger <= 1:
        return
    pipeline.sized_for = _numbers(unedited)
    pipeline.model.enlarge(unedited, min(larger, MOST_LARGER))
    say(
        f"The scene box is up to {larger:.3g} times as long with what is brought in: there are as many more cells "
        "(--pipeline.keep-detail)."
        if larger <= MOST_LARGER
        else f"The scene box is up to {larger:.3g} times as long with what is brought in, and there are "
        f"{MOST_LARGER:g} times as many cells along its sides: detail is lost. Bring it less far, or a smaller part."
    )


def _box_of(run: TeacherRun, pipeline: DistillationPipelineConfig) -> SceneBox | None:
    """The scene box among the teacher's weights, or else its data set's; None where nobody knows."""
    place = pipeline.datamanager.dataparser.data
    saved = saved_scene_box(run)
    try:
        return saved or scene_box_of(run, {}, Path(place))
    except InputError:
        return None


def _brings(edits: Edits) -> bool:
    return not BRINGING.isdisjoint(edit.kind for edit in edits)


def _sides(box: Tensor) -> Tensor:
    return box[1] - box[0]


def _numbers(box: Tensor) -> Box:
    return tuple(box.flatten().tolist())
