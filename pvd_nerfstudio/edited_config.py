"""What follows from `--edits` for a conversion's options, before anything is built."""

from dataclasses import replace

import torch
from torch import Tensor

from pvd_nerfstudio.data.orbit import Box, OrbitDataParserConfig
from pvd_nerfstudio.data.poses import find
from pvd_nerfstudio.data.reviewed import reading
from pvd_nerfstudio.edits.file import MOST, Edits, as_text, parse_saved, read_edits
from pvd_nerfstudio.edits.kinds import box_of
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.text import say
from pvd_nerfstudio.pipeline import DistillationPipelineConfig
from pvd_nerfstudio.teacher.adapters import FAR, NEAR, adapter_of
from pvd_nerfstudio.teacher.checkpoint import TeacherRun
from pvd_nerfstudio.teacher.scene_box import completed, saved_scene_box

BRINGING = {"move", "copy", "insert"}
"""Edits that may bring matter out of the scene box."""
HARDLY_LONGER, MOST_LONGER = 1.01, 2.0
"""From when on a longer scene box has more cells, and how many times as many along a side at most."""


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
    """Let cells and samples be as small in a scene box that edits enlarge as they would be in the one before.

    Raises:
        InputError: the teacher's own conversion says of a box that it is none.
    """
    before = getattr(run.config.pipeline, "sized_for", None)
    if before is None and not _brings(edits):
        return
    box = _box_of(run, pipeline)
    unedited = box if before is None else torch.tensor(before).view(2, 3)
    if not (_sides(unedited) > 0).all():
        raise InputError(f"{run.config_path}: sized_for is no box, {unedited.tolist()}.")
    longer = (_sides(box_of(edits, box)) / _sides(unedited)).amax().item()
    if longer < HARDLY_LONGER:
        return
    pipeline.sized_for = _numbers(unedited)
    if not pipeline.keep_detail:
        return
    pipeline.model.enlarge(unedited, longer, MOST_LONGER)
    text = f"The scene box is up to {longer:.3g} times as long with what edits bring: cells and samples stay as small"
    if longer > MOST_LONGER:
        text = (
            f"The scene box is up to {longer:.3g} times as long with what edits bring, but there are {MOST_LONGER:g} "
            "times as many cells along its sides at most: detail is lost. Bring it less far, or a smaller part"
        )
    say(f"{text} (--pipeline.keep-detail).")


def _box_of(run: TeacherRun, pipeline: DistillationPipelineConfig) -> Tensor:
    """The scene box that the student would have without these edits: the teacher's, which is the data set's."""
    saved, data = saved_scene_box(run), pipeline.datamanager
    if saved is not None and adapter_of(run.config.pipeline.model).has_datas_box(run.config.pipeline.model):
        return saved.aabb
    orbit = torch.tensor(data.orbit.box).view(2, 3)
    if isinstance(data.dataparser, OrbitDataParserConfig):
        return orbit
    with reading(data.dataparser, data.named_by_user):
        found = find(data.dataparser, data.orbit.size, hand_on=True)
        if found.dataparser is None:  # orbits stand in
            return orbit
        return found.again.setup().get_dataparser_outputs(split="train").scene_box.aabb


def _brings(edits: Edits) -> bool:
    return not BRINGING.isdisjoint(edit.kind for edit in edits)


def _sides(box: Tensor) -> Tensor:
    return box[1] - box[0]


def _numbers(box: Tensor) -> Box:
    return tuple(box.flatten().tolist())
