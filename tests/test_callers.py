"""Other tools call us: nerfstudio's own test of methods, nerfbaselines, and the stock commands on a copied run."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, distil_config
from helpers import start
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.scripts.train import train_loop
from nerfstudio.utils.eval_utils import eval_setup
from teachers import FAMILIES

from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.teacher.safe_yaml import load_config


def set_reduced_config(config: Any, scene: Path, output: Path) -> Any:
    """What nerfstudio's test of its methods changes in each, by attributes alone, before `train_loop`."""
    config.machine.num_devices = 0
    config.max_num_iterations = 2
    config.pipeline.datamanager.dataparser = BlenderDataParserConfig(data=scene)
    config.pipeline.datamanager.train_num_images_to_sample_from = 1
    config.pipeline.datamanager.train_num_rays_per_batch = 4
    config.vis = "tensorboard"
    config.logging.relative_log_dir = output / "logs"
    config.viewer.quit_on_train_completion = True
    return config


def reduced(teacher: Path, student: str, scene: Path, output: Path) -> Any:
    """The registered method with a teacher, a student, and sizes that take seconds."""
    config: Any = deepcopy(all_methods["pvd-distill"])
    config.teacher_checkpoint, config.student, config.output_dir = teacher, student, output
    config.set_timestamp()
    model = config.pipeline.model
    model.grid_resolution, model.render_step_size = 24, 0.1
    config.pipeline.distillation.rays_per_chunk = config.pipeline.distillation.points_per_chunk = 256
    for name in ("vm", "cp", "triplane"):
        getattr(model, name).resolution, getattr(model, name).start_resolution = 16, 8
    model.sparse.resolution, model.hash.log2_hashmap_size, model.mlp.hidden_dim = 16, 10, 32
    return set_reduced_config(config, scene, output)


@pytest.mark.parametrize("student", ["mlp", "hash", "vm", "cp", "triplane", "sparse", "hybrid", "splat"])
def test_nerfstudios_test_of_methods_runs_for_every_student(
    student: str, teacher: Run, scene: Path, tmp_path: Path
) -> None:
    config = reduced(teacher.folder, student, scene, tmp_path)
    train_loop(local_rank=0, world_size=0, config=config)
    assert (config.get_checkpoint_dir() / "step-000000001.ckpt").is_file()


@pytest.mark.parametrize("family", FAMILIES)
def test_nerfstudios_test_of_methods_runs_for_every_teacher(
    family: str, families: Mapping[str, Path], scene: Path, tmp_path: Path
) -> None:
    config = reduced(families[family], "mlp", scene, tmp_path)
    train_loop(local_rank=0, world_size=0, config=config)
    assert (config.get_checkpoint_dir() / "step-000000001.ckpt").is_file()


class NoViews(DataParser):
    """nerfbaselines opens a finished run with a dataparser that has no images and, for rendering, no cameras."""

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        del split, kwargs
        return DataparserOutputs(
            image_filenames=[],
            cameras=Cameras(
                torch.zeros(0, 3, 4), torch.zeros(0, 1), torch.zeros(0, 1), torch.zeros(0, 1), torch.zeros(0, 1)
            ),
            scene_box=SceneBox(torch.tensor([[-1.5] * 3, [1.5] * 3])),
        )


@pytest.mark.parametrize("with_teacher", [True, False])
def test_a_finished_run_opens_without_a_camera_renders_and_is_saved(
    with_teacher: bool, student: Run, tmp_path: Path
) -> None:
    config: Any = load_config(student.config)
    camera = eval_setup(student.config, test_mode="inference")[1].datamanager.eval_dataset.cameras[:1]
    config.load_dir, config.load_checkpoint = student.checkpoints, None
    config.output_dir, config.vis = tmp_path, "tensorboard"
    config.pipeline.datamanager.dataparser = DataParserConfig(_target=NoViews)
    if not with_teacher:
        config.pipeline.teacher = tmp_path / "gone.ckpt"
    trainer = config.setup()
    trainer.setup()
    before = trainer.pipeline.model.get_outputs_for_camera(camera)["rgb"]
    trainer.base_dir.mkdir(parents=True, exist_ok=True)
    trainer.checkpoint_dir = tmp_path / "saved"
    trainer.save_checkpoint(59)
    config.load_dir = tmp_path / "saved"
    again = config.setup()
    again.setup()
    torch.testing.assert_close(again.pipeline.model.get_outputs_for_camera(camera)["rgb"], before)


def test_an_error_of_ours_leaves_other_methods_alone() -> None:
    code = (
        "import sys; sys.modules['pvd_nerfstudio.trainer'] = None;"
        "from nerfstudio.configs.method_configs import all_descriptions; print(all_descriptions['pvd-distill']);"
        "assert 'nerfacto' in all_descriptions"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and "pvd-distill cannot be used here: ModuleNotFoundError" in done.stdout, done.stderr


def test_a_run_that_was_copied_opens_from_there(student: Run, tmp_path: Path, monkeypatch) -> None:
    """nerfstudio looks for checkpoints where config.yml says that they were written, from the working directory."""
    copied = tmp_path / "elsewhere"
    shutil.copytree(student.folder, copied)
    path = next((copied / "nerfstudio_models").iterdir())
    saved = torch.load(path, weights_only=True)
    saved["pipeline"]["_model.field.color_head.layers.2.bias"].fill_(3.0)
    torch.save(saved, path)
    monkeypatch.chdir("/")
    _, pipeline, found, _ = eval_setup(copied / "config.yml", test_mode="inference")
    assert found == path
    assert float(pipeline.model.field.color_head.layers[2].bias.min()) == 3.0


def test_a_hash_student_in_tiny_cuda_nns_layout_opens_without_it(teacher: Run, tmp_path: Path) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--student", "hash", "--max-num-iterations", "20")
    trainer = start(distil_config(tmp_path, *options, "--pipeline.model.hash.implementation", "tcnn"))
    trainer.train()
    _, pipeline, path, _ = eval_setup(trainer.base_dir / "config.yml", test_mode="inference")
    assert "_model.field.table.tcnn_encoding.params" in torch.load(path, weights_only=True)["pipeline"]
    camera = pipeline.datamanager.eval_dataset.cameras[:1]
    rgb = pipeline.model.get_outputs_for_camera(camera)["rgb"]
    torch.testing.assert_close(rgb, trainer.pipeline.student.eval().get_outputs_for_camera(camera)["rgb"])
    assert FrozenTeacher(find_run(trainer.base_dir), "cpu").has_density


def test_several_processes_on_a_cpu_become_one(teacher: Run) -> None:
    """nerfstudio starts them on CUDA GPUs alone, and would end in an assertion."""
    config: Any = deepcopy(all_methods["pvd-distill"])
    config.teacher_checkpoint, config.student = teacher.folder, "mlp"
    config.machine.device_type, config.machine.num_devices = "cpu", 2
    config.resolve()
    assert config.machine.num_devices == 1
