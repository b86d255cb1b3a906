"""`pvd-edit`: what the panel shows is what the file says, and what is seen is what a conversion would learn."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from browser import browser
from conftest import Run
from nerfstudio.data.scene_box import OrientedBox

from pvd_nerfstudio.commands.edit.command import Edit, remove_unless_used
from pvd_nerfstudio.commands.edit.form import entry_of, form_of
from pvd_nerfstudio.commands.edit.handles import angles_to, normal_of
from pvd_nerfstudio.commands.edit.panel import TITLE
from pvd_nerfstudio.commands.edit.scene import box_of_crop
from pvd_nerfstudio.edits.file import as_text, parse, read_edits
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.rendering.space import Spacing
from pvd_nerfstudio.student.metrics import image_metrics
from pvd_nerfstudio.teacher.occupancy import fill_grid

BALL = {"kind": "sphere", "center": [0.1, 0, 0.2], "radius": 0.4, "edge": 0.1}
BOX = {"kind": "box", "center": [0, 0, 0.3], "scale": [0.5, 0.4, 0.3], "rotation": [0, 0.2, 0.1]}
ENTRIES = [
    {"kind": "keep", "region": {"kind": "complement", "of": BALL}},
    {"kind": "move", "region": BOX, "translation": [1, 0, 0], "rotation": [0, 0, 1], "scale": 2, "pivot": [0, 0, 1]},
    {"kind": "copy", "region": {"kind": "halfspace", "point": [0, 1, 0], "normal": [0, 1, 0]}},
    {"kind": "recolor", "region": {"kind": "union", "of": [BALL, BOX]}, "color": [1, 0, 0], "strength": 0.5},
    {"kind": "recolor", "region": BALL, "hue": 20, "brightness": 0.5},
    {"kind": "thin", "region": BALL, "factor": 0.25},
    {"kind": "insert", "run": "/a/run", "scale": 0.5},
    {"kind": "insert", "run": "/a/run", "region": {"kind": "complement", "of": {"kind": "union", "of": [BALL]}}},
]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["kind"])
def test_a_form_says_what_the_file_says(entry: dict[str, Any]) -> None:
    assert entry_of(form_of(entry), entry) == entry


def test_a_plane_is_turned_by_its_handle() -> None:
    for normal in ([0, 0, 1], [0, 0, -1], [1, 0, 0], [0.6, 0, 0.8], [0.48, -0.64, 0.6]):
        assert normal_of(angles_to(normal)) == pytest.approx(normal, abs=1e-3)


def test_the_viewers_crop_is_a_box() -> None:
    numbers = (0.1, 0.2, 0.3), (0.3, -0.2, 0.7), (0.5, 0.6, 0.7)
    crop = OrientedBox.from_params(*numbers)
    positions = torch.rand(2000, 3) * 2 - 1
    inside = box_of_crop(crop).share(positions)[:, 0] > 0
    assert torch.equal(inside, crop.within(positions.double()))


@pytest.fixture(scope="module")
def opened(teacher: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    command = Edit(teacher_checkpoint=teacher.folder, edits=tmp_path_factory.mktemp("edit") / "edits.json")
    command.viewer.websocket_host, command.viewer.websocket_port = "127.0.0.1", None
    viewer = command.open()
    yield viewer
    viewer.viser_server.stop()


@pytest.fixture()
def panel(opened: Any) -> Any:
    """The panel, with nothing edited."""
    panel = getattr(opened.pipeline, TITLE)
    panel._take([], 0)
    return panel


def set_field(panel: Any, name: str, value: Any) -> None:
    """As a user's browser does it; viser has callbacks run in other threads, which are waited for."""
    field = panel._fields[name]
    field.gui_handle.value = value
    field.cb_hook(field)
    time.sleep(0.05)


def test_what_is_changed_is_seen_and_saved_and_undone(opened: Any, panel: Any) -> None:
    scene, camera = opened.pipeline.model, opened.pipeline.datamanager.train_dataset.cameras[:1]
    plain = scene.get_outputs_for_camera(camera)["accumulation"]
    assert plain.max() > 0.5
    panel._add()
    set_field(panel, "size", (9.0, 9.0, 9.0))
    assert scene.get_outputs_for_camera(camera)["accumulation"].max() == 0, "all is erased"
    panel._save()
    path = Path(panel._path.value)
    assert read_edits(path) == parse(as_text(read_edits(path)), "again") and len(read_edits(path)) == 1
    panel._undo()
    panel._undo()
    assert panel.entries == [] and torch.equal(scene.get_outputs_for_camera(camera)["accumulation"], plain)
    panel._save()
    assert read_edits(path) == ()


def test_the_viewers_folder_goes_unless_a_camera_path_is_in_it(tmp_path: Path) -> None:
    for name, stays in (("viewer.log", False), ("camera_paths/mine.json", True)):
        file = tmp_path / str(stays) / name
        file.parent.mkdir(parents=True)
        file.write_text("{}")
        remove_unless_used(tmp_path / str(stays))
        assert file.exists() == stays == (tmp_path / str(stays)).exists()


def test_a_file_that_was_there_is_kept_however_often_one_saves(panel: Any, tmp_path: Path) -> None:
    path = tmp_path / "edits.json"
    mine = [as_text(parse(json.dumps({"version": 1, "edits": [ENTRIES[number]]}), "mine")) for number in (0, 4)]
    panel._path.value = str(path)
    for number, text in enumerate(mine):
        path.write_text(text)
        panel._written.clear()  # as another program's
        for _ in range(2):
            panel._add()
            panel._save()
        assert (tmp_path / f"edits.json.before{number or ''}").read_text() == text
    assert len(list(tmp_path.iterdir())) == 3


def test_cells_of_what_is_moved_need_no_query(opened: Any, panel: Any) -> None:
    """The image through the cells that edits make of the plain ones is that through cells filled anew."""
    scene, camera = opened.pipeline.model, opened.pipeline.datamanager.train_dataset.cameras[1:2]
    panel._add()
    set_field(panel, "kind", "move")
    set_field(panel, "size", (0.8, 0.8, 0.8))
    set_field(panel, "translation", (0.4, 0.3, 0.2))
    set_field(panel, "turn", (0.1, 0.2, 0.6))
    samples = scene._samples
    samples.spacing = Spacing(0.02)
    shown = scene.get_outputs_for_camera(camera)["rgb"]
    assert samples.grid.share < 0.5
    fill_grid(samples.grid, scene.teacher, samples.spacing, 0.02)
    assert image_metrics(shown, scene.get_outputs_for_camera(camera)["rgb"])["psnr"] > 35


def test_a_handle_moves_the_region_and_the_other_where_it_goes(panel: Any) -> None:
    panel._add()
    set_field(panel, "kind", "copy")
    panel._handle_moved("region", [0.5, 0.0, 0.1], [0.0, 0.0, 0.3])
    panel._handle_moved("target", [0.5, 1.0, 0.1], [0.0, 0.0, 0.2])
    (entry,) = panel.entries
    assert entry["region"]["center"] == [0.5, 0.0, 0.1] and entry["region"]["rotation"] == [0.0, 0.0, 0.3]
    assert entry["translation"] == [0.0, 1.0, 0.0] and entry["rotation"] == [0.0, 0.0, 0.2]


def test_what_makes_no_sense_is_said_and_not_taken(panel: Any) -> None:
    panel._add()
    before = panel.entries
    set_field(panel, "size", (0.0, 1.0, 1.0))
    assert panel.entries == before and "must be above 0" in panel._said.value
    set_field(panel, "size", (1.0, 1.0, 1.0))
    before = panel.entries
    set_field(panel, "kind", "insert")
    assert panel.entries == before and "must be the path of a run" in panel._said.value
    assert panel._fields["run"].gui_handle.visible, "what is missing can be typed"
    set_field(panel, "kind", "thicken")
    assert panel.entries[0]["factor"] == 2.0


def test_what_the_panel_writes_is_no_change_of_the_users(panel: Any) -> None:
    """A factor and a colour stay as they are typed, and one change is undone by one "Undo"."""
    panel._add()
    set_field(panel, "kind", "thin")
    set_field(panel, "factor", 0.3)
    panel._take([*panel.entries, {"kind": "recolor", "region": BALL, "color": [0.9, 0.2, 0.1]}], 1)
    time.sleep(0.3)
    assert [entry.get("factor") for entry in panel.entries] == [0.3, None]
    assert panel.entries[1]["color"] == [0.9, 0.2, 0.1]
    panel._undo()
    time.sleep(0.3)
    assert len(panel.entries) == 1 and panel.entries[0]["factor"] == 0.3


def test_only_files_of_edits_are_replaced(panel: Any, tmp_path: Path) -> None:
    for name, content, said in (("notes.txt", "mine", "ends in .json"), ("mine.json", "{}", "is missing")):
        (tmp_path / name).write_text(content)
        panel._path.value = str(tmp_path / name)
        panel._save()
        assert said in panel._said.value and (tmp_path / name).read_text() == content
    panel._path.value = str(tmp_path / "new" / "edits.json")
    panel._save()
    assert read_edits(tmp_path / "new" / "edits.json") == ()


def test_the_viewers_crop_is_taken_over(opened: Any, panel: Any) -> None:
    controls = opened.control_panel
    controls._crop_center.value, controls._crop_scale.value = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    panel._take_crop()
    (entry,) = panel.entries
    assert entry["kind"] == "keep" and entry["region"]["center"] == pytest.approx([0.1, 0.2, 0.3])
    assert entry["region"]["scale"] == pytest.approx([0.5, 0.6, 0.7]) and not controls.crop_viewport


def test_a_browser_shows_handles_and_panel(opened: Any, panel: Any) -> None:
    panel._add()
    set_field(panel, "kind", "move")
    with browser() as driver:
        driver.get(f"http://127.0.0.1:{opened.viser_server.get_port()}")
        end = time.monotonic() + 60
        while not ("1. move" in driver.page_source and "Shift" in driver.page_source):
            assert time.monotonic() < end, "the panel did not appear in time"
            time.sleep(0.3)
        assert "Normal" not in driver.find_element("tag name", "body").text, "a box has none"
        assert all(control.visible for control in panel.control._controls.values())


def test_the_schema_is_written_without_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    tyro.cli(Edit, args=["--schema"]).run()
    assert json.loads(capsys.readouterr().out)["properties"]["version"] == {"const": 1}


def test_a_run_must_be_named() -> None:
    with pytest.raises(InputError, match="Which run"):
        Edit().open()
