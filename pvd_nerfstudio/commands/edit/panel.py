"""The panel of `pvd-edit`: a list of edits, their numbers, and what can be done with them.

Everything that is changed goes through the reader of the file: what can be done here is what can be said there, with
the same errors.
"""

import copy
import json
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from nerfstudio.viewer.viewer_elements import (
    ViewerButton,
    ViewerCheckbox,
    ViewerDropdown,
    ViewerElement,
    ViewerNumber,
    ViewerRGB,
    ViewerText,
    ViewerVec3,
)
from torch import nn
from viser.transforms import SO3

from pvd_nerfstudio.commands.edit import handles
from pvd_nerfstudio.commands.edit.form import IN_FILE, OF_REGION, START, Entry, entry_of, form_of, shown_by
from pvd_nerfstudio.commands.edit.handles import REGION, TARGET, Handles
from pvd_nerfstudio.commands.edit.scene import EditedScene, box_of_crop
from pvd_nerfstudio.edits.file import Edits, as_text, parse, read_edits
from pvd_nerfstudio.edits.kinds import EDITS
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.text import markdown
from pvd_nerfstudio.pipeline.panel import Text

TITLE = "Edits"
"""Name of the panel: the viewer shows the name of the pipeline's attribute."""
NONE = "none yet"
UNDOABLE = 200
"""Changes that can be undone."""
WORDS = {"size": "Size", "translation": "Shift", "turn": "Turn", "grow": "Grow", "edge": "Soft edge", "run": "Run"}
HINTS = {
    "rotation": "Roll, pitch and yaw in radians.",
    "turn": "Roll, pitch and yaw in radians, by which it is turned.",
    "grow": "Factor of its size.",
    "factor": "Of the density.",
    "hue": "Degrees around grey.",
    "run": "Folder or config.yml of the run to insert.",
}


class EditPanel(nn.Module):
    """What there is to change. A module, because the viewer looks for its elements in modules.

    Args:
        scene: shows the edits.
        edits: what is edited to begin with.
        path: where they are saved.
    """

    def __init__(self, scene: EditedScene, edits: Edits, path: Path) -> None:
        super().__init__()
        self._scene = (scene,)  # which is the pipeline's model already
        self._entries: list[Entry] = json.loads(as_text(edits))["edits"]
        self._before: list[list[Entry]] = []
        self._chosen = len(self._entries) - 1
        self._given: dict[str, Any] = {}
        self._written: set[Path] = set()
        self.control = Handles(self._handle_moved)
        self.control.when_ready(self._refresh)
        self._list = ViewerDropdown("Edit", NONE, [NONE], cb_hook=lambda _: self._choose())
        self._fields: dict[str, Any] = {name: self._field(name, value) for name, value in START.items()}
        actions = {"Add": self._add, "Remove": self._remove, "Undo": self._undo, "Take the crop": self._take_crop}
        self._path, self._said = ViewerText("File", str(path)), Text()
        elements: list[ViewerElement[Any]] = [self._list, *self._fields.values()]
        elements += [ViewerButton(name, lambda _, do=do: do()) for name, do in actions.items()]
        elements += [self._path, ViewerButton("Save", lambda _: self._save()), self._said]
        for number, element in enumerate(elements):  # the viewer finds public attributes, in the order of their names
            setattr(self, f"element_{number:02d}", element)
        scene.take(edits)

    @property
    def entries(self) -> list[Entry]:
        """What is edited, as the file has it."""
        return copy.deepcopy(self._entries)

    def _field(self, name: str, value: Any) -> ViewerElement[Any]:
        word, hint = WORDS.get(name, name.capitalize()), HINTS.get(name)
        if name in ("kind", "region"):
            options = list(EDITS) if name == "kind" else list(OF_REGION)
            return ViewerDropdown(word, value, options, cb_hook=self._changed)
        if name == "color":
            return ViewerRGB(word, _bytes(value), cb_hook=self._changed)
        if isinstance(value, bool):
            words = {"outside": "All outside of it", "mixes": "Mix with one color"}
            return ViewerCheckbox(words[name], value, cb_hook=self._changed)
        if isinstance(value, list):
            return ViewerVec3(word, tuple(value), 0.01, cb_hook=self._changed, hint=hint)
        if isinstance(value, str):
            return ViewerText(word, value, cb_hook=self._changed, hint=hint)
        return ViewerNumber(word, value, cb_hook=self._changed, hint=hint)

    def _changed(self, element: Any) -> None:
        """A field has another value."""
        name = next(name for name, field in self._fields.items() if field is element)
        if not self._entries or element.value == self._given.get(name):  # viser says what we write, too, and late
            return
        form = {name: _plain(name, field.value) for name, field in self._fields.items()}
        before = form_of(self._entries[self._chosen])
        if form["color"] == _plain("color", _bytes(before["color"])):  # bytes are coarser than what the file says
            form["color"] = before["color"]
        if form["kind"] != before["kind"]:
            form["factor"] = {"thin": 0.5, "thicken": 2.0}.get(form["kind"], form["factor"])
            form["hue"] = 60.0 if form["kind"] == "recolor" else form["hue"]  # what changes nothing is refused
        self._put(form)

    def _handle_moved(self, name: str, middle: list[float], angles: list[float]) -> None:
        if not self._entries:
            return
        form = form_of(self._entries[self._chosen])
        if name == TARGET:
            form["translation"] = [round(a - b, 4) for a, b in zip(middle, self._origin(form))]
            form["turn"] = angles
        else:
            form["center"] = middle
            form["rotation"] = angles if form["region"] == "box" else form["rotation"]
            form["normal"] = handles.normal_of(angles) if form["region"] == "halfspace" else form["normal"]
        self._put(form)

    def _put(self, form: dict[str, Any]) -> None:
        """Let a form be the chosen edit; one that makes no sense yet stays as it is typed."""
        entries = self.entries
        entries[self._chosen] = entry_of(form, entries[self._chosen])
        if not self._take(entries, self._chosen):
            self._show_only(shown_by(form))

    def _take(self, entries: list[Entry], chosen: int, is_undone: bool = False) -> bool:
        """Show other edits, or say why that cannot be; returns whether it can."""
        if entries == self._entries:
            return True
        try:
            edits = parse(json.dumps({"version": 1, "edits": entries}), "This")
            self._scene[0].take(edits)
        except (InputError, OSError) as error:
            self._say(str(error))
            return False
        if not is_undone:
            self._before = [*self._before, self._entries][-UNDOABLE:]
        self._entries, self._chosen = entries, chosen
        self._say("")
        self._refresh()
        return True

    def _show_only(self, names: set[str]) -> None:
        for name, field in self._fields.items():
            if field.gui_handle is not None:
                field.set_hidden(name not in names)

    def _refresh(self) -> None:
        """Have list, fields and handles show what there is."""
        names = [f"{number + 1}. {entry['kind']}" for number, entry in enumerate(self._entries)] or [NONE]
        self._chosen = min(max(self._chosen, 0), len(names) - 1)
        self._list.set_options(names)
        self._list.value = names[self._chosen]
        form = form_of(self._entries[self._chosen]) if self._entries else dict(START)
        self._given = {name: _as_shown(name, form[name]) for name in self._fields}
        for name, field in self._fields.items():
            if field.value != self._given[name]:
                field.value = self._given[name]
        self._show_only(shown_by(form) if self._entries else set())
        self._show_handles(form)

    def _show_handles(self, form: dict[str, Any]) -> None:
        outline = handles.outline_of(form)
        if not self._entries or outline is None:
            self.control.hide(REGION)
        else:
            turned = {"box": form["rotation"], "halfspace": handles.angles_to(form["normal"])}
            self.control.show(REGION, form["center"], turned.get(form["region"], [0.0, 0.0, 0.0]), outline)
        if not self._entries or form["kind"] not in ("move", "copy", "insert") or form["region"] == IN_FILE:
            self.control.hide(TARGET)
            return
        if outline is not None and form["region"] == "box":
            turn = np.eye(4)
            turn[:3, :3] = SO3.from_rpy_radians(*form["rotation"]).as_matrix()
            outline.apply_transform(turn)
        origin = self._origin(form)
        if outline is not None:
            outline.apply_translation(np.subtract(form["center"], origin))
            outline.apply_scale(form["grow"])
        middle = [a + b for a, b in zip(origin, form["translation"])]
        self.control.show(TARGET, middle, form["turn"], outline)

    def _choose(self) -> None:
        chosen = int(self._list.value.partition(".")[0]) - 1 if self._entries else self._chosen
        if chosen != self._chosen:
            self._chosen = chosen
            self._refresh()

    def _add(self) -> None:
        self._take([*self.entries, entry_of(START, {})], len(self._entries))

    def _remove(self) -> None:
        entries = self.entries
        del entries[self._chosen : self._chosen + 1]
        self._take(entries, self._chosen - 1)

    def _undo(self) -> None:
        if self._before:
            entries = self._before.pop()
            self._take(entries, min(self._chosen, len(entries) - 1), is_undone=True)

    def _take_crop(self) -> None:
        """Keep what the viewer's "Crop Viewport" shows."""
        crop = self.control.viewer.control_panel
        region = json.loads(as_text([EDITS["keep"](region=box_of_crop(crop.crop_obb))]))["edits"][0]
        crop.crop_viewport = False
        self._take([*self.entries, region], len(self._entries))

    def _save(self) -> None:
        """Write the file; what was there before this program wrote it is kept beside it, under a name of its own."""
        path = Path(self._path.value)
        try:
            path = path.expanduser()
            if path.suffix != ".json":
                raise InputError(f"{path}: the name of a file of edits ends in .json.")
            if path.exists():
                read_edits(path)  # nothing else is replaced
            text = as_text(parse(json.dumps({"version": 1, "edits": self._entries}), "This"))
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and path not in self._written and path.read_text("utf8") != text:
                names = (path.with_name(f"{path.name}.before{number or ''}") for number in count())
                path.replace(next(name for name in names if not name.exists()))
            path.write_text(text, "utf8")
            self._written.add(path)
        except (InputError, OSError, RuntimeError, ValueError) as error:
            self._say(f"Not saved: {error}")
            return
        self._say(f"Saved {path}. Convert with --edits {path}")

    def _origin(self, form: dict[str, Any]) -> list[float]:
        """What is turned about."""
        if "pivot" in self._entries[self._chosen]:
            return self._entries[self._chosen]["pivot"]
        return [0.0, 0.0, 0.0] if form["kind"] == "insert" else form["center"]

    def _say(self, text: str) -> None:
        self._said.value = markdown(text)


def _bytes(color: list[float]) -> tuple[int, int, int]:
    red, green, blue = (round(255 * value) for value in color)
    return red, green, blue


def _as_shown(name: str, value: Any) -> Any:
    """A value as its element has it."""
    if name == "color":
        return _bytes(value)
    return tuple(value) if isinstance(value, list) else value


def _plain(name: str, value: Any) -> Any:
    """A value as the file has it."""
    if name == "color":
        return [round(part / 255, 3) for part in value]
    return [float(part) for part in value] if isinstance(value, (list, tuple)) else value
