"""Where a teacher's scene lies: the scene box among its weights, or else what its data set says."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor

from pvd_nerfstudio.data.poses import find
from pvd_nerfstudio.data.reviewed import reading, review
from pvd_nerfstudio.edits.file import Edits
from pvd_nerfstudio.edits.kinds import Insert
from pvd_nerfstudio.edits.regions import Box, Complement, Union
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.text import plain
from pvd_nerfstudio.teacher.adapters import space_of
from pvd_nerfstudio.teacher.building import method_of
from pvd_nerfstudio.teacher.checkpoint import TeacherRun, find_run, load_weight


def saved_scene_box(run: TeacherRun) -> SceneBox | None:
    """The scene box among a run's weights; None for families that keep none there.

    Raises:
        InputError: it is none.
    """
    aabb = load_weight(run, "field.aabb")
    return None if aabb is None else _box_of(aabb, run)


def completed(edits: Edits) -> Edits:
    """The edits, of which each `insert` says how far it reaches.

    Raises:
        InputError: nobody knows.
    """
    return tuple(_with_region(edit) if isinstance(edit, Insert) else edit for edit in edits)


def _with_region(edit: Insert) -> Insert:
    try:
        run = find_run(edit.run)
    except (InputError, OSError) as error:
        raise InputError(f"--edits, the run to insert: {plain(error)}") from error
    if edit.region is not None and edit.region.bounds.isfinite().all():
        return edit
    box = None if space_of(run.config.pipeline.model).contracted else saved_scene_box(run)
    if box is None:
        raise InputError(
            f"--edits: {run.config_path} does not say how far its scene reaches. Insert a part of it: give the entry a "
            '"region", a box or a sphere.'
        )
    low, high = box.aabb
    whole = Box(tuple(((low + high) / 2).tolist()), tuple((high - low).tolist()))
    if edit.region is not None:
        whole = Complement(Union((Complement(edit.region), Complement(whole))))  # what lies in both
    return replace(edit, region=whole)


def _box_of(aabb: Tensor, run: TeacherRun) -> SceneBox:
    if (
        aabb.shape != (2, 3)
        or not aabb.is_floating_point()
        or not aabb.isfinite().all()
        or not (aabb[0] < aabb[1]).all()
    ):
        raise InputError(f"{run.checkpoint_path}: the scene box of the teacher, field.aabb, is none.")
    return SceneBox(aabb=aabb.float())


def scene_box_of(run: TeacherRun, state: dict[str, Tensor], data: Path | None) -> SceneBox:
    """The box in the weights or, for families that keep none there, the data set's.

    Raises:
        InputError: there is neither.
    """
    if "field.aabb" in state:
        return _box_of(state["field.aabb"], run)
    outputs, problem = _data_set(run, data)
    if outputs is None:
        raise InputError(
            f"A checkpoint of {method_of(run)} does not hold its scene box, so its data set is needed; {problem}. "
            "Name its place with --data."
        )
    return _box_of(outputs.scene_box.aabb, run)


def _data_set(run: TeacherRun, data: Path | None) -> tuple[DataparserOutputs | None, str]:
    """The teacher's data set, at its place or where it is now; or else what is wrong."""
    manager: Any = run.config.pipeline.datamanager
    problem = "its config.yml names no data set"
    for place in (manager.data or manager.dataparser.data, data):
        if place is None:
            continue
        dataparser = copy.deepcopy(manager.dataparser)
        dataparser.data = Path(place)
        review(dataparser)
        with reading(dataparser, named_by_user=False):
            found = find(dataparser, size=1)
            if found.dataparser is not None:
                return found.again.setup().get_dataparser_outputs(split="train"), ""
        problem = f"{place} cannot be read: {found.problem}"
    return None, problem


class Metadata(Mapping[str, Any]):
    """What a dataparser says beside its views; the data set is read when a model asks for it."""

    def __init__(self, run: TeacherRun, data: Path | None) -> None:
        self._run, self._data, self._read = run, data, None

    def _there(self) -> dict[str, Any]:
        if self._read is None:
            outputs, problem = _data_set(self._run, self._data)
            if outputs is None:
                raise InputError(
                    f"The model of {method_of(self._run)} is built with what its dataparser says beside the views, so "
                    f"its data set is needed; {problem}. Name its place with --data."
                )
            self._read = outputs.metadata
        return self._read

    def __getitem__(self, name: str) -> Any:
        return self._there()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._there())

    def __len__(self) -> int:
        return len(self._there())
