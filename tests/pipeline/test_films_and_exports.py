"""nerfstudio's own commands for films, images and point clouds, on a run of ours."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.scripts.exporter import ExportPointCloud
from nerfstudio.scripts.render import SpiralRender
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.rendering.normals import normals_of


def needs_ffmpeg() -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg, which ns-render asks for, is not installed")


@pytest.mark.parametrize("names", [["rgb"], ["rgb", "teacher_rgb", "normals"]])
def test_spiral_with_the_teacher_beside(student: Run, scene: Path, tmp_path: Path, names: list[str]) -> None:
    """nerfstudio's dataparser of this scene gives focal lengths in double precision, which the path cannot take."""
    needs_ffmpeg()
    cameras = BlenderDataParserConfig(data=scene).setup().get_dataparser_outputs("test").cameras
    assert cameras.fx.dtype == torch.float64
    SpiralRender(
        load_config=student.config,
        output_path=tmp_path / "film.mp4",
        output_format="images",
        image_format="png",
        seconds=0.1,
        rendered_output_names=names,
    ).main()
    images = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "film").glob("*.png"))]
    assert len(images) == 2 and images[0].shape == (40, 40 * len(names), 3)
    assert all(part.std() > 3 for part in np.split(images[0], len(names), axis=1))


def test_a_teacher_that_is_gone_is_named_when_its_images_are_asked_for(
    student: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, pipeline, _, _ = eval_setup(student.config)
    monkeypatch.setenv("PVD_TEACHER", str(tmp_path / "gone"))
    with torch.no_grad():
        images = pipeline.model.get_outputs_for_camera(pipeline.datamanager.train_dataset.cameras[:1])
    with pytest.raises(InputError, match="gone does not exist"):
        images["teacher_rgb"]


def test_pointcloud_with_stock_defaults(student: Run, tmp_path: Path) -> None:
    ExportPointCloud(load_config=student.config, output_dir=tmp_path, num_points=2000, num_rays_per_batch=1000).main()
    head = (tmp_path / "point_cloud.ply").read_bytes()[:600]
    assert b"property double nx" in head or b"property float nx" in head


def test_normals_of_a_ball_point_away_from_its_middle() -> None:
    middle = torch.tensor([0.3, -0.2, 0.1])
    towards = torch.nn.functional.normalize(torch.randn(50, 3), dim=-1)
    found = normals_of(
        lambda asked: -10 * (asked - middle).norm(dim=-1, keepdim=True), middle + towards, torch.full((50, 1), 0.02)
    )
    torch.testing.assert_close(found, towards, atol=1e-3, rtol=0)
    nowhere = normals_of(lambda asked: torch.zeros(len(asked), 1), towards, torch.full((50, 1), 0.02))
    assert not nowhere.any()


def test_an_image_of_normals_is_grey_where_nothing_is(student: Run) -> None:
    _, pipeline, _, _ = eval_setup(student.config)
    with torch.no_grad():
        images = pipeline.model.get_outputs_for_camera(pipeline.datamanager.train_dataset.cameras[:1])
    normals, opacity = images["normals"] * 2 - 1, images["accumulation"][..., 0]
    assert torch.allclose(normals[opacity > 0.1].norm(dim=-1), torch.ones(()), atol=1e-4)
    assert (opacity < 1e-4).any() and not normals[opacity < 1e-4].any()
