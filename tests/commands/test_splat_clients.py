"""Our .ply in the hands of others: PlayCanvas' converter and a viewer of three.js, both from npm."""

import csv
import functools
import io
import json
import math
import shutil
import subprocess
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import browser
from PIL import Image
from torch import Tensor

from pvd_nerfstudio.commands.export.gaussians import write_ply
from pvd_nerfstudio.data.views import look_at
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.rendering.splatting import View, project, rasterize, view_at
from pvd_nerfstudio.student.fields.gaussians import GaussianField, SplatFieldConfig
from pvd_nerfstudio.teacher.splat_file import read_gaussians

PACKAGES = ("@playcanvas/splat-transform@2", "@mkkellogg/gaussian-splats-3d@0.4", "three@0.180")
SIZE, ANGLE = 256, 40.0
"""Pixels and angle of view of an image."""


@pytest.fixture(scope="module")
def npm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with these packages."""
    if shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("npm")
    words = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder), *PACKAGES]
    try:
        subprocess.run(words, check=True, capture_output=True, timeout=120, cwd=folder)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip("npm's registry cannot be reached")
    return folder


@pytest.fixture(scope="module")
def field() -> GaussianField:
    """A ball of flat Gaussians of many colours, which change with the direction."""
    generator = torch.Generator().manual_seed(0)
    places = torch.nn.functional.normalize(torch.randn(3000, 3, generator=generator), dim=-1)
    field = GaussianField(SplatFieldConfig(sh_degree=2, size=0.7), torch.tensor([[-1.0] * 3, [1.0] * 3]), False)
    field.sow(places, 0.5 + 0.4 * torch.sin(4 * places), places)
    field.features_rest.data.normal_(std=0.1, generator=generator)
    field.scales.data += 0.3 * torch.randn(3000, 3, generator=generator)
    return field


def shown(field: GaussianField, view: View) -> Tensor:
    with torch.no_grad():
        gaussians = field.seen_from(view.position)
        return rasterize(project(gaussians, view), gaussians.opacities, gaussians.colors, view)[0]


def convert(npm: Path, *paths: Path) -> None:
    command = [str(npm / "node_modules" / ".bin" / "splat-transform"), "-w", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_converter_of_others_reads_the_same_numbers_and_writes_what_we_read(
    npm: Path, field: GaussianField, tmp_path: Path
) -> None:
    path = tmp_path / "splat.ply"
    write_ply(field, path)
    ours = read_gaussians(path)
    for kind in ("csv", "compressed.ply", "spz"):
        convert(npm, path, tmp_path / f"out.{kind}")
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name, values in (("x", ours["means"][:, 0]), ("f_rest_9", ours["features_rest"][:, 1, 1])):
        theirs = torch.tensor([float(row[name]) for row in rows])
        torch.testing.assert_close(theirs.sort().values, values.sort().values, atol=1e-5, rtol=1e-5)
    convert(npm, path, tmp_path / "again.ply")
    again = read_gaussians(tmp_path / "again.ply")
    assert len(again["means"]) == len(ours["means"])
    pose = look_at(torch.tensor([[2.0, 2.0, 1.0]]), torch.zeros(3))[0]
    view = view_at(pose, [300.0, 300.0, 128.0, 128.0], SIZE, SIZE)
    before = shown(field, view)
    with pytest.raises(InputError, match="compressed"):
        read_gaussians(tmp_path / "out.compressed.ply")
    for kind, least in (("ply", 60), ("compressed.ply", 30), ("spz", 30)):
        back = tmp_path / f"back-{kind}.ply"
        convert(npm, tmp_path / ("again.ply" if kind == "ply" else f"out.{kind}"), back)
        copy = GaussianField(field.config, field.aabb, False)
        for name, value in read_gaussians(back).items():
            setattr(copy, name, torch.nn.Parameter(value))
        error = (shown(copy, view) - before).square().mean()
        assert -10 * math.log10(max(float(error), 1e-12)) > least, kind


def test_a_viewer_of_others_shows_what_we_show(npm: Path, field: GaussianField, tmp_path: Path) -> None:
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "node_modules").symlink_to(npm / "node_modules")
    write_ply(field, folder / "splat.ply")
    shutil.copy(Path(__file__).with_name("splat_viewer.html"), folder / "index.html")
    pose = look_at(torch.tensor([[2.0, 2.0, 1.0]]), torch.zeros(3))[0]
    (folder / "camera.json").write_text(json.dumps({"pose": pose.flatten().tolist(), "angle": ANGLE, "size": SIZE}))
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with browser() as driver:
            driver.set_window_size(SIZE + 100, SIZE + 300)
            driver.get(f"http://127.0.0.1:{server.server_port}/index.html")
            end = time.monotonic() + 120
            while not driver.execute_script("return document.body.dataset.drawn") and time.monotonic() < end:
                time.sleep(0.2)
            canvas = driver.find_element("tag name", "canvas")
            shot = Image.open(io.BytesIO(canvas.screenshot_as_png)).convert("RGB")
            errors = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    finally:
        server.shutdown()
    theirs = torch.from_numpy(np.asarray(shot).copy()).float() / 255
    focal = SIZE / 2 / math.tan(math.radians(ANGLE) / 2)
    ours = shown(field, view_at(pose, [focal, focal, SIZE / 2, SIZE / 2], SIZE, SIZE)).clamp(0, 1)
    assert theirs.shape == ours.shape, errors
    assert ours.std() > 0.1
    assert -10 * (ours - theirs).square().mean().log10() > 28, errors
