"""A run brings its data set along; what reads it is reviewed, or named by the user."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
import yaml
from conftest import SMALL, Run, distil_config
from helpers import refused
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.configs.dataparser_configs import all_dataparsers
from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import Blender, BlenderDataParserConfig
from nerfstudio.data.dataparsers.minimal_dataparser import MinimalDataParserConfig
from nerfstudio.data.scene_box import SceneBox
from test_bad_input import copied  # noqa: F401

from pvd_nerfstudio.data.reviewed import check_outputs, is_reviewed, reading, review
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.teacher.frozen import FrozenTeacher

NOT_TAKEN_OVER = {"minimal-parser", "dycheck-data", "nuscenes-data"}


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def name_dataparser(run: Run, dataparser) -> None:
    """Put another dataparser into a run's config.yml, as somebody does who sends it around."""
    config = yaml.load(run.config.read_text(), Loader=yaml.Loader)
    config.pipeline.datamanager.dataparser, config.pipeline.datamanager.data = dataparser, None
    run.config.write_text(yaml.dump(config))


def test_which_of_nerfstudios_dataparsers_are_taken_over() -> None:
    known = {name: config for name, config in all_dataparsers.items() if dataclasses.is_dataclass(config)}
    assert {name for name, config in known.items() if not is_reviewed(config)} == NOT_TAKEN_OVER


def test_a_prepared_data_set_runs_nothing(copied: Run, tmp_path: Path, capsys) -> None:  # noqa: F811
    """The `train.npz` beside the run is a program; MinimalDataParser would unpickle it."""
    marker = tmp_path / "marker"
    np.savez(copied.folder / "train.npz", image_filenames=np.array([Evil(marker)], dtype=object))
    name_dataparser(copied, MinimalDataParserConfig(data=copied.folder))
    said = refused(tmp_path / "out", capsys, "--teacher-checkpoint", str(copied.folder))
    assert "MinimalDataParser" in said and "ns-train pvd-distill" in said and "name it yourself" in said
    assert not marker.exists()


def test_a_mistake_in_the_list_is_no_hole(copied: Run, tmp_path: Path, capsys, monkeypatch) -> None:  # noqa: F811
    marker, dataparser = tmp_path / "marker", MinimalDataParserConfig(data=copied.folder)
    np.savez(copied.folder / "train.npz", image_filenames=np.array([Evil(marker)], dtype=object))
    name_dataparser(copied, dataparser)
    monkeypatch.setitem(
        __import__("pvd_nerfstudio.data.reviewed").data.reviewed.REVIEWED, type(dataparser), dataparser._target
    )
    said = refused(tmp_path / "out", capsys, "--teacher-checkpoint", str(copied.folder), "--data", str(copied.folder))
    assert "wanted to execute what a file describes" in said and not marker.exists()


def test_a_target_of_another_class_is_not_taken_over() -> None:
    with pytest.raises(InputError, match="names the dataparser Blender,"):
        review(MinimalDataParserConfig(_target=Blender))
    review(BlenderDataParserConfig())


def test_a_data_set_may_be_named(copied: Run, scene: Path, tmp_path: Path) -> None:  # noqa: F811
    name_dataparser(copied, MinimalDataParserConfig(data=copied.folder))
    options = ("--teacher-checkpoint", str(copied.folder), "blender-data", "--data", str(scene))
    data = distil_config(tmp_path, *options).pipeline.datamanager
    assert data.named_by_user and isinstance(data.dataparser, BlenderDataParserConfig)
    assert "named_by_user" not in {item.name for item in dataclasses.fields(data)}


def test_a_data_path_that_ends_in_dots_stays_in_the_output_folder(copied: Run, tmp_path: Path) -> None:  # noqa: F811
    name_dataparser(copied, BlenderDataParserConfig(data=Path("..")))
    options = ("--teacher-checkpoint", str(copied.folder), "--output-dir", str(tmp_path / "out"))
    config = tyro.cli(AnnotatedBaseConfigUnion, args=["pvd-distill", *SMALL, *options])
    config.set_timestamp()
    assert config.experiment_name == "unnamed"
    assert config.get_base_dir().resolve().is_relative_to((tmp_path / "out").resolve())


def test_pipes_among_the_images_are_not_waited_for(copied: Run, scene: Path, tmp_path: Path) -> None:  # noqa: F811
    data = tmp_path / "data"
    __import__("shutil").copytree(scene, data)
    place = data / "train" / "r_0.png"
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(InputError, match="which is no file"):
        with reading(BlenderDataParserConfig(data=data), named_by_user=False):
            BlenderDataParserConfig(data=data).setup().get_dataparser_outputs("train")


def outputs(count: int = 2, **changes: torch.Tensor) -> DataparserOutputs:
    numbers = {"fx": 50.0, "fy": 50.0, "cx": 20.0, "cy": 20.0, "width": 40, "height": 40} | changes
    poses = numbers.pop("poses", torch.eye(4)[None, :3].repeat(count, 1, 1))
    box = numbers.pop("box", torch.tensor([[-1.0] * 3, [1.0] * 3]))
    images = [Path("a.png")] * int(numbers.pop("images", count))
    return DataparserOutputs(images, Cameras(poses, **numbers), scene_box=SceneBox(box))


def test_cameras_that_no_camera_is() -> None:
    check_outputs(outputs())
    for said, bad in {
        "pixels a side": outputs(width=10**6),
        "0 to": outputs(height=0),
        "no numbers": outputs(poses=torch.full((2, 3, 4), torch.nan)),
        "intrinsics that are no numbers": outputs(fx=torch.inf),
        "not positive": outputs(fy=-1.0),
        "2 poses for 3 images": outputs(images=3),
    }.items():
        with pytest.raises(InputError, match=said):
            check_outputs(bad)


def test_a_box_from_a_hostile_data_set(families, tmp_path: Path) -> None:
    """Families without a scene box in their weights read their data set's, by the same rules."""
    import shutil

    folder = tmp_path / "vanilla"
    shutil.copytree(families["vanilla-nerf"], folder)
    name_dataparser(Run(folder), MinimalDataParserConfig(data=folder))
    with pytest.raises(InputError, match="whose code nobody has reviewed"):
        FrozenTeacher(find_run(folder), "cpu")
