"""`pvd export`: each file is read by a program that is not ours."""

import importlib.util
import io
import json
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from browser import browser
from conftest import Run
from helpers import OLD_RUNS, open_old_run
from nerfstudio.cameras.cameras import Cameras
from PIL import Image
from safetensors import safe_open

from pvd_nerfstudio.commands.export import command
from pvd_nerfstudio.commands.export.command import Export
from pvd_nerfstudio.commands.export.html import page
from pvd_nerfstudio.commands.export.mesh import mesh_of
from pvd_nerfstudio.commands.export.tensors import write_tensors
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.pipeline.opening import opening_view
from pvd_nerfstudio.student.fields.growth import pack

LOADER = Path(__file__).parents[2] / "docs" / "load_student.py"


def loader() -> ModuleType:
    spec = importlib.util.spec_from_file_location("load_student", LOADER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("contracted", [False, True])
@pytest.mark.parametrize("name", ["mlp", "vm"])
def test_the_loader_of_the_docs_answers_as_the_student(
    scene: Path, tmp_path: Path, name: str, contracted: bool
) -> None:
    assert sum(bool(line.strip()) for line in LOADER.read_text().splitlines()) <= 50
    student = open_old_run(name, scene)[1].student
    student.field.contracted, student.field.scale = contracted, 0.7
    write_tensors(student, tmp_path / "student.safetensors")
    positions, directions = torch.randn(300, 3), torch.nn.functional.normalize(torch.randn(300, 3), dim=-1)
    with torch.no_grad():
        log_density, rgb = student.answer(positions, directions)
        density, shown = loader().Student(tmp_path / "student.safetensors")(positions, directions)
    torch.testing.assert_close(density, student.field.to_density(log_density), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shown, rgb, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", sorted(path.name for path in OLD_RUNS.iterdir()))
def test_every_student_becomes_safetensors(scene: Path, tmp_path: Path, name: str) -> None:
    student = open_old_run(name, scene)[1].student
    pack(student.field)  # as that of a finished run is
    write_tensors(student, tmp_path / "student.safetensors")
    with safe_open(tmp_path / "student.safetensors", "pt") as file:
        about = json.loads(file.metadata()["student"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert about["architecture"] == name and about["sizes"][name]
    for key, value in student.field.named_parameters():
        assert torch.equal(tensors[f"field.{key}"], value.detach())
    assert len(tensors["grid.cells"]) == (student.grid.resolution**3 + 7) // 8


def ball(student: Any, middle: torch.Tensor, radius: float) -> None:
    """Make a student's density that of a ball with soft edges."""

    def encode(unit: torch.Tensor) -> torch.Tensor:
        off = radius - (student.field.to_world(unit) - middle).norm(dim=-1, keepdim=True)
        return torch.cat([20 * off + np.log(10.0), torch.zeros(len(unit), student.feature_dim)], dim=-1)

    student.field.encode = encode
    student.grid.occupy(torch.ones_like(student.grid.occupied))


def test_a_ball_becomes_a_closed_mesh_with_the_colours_of_who_answers(scene: Path) -> None:
    student, middle = open_old_run("vm", scene)[1].student, torch.tensor([0.2, -0.1, 0.3])
    ball(student, middle, 0.5)
    asked = []

    def colors(positions: torch.Tensor, directions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append((positions, directions))
        return positions[:, :1], (directions + 1) / 2

    mesh = mesh_of(student, colors, 60, 10.0)
    assert mesh.is_watertight and mesh.volume == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=0.02)  # outwards
    off = np.linalg.norm(mesh.vertices - middle.numpy(), axis=-1)
    np.testing.assert_allclose(off, 0.5, atol=0.01)
    directions = torch.cat([direction for _, direction in asked])
    inwards = torch.nn.functional.normalize(middle - torch.cat([position for position, _ in asked]), dim=-1)
    assert torch.nn.functional.cosine_similarity(directions, inwards).min() > 0.98
    np.testing.assert_allclose(mesh.visual.vertex_colors[:, :3] / 255, (directions.numpy() + 1) / 2, atol=0.003)
    with pytest.raises(InputError, match="the largest is.*Lower --level"):
        mesh_of(student, colors, 30, 1e9)


def test_what_reaches_out_of_the_box_is_closed_there(scene: Path) -> None:
    student = open_old_run("vm", scene)[1].student
    ball(student, student.grid.aabb[1], 0.5)
    mesh = mesh_of(student, student.answer, 150, 10.0)
    assert mesh.is_watertight and mesh.volume == pytest.approx(4 / 3 * np.pi * 0.5**3 / 8, rel=0.2)


def test_export_writes_what_was_asked_for(
    student: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"output_dir": tmp_path / "out", "resolution": 24, "level": 0.5}
    Export(student.folder, mesh=True, safetensors=True, **options).run()
    assert "the teacher's colours" in capsys.readouterr().out
    mesh = trimesh.load(tmp_path / "out" / "mesh.ply")
    assert len(mesh.faces) > 10 and mesh.visual.vertex_colors.std(axis=0)[:3].max() > 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["mesh.ply", "student.safetensors"]
    with pytest.raises(InputError, match="mesh.ply exists already.*--overwrite"):
        Export(student.folder, mesh=True, **options).run()
    with pytest.raises(InputError, match="add --mesh, --safetensors, --html or --ply"):
        Export(student.folder).run()
    with pytest.raises(InputError, match="this one is 'mlp'.*--to sparse"):
        Export(student.folder, html=True, **options).run()

    def full_disk(student: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "write_tensors", full_disk)
    before = (tmp_path / "out" / "student.safetensors").read_bytes()
    with pytest.raises(InputError, match="cannot be written: No space left"):
        Export(student.folder, safetensors=True, overwrite=True, **options).run()
    assert (tmp_path / "out" / "student.safetensors").read_bytes() == before
    assert not any(path.name.startswith(".") for path in (tmp_path / "out").iterdir())


@pytest.mark.parametrize("contracted", [False, True])
def test_a_browser_shows_what_we_render(scene: Path, tmp_path: Path, contracted: bool) -> None:
    """From a file, so without a server, and without the network."""
    _, pipeline, _ = open_old_run("sparse", scene)
    model, generator = pipeline.student, torch.Generator().manual_seed(0)
    with torch.no_grad():  # of 40 steps: a table that varies, and also with the direction
        table = model.field.voxels.table
        table[1:, 0] += 0.4
        table[1:, 1:] += 0.5 * torch.randn(table[1:, 1:].shape, generator=generator)
    if contracted:
        for part in (model.field, model.grid):
            part.contracted, part.scale = True, 0.8
        model.grid.occupy(torch.ones_like(model.grid.occupied))
        model.config.contracted, model.config.scale, model.config.disparity_from = True, 0.8, 3.0
        model.spacing, model.far = model.config.spacing(model.grid.aabb), 60.0
    place = tmp_path / "scene.html"
    place.write_text(page(pipeline, "<b>hostile & title"), "utf8")
    with browser() as driver:
        driver.set_window_size(300, 420)
        driver.get(place.as_uri())
        end = time.monotonic() + 90
        while not driver.execute_script("return document.body.dataset.drawn") and time.monotonic() < end:
            time.sleep(0.2)
        driver.execute_script("document.getElementById('said').remove()")
        shot = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
        errors = [entry["message"] for entry in driver.get_log("browser")]
        fetched = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    addresses = [one["params"]["request"]["url"] for one in fetched if one["method"] == "Network.requestWillBeSent"]
    assert not errors and all(address.startswith(("file:", "blob:", "data:")) for address in addresses)
    theirs = torch.from_numpy(np.asarray(shot).copy()).float() / 255
    cameras = pipeline.datamanager.train_dataset.cameras
    view, _ = opening_view(cameras)
    height, width = theirs.shape[:2]
    focal = float(cameras.fy[view] / cameras.cy[view]) * height / 2
    pose = cameras.camera_to_worlds[view : view + 1]
    camera = Cameras(pose, fx=focal, fy=focal, cx=width / 2, cy=height / 2, width=width, height=height)
    with torch.no_grad():
        ours = model.get_outputs_for_camera(camera)["rgb"]
    assert ours.std() > 0.05
    assert -10 * (ours - theirs).square().mean().log10() > 35
