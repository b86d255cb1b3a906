"""`pvd-report`: what it says is so, the page stands alone, and what is there is not overwritten."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from browser import browser
from conftest import Run
from PIL import Image

from pvd_nerfstudio.commands import views
from pvd_nerfstudio.commands.report import film
from pvd_nerfstudio.commands.report.command import Report, find_conversion, load_student
from pvd_nerfstudio.commands.report.curves import read_curves, stage_starts
from pvd_nerfstudio.commands.report.figures import ComparedView, cameras_figure, comparison_figure
from pvd_nerfstudio.commands.views import Views
from pvd_nerfstudio.distillation.stages import DistillationConfig
from pvd_nerfstudio.errors import InputError


@pytest.fixture(scope="module")
def made(student: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("report") / "new" / "report.html"
    Report(student.config, output=output, views=0).run()
    return output


def test_figures_are_those_of_the_images(made: Path) -> None:
    report = json.loads(made.with_suffix(".json").read_text())
    teacher, student = report["models"]
    assert teacher["name"] == "teacher: nerfacto" and student["name"] == "student: mlp"
    assert student["parameters"] < teacher["parameters"] and student["megabytes"] < teacher["megabytes"]
    assert min(model["rays_per_second"] for model in report["models"]) > 0
    assert len(report["views"]) == 2
    for pair, model, key in (("student", student, "images"), ("between", student, "teacher")):
        for metric in ("psnr", "ssim"):
            mean = sum(view[pair][metric] for view in report["views"]) / 2
            assert model[key][metric] == pytest.approx(mean)
    losses = report["curves"]["loss"]
    (step, seconds, value), (last_step, last_seconds, _) = losses[0], losses[-1]
    assert len(losses) > 3 and last_step > step and last_seconds > seconds >= 0 and value > 0
    text = made.read_text()
    assert f"{student['images']['psnr']:.2f}" in text and "ns-eval --load-config" in text


def test_page_opens_from_disk_without_error_or_request(made: Path) -> None:
    with browser() as driver:
        driver.get(made.as_uri())
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
        sent = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
        queried = [one["params"]["request"]["url"] for one in sent if one["method"] == "Network.requestWillBeSent"]
        assert queried and all(url.startswith((made.as_uri(), "data:")) for url in queried)
        sizes = driver.execute_script("return [...document.images].map(one => one.naturalWidth)")
        assert len(sizes) == 2 and min(sizes) > 300


def test_nothing_is_overwritten_unless_asked_for(made: Path, student: Run, capsys) -> None:
    before = made.read_bytes()
    with pytest.raises(InputError, match="--overwrite"):
        Report(student.config, output=made).run()
    assert made.read_bytes() == before
    Report(student.config, output=made, views=1, overwrite=True).run()
    assert len(json.loads(made.with_suffix(".json").read_text())["views"]) == 1


@pytest.mark.parametrize("command", [Report, Views])
def test_a_run_that_is_no_conversion(command, teacher: Run, tmp_path: Path, capsys) -> None:
    with pytest.raises(InputError, match="not of pvd-distill"):
        command(teacher.config, output=tmp_path / "r.html").run()
    assert not any(tmp_path.iterdir())


def test_the_cameras_are_drawn(student: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    drawn: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(
        views, "cameras_figure", lambda groups, aabb: drawn.update(groups) or cameras_figure(groups, aabb)
    )
    command = Views(student.config, output=tmp_path / "new" / "views.png", pseudo=30, hard=4)
    command.run()
    assert Image.open(command.output).width > 800
    assert {name: len(poses) for name, poses in drawn.items()} == {
        "training": 12,
        "pseudo, around the scene": 30,
        "the student's worst": 4,
    }
    with pytest.raises(InputError, match="--overwrite"):
        command.run()


def test_a_teacher_of_another_scene(student: Run, teacher: Run, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "other"
    shutil.copytree(teacher.folder, folder)
    path = folder / "dataparser_transforms.json"
    frame = json.loads(path.read_text())
    path.write_text(json.dumps(frame | {"scale": 0.5}))
    with pytest.raises(InputError, match="does not lie in the teacher's frame"):
        Report(student.config, teacher=folder, output=tmp_path / "r.html").run()
    assert not (tmp_path / "r.html").exists()


def test_without_images_it_speaks_of_the_teacher_alone(
    student: Run, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pvd_nerfstudio.data.dataset import DistillationDataset

    monkeypatch.setattr(DistillationDataset, "has_image", [False, False])
    output = tmp_path / "r.html"
    Report(student.config, output=output, views=2).run()
    report = json.loads(output.with_suffix(".json").read_text())
    assert report["models"][1]["images"] == {} and report["models"][1]["teacher"]["psnr"] > 5
    assert "against the teacher" in output.read_text()


def test_without_the_teacher_it_speaks_of_the_images(moved: Run, tmp_path: Path) -> None:  # noqa: F811
    text = moved.config.read_text()
    moved.config.write_text(text.replace("nerfacto", "nowhere"))
    output = tmp_path / "r.html"
    Report(moved.config, output=output, views=2).run()
    report = json.loads(output.with_suffix(".json").read_text())
    assert len(report["models"]) == 1 and report["models"][0]["images"]["psnr"] > 5


def test_stages_begin_where_the_method_says() -> None:
    starts = stage_starts(DistillationConfig().resolved(), 1000)
    assert starts == {"points": 0.0, "pixels": 400.0}


def test_error_is_against_the_teacher_where_there_is_one() -> None:
    black, white, grey = torch.zeros(4, 4, 3), torch.ones(4, 4, 3), torch.full((4, 4, 3), 0.25)
    assert ComparedView(grey, white, black).error.unique().tolist() == [0.75]
    assert ComparedView(grey, None, black).error.unique().tolist() == [0.25]
    assert len(comparison_figure([ComparedView(grey, white, black)], ["a"]).axes) == 5


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"no log" * 1000])
def test_a_damaged_log_costs_the_curves_alone(content: bytes, tmp_path: Path, capsys) -> None:
    (tmp_path / "events.out.tfevents.1").write_bytes(content)
    assert read_curves(tmp_path) == {}


def test_a_pipe_in_place_of_a_log_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "events.out.tfevents.1")
    with pytest.raises(InputError, match="which is no file"):
        read_curves(tmp_path)


def test_a_film_wipes_between_teacher_and_student(student: Run, tmp_path: Path) -> None:
    import av

    output = tmp_path / "report.html"
    Report(student.config, output=output, views=1, video=True, frames=3).run()
    with av.open(str(tmp_path / "report.mp4")) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(pictures) == 3 and pictures[0].shape == (40, 40, 3)
    assert "data:video/mp4" in output.read_text()
    with pytest.raises(InputError, match="report.mp4 exists already"):
        output.unlink()
        output.with_suffix(".json").unlink()
        Report(student.config, output=output, video=True).run()


def test_the_wiper_stands_where_it_should() -> None:
    picture = film.wiped(torch.zeros(4, 200, 3), torch.full((4, 200, 3), 0.5), 0.25)
    assert (picture[:, :48] == 0).all() and (picture[:, 52:] == 0.5).all() and (picture[:, 49:51] == 1).all()


def test_the_films_cameras_look_at_the_scene_and_come_back(student: Run) -> None:
    cameras = load_student(find_conversion(student.config)[0]).datamanager.train_dataset.cameras
    chosen = film.path(cameras, 8)
    middle = film.looked_at(cameras.camera_to_worlds[:, :, 3], -cameras.camera_to_worlds[:, :, 2])
    away = chosen.camera_to_worlds[:, :, 3] - middle
    assert torch.allclose(away.norm(dim=-1), away[0].norm()) and not torch.allclose(away[0], away[2], atol=0.1)
    assert torch.allclose(away[0], away[4], atol=1e-4)
    forwards = -chosen.camera_to_worlds[:, :, 2]
    cosine = torch.nn.functional.cosine_similarity(forwards, -away)
    assert cosine.min() > 0.9 and torch.allclose(cosine, cosine[0], atol=1e-4)
