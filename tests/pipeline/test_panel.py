"""The viewer in a real browser: the panel, its outputs, its switches; and a finished run with a teacher loaded."""

import io
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import browser
from conftest import Run, distil_config
from helpers import OLD_RUNS, change_state, open_old_run, start
from nerfstudio.utils.eval_utils import eval_setup
from nerfstudio.viewer.utils import parse_object
from nerfstudio.viewer.viewer import Viewer
from nerfstudio.viewer.viewer_elements import ViewerButton, ViewerElement, ViewerText
from PIL import Image

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.pipeline.comparison import DIFFERENCE, TEACHER, difference
from pvd_nerfstudio.pipeline.panel import TITLE
from pvd_nerfstudio.student.metrics import image_metrics

HOSTILE = "{window.executed = 1} <img src=x onerror=window.executed=1> [a](javascript:1) **b**"
"""A method's name, as it may stand in a downloaded config.yml; the viewer compiles markdown as code."""


def wait_for(what: Callable[[], Any], seconds: float = 90.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)
    return found


def element(pipeline: Any, name: str) -> Any:
    found = [one for _, one in parse_object(pipeline, ViewerElement, "Custom Elements") if one.name == name]
    assert len(found) == 1, f"{len(found)} elements are called {name}"
    return found[0]


def press(pipeline: Any, name: str) -> None:
    button = element(pipeline, name)
    assert isinstance(button, ViewerButton)
    button.cb_hook(button)


def said(pipeline: Any) -> str:
    return getattr(pipeline, TITLE)._said.value


def image(driver: Any) -> np.ndarray:
    """The middle of the window."""
    window = np.asarray(Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB"), dtype=float)
    height, width = window.shape[:2]
    return window[height // 4 : 3 * height // 4, width // 8 : width // 2]


def test_viewer_while_a_student_is_trained(teacher: Run, tmp_path: Path) -> None:
    config = distil_config(
        tmp_path, "--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "40", "--vis", "viewer"
    )
    config.vis, config.viewer.websocket_host = "viewer", "127.0.0.1"
    with browser() as driver:
        driver.set_window_size(900, 650)  # each picture of a larger one takes seconds
        trainer = start(config)
        pipeline, viewer = trainer.pipeline, trainer.viewer_state
        assert isinstance(viewer, Viewer)
        trainer._init_viewer_state()
        pipeline.get_train_loss_dict(30)
        pipeline._after_step(29)
        driver.get(f"http://127.0.0.1:{viewer.viser_server.get_port()}")
        wait_for(viewer.viser_server.get_clients)
        wait_for(lambda: TITLE in driver.page_source)
        text = wait_for(lambda: "Stage" in driver.page_source and driver.find_element("tag name", "body").text)
        assert "step 30 of 40" in text and "nerfacto" in text and "Next hard view" in text

        pipeline._teacher.run.config.method_name = HOSTILE
        getattr(pipeline, TITLE).show({"Stage": "told"})
        text = wait_for(lambda: "told" in driver.page_source and driver.find_element("tag name", "body").text)
        assert HOSTILE in text and driver.execute_script("return window.executed === undefined")

        panel = viewer.control_panel
        wait_for(lambda: DIFFERENCE in panel._output_render.options)
        for output in ("depth", "accumulation", "occupancy", TEACHER, DIFFERENCE, "rgb"):
            before = image(driver)
            panel._output_render.value = output
            wait_for(lambda: np.abs((shown := image(driver)) - before).mean() > 1 and shown.std() > 3)

        box = driver.find_element("xpath", "//label[contains(., 'Hard rays')]/following::input[@type='checkbox'][1]")
        assert not pipeline.active.config.rays
        box.click()
        wait_for(lambda: pipeline.active.config.rays)

        (client,) = viewer.viser_server.get_clients().values()
        position = client.camera.position.copy()
        driver.find_element("xpath", "//button[contains(., 'Next hard view')]").click()
        wait_for(lambda: not np.allclose(client.camera.position, position))
        assert "against the teacher" in said(pipeline)
        (view,) = (view for view, frustum in viewer.camera_handles.items() if not frustum.visible)
        assert f"view {view}:" in said(pipeline)  # its own frustum would hide the image
        viewer.viser_server.stop()


def test_a_finished_run_loads_its_teacher_when_asked(student: Run, teacher: Run, tmp_path: Path) -> None:
    _, pipeline, _, _ = eval_setup(student.config)
    camera = pipeline.datamanager.train_dataset.cameras[:1]
    assert TEACHER not in list(pipeline.model.get_outputs_for_camera(camera))
    press(pipeline, "Next hard view")
    assert "no teacher" in said(pipeline)
    place = element(pipeline, "Teacher")
    assert isinstance(place, ViewerText) and place.value.startswith(str(teacher.folder))
    place.value = str(tmp_path)
    press(pipeline, "Load teacher")
    assert "Not loaded" in said(pipeline) and str(tmp_path) in said(pipeline)
    place.value = str(teacher.folder)
    press(pipeline, "Load teacher")
    assert "Loaded" in said(pipeline) and "nerfacto" in getattr(pipeline, TITLE)._state.value
    outputs = pipeline.model.get_outputs_for_camera(camera)
    assert outputs[TEACHER].shape == outputs["rgb"].shape
    torch.testing.assert_close(outputs[DIFFERENCE], difference(outputs["rgb"], outputs[TEACHER]))


def test_the_teacher_is_rendered_for_those_who_look_alone(student: Run, teacher: Run) -> None:
    _, pipeline, _, _ = eval_setup(student.config)
    pipeline.load_teacher(teacher.folder)
    camera = pipeline.datamanager.train_dataset.cameras[:1]
    before = pipeline.comparison.teacher.seconds
    images = pipeline.model.get_outputs_for_camera(camera)
    assert TEACHER not in images.keys() and TEACHER in images  # noqa: SIM118 - who goes through all does not ask
    everything = images.all_of({"rgb", "depth"})
    assert not everything[TEACHER].any() and not everything["normals"].any()
    assert pipeline.comparison.teacher.seconds == before


def test_worst_view_is_the_one_that_differs_most(scene: Path) -> None:
    """Between two runs that are kept, so that nothing of it depends on how training went here."""
    pipeline = open_old_run("vm", scene)[1]
    pipeline.load_teacher(OLD_RUNS / "mlp")
    cameras = pipeline.datamanager.train_dataset.cameras[:8]
    by_rays = pipeline.comparison.errors(cameras).cpu()
    whole = []
    for view in range(len(cameras)):
        camera = cameras[view : view + 1].to(pipeline.device)
        own = pipeline.model.get_outputs_for_camera(camera)["rgb"]
        whole.append((own - pipeline.comparison.render(camera)).square().mean().cpu())
    together = torch.stack([by_rays, torch.stack(whole)])
    assert torch.corrcoef(together)[0, 1] > 0.8


def test_a_teacher_is_known_by_its_weights(student: Run, teacher: Run, tmp_path: Path) -> None:
    _, pipeline, _, _ = eval_setup(student.config)
    other = tmp_path / "other"
    shutil.copytree(teacher.folder, other)
    change_state(other, lambda state: state["_model.field.mlp_head.layers.2.bias"].add_(1e-3))
    with pytest.raises(InputError, match="are not those that this student was converted from.*own was"):
        pipeline.load_teacher(other)
    assert pipeline.comparison is None


def test_a_student_of_one_step_still_knows_its_teacher(teacher: Run, tmp_path: Path) -> None:
    trainer = start(distil_config(tmp_path, "--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "1"))
    trainer.train()
    _, pipeline, _, _ = eval_setup(trainer.base_dir / "config.yml")
    pipeline.load_teacher(teacher.folder)
    assert pipeline.comparison is not None


def test_difference_is_black_for_nothing_and_bright_at_the_end_of_its_scale() -> None:
    colors = difference(torch.tensor([[0.5] * 3, [0.9] * 3]), torch.tensor([[0.5] * 3, [0.5] * 3]))
    assert colors[0].max() < 0.05 and colors[1].min() > 0.6


def test_evaluation_says_how_far_the_teacher_is_when_asked(
    student: Run, teacher: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, alone, _, _ = eval_setup(student.config)
    own = alone.get_average_eval_image_metrics()
    assert alone.comparison is None and not any("teacher" in name for name in own)
    for place in ("1", str(teacher.folder)):
        monkeypatch.setenv("PVD_TEACHER", place)
        _, pipeline, _, _ = eval_setup(student.config)
        found = pipeline.get_average_eval_image_metrics()
        assert found["psnr"] == pytest.approx(own["psnr"]) and found["ssim_to_teacher"] <= 1
        assert found["psnr_to_teacher"] > 5 and found["teacher_psnr"] > 5
    monkeypatch.setenv("PVD_TEACHER", str(tmp_path / "gone"))
    _, pipeline, _, _ = eval_setup(student.config)
    with pytest.raises(InputError, match="does not exist"):
        pipeline.get_average_eval_image_metrics()


def test_the_teachers_own_psnr_is_that_of_its_pictures(student: Run, teacher: Run) -> None:
    """And not the student's against it."""
    _, pipeline, _, _ = eval_setup(student.config)
    pipeline.load_teacher(teacher.folder)
    found, data = pipeline.get_average_eval_image_metrics(), pipeline.datamanager.eval_dataset
    own = [
        image_metrics(
            pipeline.comparison.render(data.cameras[view : view + 1]),
            pipeline.model.renderer_rgb.blend_background(data.get_image_float32(view)),
        )
        for view in range(len(data))
    ]
    for name in ("psnr", "ssim"):
        assert found[f"teacher_{name}"] == pytest.approx(sum(one[name] for one in own) / len(own), rel=1e-4)


def test_evaluation_in_training_carries_the_comparison(teacher: Run, tmp_path: Path) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "24")
    pipeline = start(distil_config(tmp_path, *options)).pipeline
    metrics, images = pipeline.get_eval_image_metrics_and_images(7)
    assert {"psnr_to_teacher", "ssim_to_teacher"} <= set(metrics) and images["img"].shape[1] == 3 * 40
