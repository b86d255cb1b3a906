"""Splats as teachers: files of many tools, damaged ones, and splatfacto's runs where there is no CUDA."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run, distil_config
from helpers import refused, start
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.eval_utils import eval_setup
from plyfile import PlyData, PlyElement
from teachers import splatfacto

from pvd_nerfstudio.commands.demo import train
from pvd_nerfstudio.commands.export.command import Export
from pvd_nerfstudio.commands.sharing import Shared, SharingPipeline
from pvd_nerfstudio.data.views import sphere
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.rendering.harmonics import SH_OF_ONE
from pvd_nerfstudio.student.metrics import image_metrics
from pvd_nerfstudio.teacher.checkpoint import find_run, load_state
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.teacher.pixels import look
from pvd_nerfstudio.teacher.splat_file import read_gaussians

COUNT = 200


def columns(rest: int = 24, normals: bool = True) -> dict[str, np.ndarray]:
    """A ball of Gaussians, as the original code would write it."""
    random = np.random.default_rng(0)
    ball = random.normal(size=(COUNT, 3))
    ball *= 0.6 / np.linalg.norm(ball, axis=1, keepdims=True)
    values = dict(zip("xyz", (ball + [3.0, 0.0, 1.0]).T))
    values |= {name: np.zeros(COUNT) for name in ("nx", "ny", "nz")} if normals else {}
    values |= {f"f_dc_{number}": 1.5 * np.sin(5 * ball[:, number]) for number in range(3)}
    values |= {f"f_rest_{number}": 0.05 * random.normal(size=COUNT) for number in range(rest)}
    values |= {"opacity": np.full(COUNT, 3.0)}
    values |= {f"scale_{number}": np.full(COUNT, np.log(0.08)) for number in range(3)}
    values |= {f"rot_{number}": random.normal(size=COUNT) for number in range(4)}
    return values


def write(path: Path, values: dict[str, np.ndarray], order: str = "<", kind: str = "f4", text: bool = False) -> Path:
    table = np.empty(COUNT, dtype=[(name, kind) for name in values])
    for name, value in values.items():
        table[name] = value
    PlyData([PlyElement.describe(table, "vertex")], byte_order=order, text=text).write(str(path))
    return path


@pytest.mark.parametrize("rest", [0, 9, 24, 45])
def test_a_file_of_any_degree_is_read(tmp_path: Path, rest: int) -> None:
    values = columns(rest, normals=rest != 9)
    read = read_gaussians(write(tmp_path / "a.ply", values))
    torch.testing.assert_close(read["means"][:, 1], torch.from_numpy(values["y"]).float())
    assert read["features_rest"].shape == (COUNT, rest // 3, 3)
    if rest == 24:  # channel by channel: eight of red, eight of green, eight of blue
        torch.testing.assert_close(read["features_rest"][:, 2, 1], torch.from_numpy(values["f_rest_10"]).float())


def test_other_layouts_of_the_same(tmp_path: Path) -> None:
    values = columns()
    plain = read_gaussians(write(tmp_path / "plain.ply", values))
    turned = dict(reversed(values.items())) | {"red": np.zeros(COUNT)}
    others = [
        write(tmp_path / "big.ply", values, order=">"),
        write(tmp_path / "double.ply", values, kind="f8"),
        write(tmp_path / "turned.ply", turned),
    ]
    windows = tmp_path / "windows.ply"
    head, body = (tmp_path / "plain.ply").read_bytes().split(b"end_header\n")
    windows.write_bytes(head.replace(b"\n", b"\r\n") + b"end_header\r\n" + body)
    for path in (*others, windows):
        for name, value in read_gaussians(path).items():
            torch.testing.assert_close(value, plain[name])
    values["opacity"][:5], values["scale_2"][:5] = np.inf, -np.inf  # as tools write what is opaque, or flat
    bounded = read_gaussians(write(tmp_path / "flat.ply", values))
    assert bounded["opacities"].isfinite().all() and bounded["scales"].isfinite().all()


def damaged(change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = write(folder / "x.ply", columns())
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def without(*names: str) -> Callable[[Path], Path]:
    return lambda folder: write(folder / "x.ply", {k: v for k, v in columns().items() if k not in names})


def with_value(name: str, value: float) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        values = columns()
        values[name] = values[name].copy()
        values[name][7] = value
        return write(folder / "x.ply", values)

    return make


def mesh(folder: Path) -> Path:
    vertices = np.zeros(3, dtype=[("x", "f4"), ("y", "f4"), ("z", "f4")])
    faces = np.array([([0, 1, 2],)], dtype=[("vertex_indices", "i4", (3,))])
    elements = [PlyElement.describe(vertices, "vertex"), PlyElement.describe(faces, "face")]
    PlyData(elements).write(str(folder / "x.ply"))
    return folder / "x.ply"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (damaged(lambda data: data[:-1]), "cut short"),
        (damaged(lambda data: data[:100]), "head is missing or damaged"),
        (damaged(lambda data: b""), "head is missing or damaged"),
        (damaged(lambda data: b"PK" + data), "head is missing or damaged"),
        (damaged(lambda data: data.replace(b"vertex 200", b"vertex 1000000000000")), "claims 1,000,000,000,000"),
        (damaged(lambda data: data.replace(b"vertex 200", b"vertex -200")), "no element 'vertex'"),
        (damaged(lambda data: data.replace(b"vertex 200", b"vertex 0")), "holds no Gaussian"),
        (damaged(lambda data: data.replace(b"element vertex", b"element chunk 1\nelement vertex")), "compressed"),
        (damaged(lambda data: data.replace(b"float y", b"list uchar int y")), "a property that Gaussians have not"),
        (damaged(lambda data: data.replace(b"float ny", b"float nx")), "twice"),
        (damaged(lambda data: data.replace(b"binary_little", b"binary_middle")), "head is missing or damaged"),
        (without("opacity"), "no opacity"),
        (without("rot_2", "scale_1"), "no scale_1, rot_2"),
        (without("f_rest_3"), "23 properties f_rest_"),
        (with_value("x", np.nan), "the means of 1 of its Gaussians are NaN"),
        (with_value("f_rest_4", np.inf), "the features_rest of 1 "),
        (with_value("opacity", np.nan), "the opacities of 1 "),
        (mesh, "a mesh, or points"),
        (lambda folder: write(folder / "x.ply", columns(), text=True), "in text form"),
    ],
)
def test_files_that_are_no_splat_say_why(tmp_path: Path, make: Callable[[Path], Path], said: str) -> None:
    with pytest.raises(InputError) as refused:
        find_run(make(tmp_path))
    assert said in str(refused.value) and "x.ply" in str(refused.value)


@pytest.mark.parametrize("name", ["mlp", "splat"])
def test_a_file_is_converted_without_a_data_set(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "ball.ply", columns())
    options = ("--teacher-checkpoint", str(path), "--student", name, "--max-num-iterations", "200")
    options += ("--pipeline.datamanager.orbit.size", "40", "--pipeline.model.render-step-size", "0.05")
    options += ("--pipeline.distillation.rays-per-step", "256", "--pipeline.distillation.rays-per-chunk", "1024")
    options += ("--pipeline.distillation.first-chunks", "8", "--pipeline.model.splat.num-gaussians", "1000")
    folder, _ = train(distil_config(tmp_path / "out", *options), lambda share: None)
    assert folder.parents[1].name == "scene"
    path.rename(tmp_path / "gone.ply")  # the student opens without it
    _, pipeline, _, _ = eval_setup(folder / "config.yml")
    cameras: Cameras = pipeline.datamanager.eval_dataset.cameras
    middle = torch.tensor([3.0, 0.0, 1.0])
    assert len(cameras) == 10 and (cameras.camera_to_worlds[:, :, 3] - middle).norm(dim=-1).std() < 0.1
    teacher = FrozenTeacher(find_run(tmp_path / "gone.ply"), "cpu")
    camera = cameras[3:4]
    assert image_metrics(pipeline.model.get_outputs_for_camera(camera)["rgb"], teacher.render(camera))["psnr"] > 18


def camera_path(path: Path, count: int = 20) -> Path:
    """One that nerfstudio's viewer might have saved: around the ball, twice as wide as high."""
    poses = sphere(count, 4.0, torch.tensor([3.0, 0.0, 1.0]))
    last = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    matrices = [torch.cat([pose, last]).flatten().tolist() for pose in poses]
    cameras = [{"camera_to_world": matrix, "fov": 30, "aspect": 2} for matrix in matrices]
    shown = {"camera_type": "perspective", "render_height": 540, "render_width": 1080, "camera_path": cameras}
    path.write_text(json.dumps(shown))
    return path


@pytest.mark.parametrize("name", ["mlp", "splat"])
def test_views_of_a_file_may_be_those_of_a_camera_path(tmp_path: Path, name: str) -> None:
    path, cameras = write(tmp_path / "ball.ply", columns()), camera_path(tmp_path / "path.json")
    options = ("--teacher-checkpoint", str(path), "--student", name, "--max-num-iterations", "3")
    options += ("--pipeline.datamanager.orbit.camera-path", str(cameras), "--pipeline.datamanager.orbit.size", "30")
    folder, _ = train(distil_config(tmp_path / "out", *options), lambda share: None)
    _, pipeline, _, _ = eval_setup(folder / "config.yml")
    views = pipeline.datamanager.train_cameras
    assert str(cameras) in pipeline.config.datamanager.orbit.words
    assert len(views) == 20 and (int(views.height[0]), int(views.width[0])) == (30, 60)
    assert len(pipeline.datamanager.eval_dataset.cameras) == 2
    torch.testing.assert_close(views.camera_to_worlds, sphere(20, 4.0, torch.tensor([3.0, 0.0, 1.0])))
    cameras.unlink()  # the student opens without it, and teaches
    eval_setup(folder / "config.yml")
    again = distil_config(tmp_path / "again", "--teacher-checkpoint", str(folder), "--student", "mlp")
    assert again.pipeline.datamanager.orbit.camera_path is None


@pytest.mark.parametrize("content", [None, "{", "[]", '{"render_height": 5, "render_width": 5, "camera_path": []}'])
def test_what_is_no_camera_path_is_refused(tmp_path: Path, capsys: Any, content: str | None) -> None:
    path, cameras = write(tmp_path / "ball.ply", columns()), tmp_path / "path.json"
    if content is not None:
        cameras.write_text(content)
    options = ("--teacher-checkpoint", str(path), "--pipeline.datamanager.orbit.camera-path", str(cameras))
    assert "no camera path" in refused(tmp_path / "out", capsys, *options)


def test_points_are_real_also_of_students_that_share_a_bank(tmp_path: Path) -> None:
    """The first one learns from points for a shorter time."""
    options = ("--teacher-checkpoint", str(write(tmp_path / "ball.ply", columns())), "--student", "mlp")
    shared = Shared()
    for steps in (20, 120):
        name = f"of-{steps}"
        config: Any = distil_config(tmp_path / "out", *options, "--max-num-iterations", str(steps), name=name)
        config.pipeline._target = partial(SharingPipeline, shared)
        bank = start(config).pipeline.bank_at(steps * 2 // 5 - 1)
    assert bank.wanted(47).stop > bank.wanted(7).stop
    points = bank.draw_points(2000, torch.Generator().manual_seed(0))
    assert (points.positions.norm(dim=-1) > 0).all()  # the ball is not at the origin


def test_points_are_asked_for_as_long_as_they_are_learned_from(tmp_path: Path) -> None:
    path = write(tmp_path / "ball.ply", columns())
    options = ("--teacher-checkpoint", str(path), "--student", "mlp", "--max-num-iterations", "100")
    pipeline = start(distil_config(tmp_path / "out", *options)).pipeline
    learned = pipeline.config.distillation.chunks_with_points(100)
    assert pipeline.bank_at(0).wanted(39).stop == learned < pipeline.bank_at(0).wanted(99).stop
    source, generator = pipeline._source(), torch.Generator()
    for number in (learned - 1, learned):
        chunk = source(number, number, generator.manual_seed(0))
        assert (chunk.points is not None) == (number < learned) and chunk.rays is not None


def test_a_contracted_student_does_not_ask_at_points(families: Mapping[str, Path], tmp_path: Path) -> None:
    """Nor does one that is told so."""
    options = ("--teacher-checkpoint", str(families["splatfacto"]), "--student", "mlp", "--max-num-iterations", "2")
    for number, more in enumerate((("--pipeline.model.contracted", "True"), ("--pipeline.splat-density", "False"))):
        trainer = start(distil_config(tmp_path / str(number), *options, *more))
        trainer.pipeline.hand_over()
        assert trainer.pipeline.stage(0).name == "pixels" and not trainer.pipeline._teacher.has_density


def test_a_data_set_of_a_file_needs_its_dataparser(scene: Path, tmp_path: Path, capsys: Any) -> None:
    path = str(write(tmp_path / "ball.ply", columns()))
    said = refused(tmp_path / "out", capsys, "--teacher-checkpoint", path, "--data", str(scene))
    assert "Name the dataparser" in said and "blender-data --data" in said
    config = distil_config(
        tmp_path, "--teacher-checkpoint", path, "--max-num-iterations", "2", "blender-data", "--data", str(scene)
    )
    data = config.pipeline.datamanager
    assert type(data.dataparser).__name__ == "BlenderDataParserConfig" and data.dataparser.data == scene
    above = distil_config(tmp_path, "--teacher-checkpoint", path, "--pipeline.datamanager.orbit.whole", "False")
    assert above.pipeline.datamanager.dataparser.whole is False


def test_distances_through_a_fisheye_are_those_of_its_rays(tmp_path: Path) -> None:
    """A ball's surface is as far as the ray says, also far from the optical axis."""
    values = columns()
    for name, middle in (("x", 3.0), ("y", 0.0), ("z", 1.0)):
        values[name] = middle + (values[name] - middle) * 10
    for number in range(3):
        values[f"scale_{number}"] = np.full(COUNT, np.log(1.2))
    teacher = FrozenTeacher(find_run(write(tmp_path / "room.ply", values)), "cpu")
    pose = torch.eye(4)[None, :3].clone()
    pose[0, :, 3] = torch.tensor([3.0, 0.0, 1.0])
    camera = Cameras(pose, 20.0, 20.0, 20.0, 20.0, 40, 40, distortion_params=torch.zeros(1, 6), camera_type=2)
    seen = look(teacher, camera, contracted=True)
    distance = seen.distance[seen.is_solid]
    assert len(distance) > 800 and ((distance - 6).abs() < 1.5).float().mean() > 0.98


def test_what_we_export_is_a_teacher_that_shows_the_same(teacher: Run, tmp_path: Path) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--student", "splat", "--max-num-iterations", "10")
    folder, _ = train(distil_config(tmp_path / "out", *options), lambda share: None)
    Export(folder, ply=True, output_dir=tmp_path).run()
    _, pipeline, _, _ = eval_setup(folder / "config.yml")
    camera = pipeline.datamanager.eval_dataset.cameras[:1]
    before = pipeline.model.get_outputs_for_camera(camera)
    after = FrozenTeacher(find_run(tmp_path / "splat.ply"), "cpu").outputs_for(camera)
    torch.testing.assert_close(after["accumulation"], before["accumulation"], atol=2e-3, rtol=0)
    behind = float(pipeline.model.renderer_rgb.background_color == "white")
    over_black = before["rgb"] - (1 - before["accumulation"]) * behind
    torch.testing.assert_close(after["rgb"], over_black, atol=2e-3, rtol=0)


def test_splatfactos_runs_are_read_where_there_is_no_cuda(families: Mapping[str, Path], tmp_path: Path) -> None:
    run = find_run(families["splatfacto"])
    teacher, state = FrozenTeacher(run, "cpu"), load_state(run)
    assert teacher.num_parameters == 300 * (11 + 27) and teacher.has_density
    camera = Cameras(sphere(3, 3.0, torch.zeros(3))[1:2], 60.0, 60.0, 20.0, 20.0, 40, 40)
    shown = teacher.outputs_for(camera)
    assert shown["accumulation"].amax() > 0.9 and shown["rgb"].std() > 0.1
    assert (shown["rgb"][0, 0] == 1).all()  # its background is white
    config = distil_config(tmp_path, "--teacher-checkpoint", str(families["splatfacto"]), "--student", "vm")
    trainer = start(config)
    assert trainer.pipeline.datamanager.has_images and len(state["field.means"]) == 300


def test_splatfacto_without_harmonics_has_its_colours_before_a_sigmoid(scene: Path, tmp_path: Path) -> None:
    run = find_run(splatfacto(scene, tmp_path, degree=0))
    saved = torch.load(run.checkpoint_path, weights_only=False)["pipeline"]["_model.gauss_params.features_dc"]
    colors = 0.5 + SH_OF_ONE * load_state(run)["field.features_dc"]
    torch.testing.assert_close(colors, saved.sigmoid())
