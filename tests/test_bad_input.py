"""What the user gets wrong stops before any work, says what and where, and leaves the disk as it was."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import Run, distil_config, quiet
from helpers import refused, start
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils import writer

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.teacher.safe_yaml import load_config


@pytest.fixture()
def copied(teacher: Run, tmp_path: Path) -> Run:
    """A teacher that a test may break."""
    folder = tmp_path / "teacher"
    shutil.copytree(teacher.folder, folder)
    return Run(folder)


def checkpoint_of(run: Run) -> Path:
    return next(run.checkpoints.glob("*.ckpt"))


def change_state(run: Run, change) -> None:
    path = checkpoint_of(run)
    content = torch.load(path, weights_only=False)
    change(content["pipeline"])
    torch.save(content, path)


def test_no_such_path(tmp_path: Path, capsys) -> None:
    said = refused(tmp_path / "out", capsys, "--teacher-checkpoint", str(tmp_path / "nowhere"))
    assert "does not exist" in said


def test_no_teacher_at_all(tmp_path: Path, capsys) -> None:
    assert "--teacher-checkpoint" in refused(tmp_path / "out", capsys)


def test_unknown_student_lists_the_choices(teacher: Run, tmp_path: Path, capsys) -> None:
    said = refused(tmp_path / "out", capsys, "--teacher-checkpoint", str(teacher.folder), "--student", "marble")
    assert "mlp" in said and "hash" in said


def test_checkpoint_that_does_not_fit_its_config(copied: Run, tmp_path: Path, capsys) -> None:
    def change(state: dict) -> None:
        state["_model.field.surplus"] = state.pop("_model.field.mlp_head.layers.0.weight")

    change_state(copied, change)
    said = refused(tmp_path / "out", capsys, "--teacher-checkpoint", str(copied.folder))
    assert "field.mlp_head.layers.0.weight" in said and "field.surplus" in said


def test_config_of_another_size(copied: Run, tmp_path: Path, capsys) -> None:
    copied.config.write_text(copied.config.read_text().replace("hidden_dim_color: 64", "hidden_dim_color: 32"))
    said = refused(tmp_path / "out", capsys, "--teacher-checkpoint", str(copied.folder))
    assert "does not fit" in said and "mlp_head" in said


def test_checkpoint_of_half_a_tiny_cuda_nn(copied: Run, tmp_path: Path, capsys) -> None:
    def change(state: dict) -> None:
        for key in [key for key in state if key.startswith("_model.field.mlp_base")]:
            del state[key]
        state["_model.field.mlp_base.model.params"] = torch.zeros(100)

    change_state(copied, change)
    said = refused(tmp_path / "out", capsys, "--teacher-checkpoint", str(copied.folder))
    assert "field.mlp_base.model.params" in said and "tiny-cuda-nn" in said


def test_nan_in_the_weights(copied: Run, tmp_path: Path, capsys) -> None:
    def change(state: dict) -> None:
        state["_model.field.mlp_head.layers.0.bias"][3] = torch.nan

    change_state(copied, change)
    said = refused(tmp_path / "out", capsys, "--teacher-checkpoint", str(copied.folder))
    assert "NaN" in said and "field.mlp_head.layers.0.bias" in said


def test_teacher_without_density(copied: Run, tmp_path: Path, capsys) -> None:
    def change(state: dict) -> None:
        name = next(key for key in state if key.startswith("_model.field.mlp_base") and key.endswith("layers.1.bias"))
        state[name][0] = -100.0

    change_state(copied, change)
    said = refused(tmp_path / "out", capsys, "--teacher-checkpoint", str(copied.folder))
    assert "no density" in said


def test_hostile_config_runs_nothing(copied: Run, tmp_path: Path, capsys) -> None:
    marker = tmp_path / "marker"
    hostile = f"max_num_iterations: !!python/object/apply:os.system ['touch {marker}']"
    copied.config.write_text(copied.config.read_text().replace("max_num_iterations: 150", hostile))
    said = refused(tmp_path / "out", capsys, "--teacher-checkpoint", str(copied.folder))
    assert "os.system" in said and not marker.exists()


def test_data_in_another_frame(teacher: Run, scene: Path, copied: Run, tmp_path: Path, capsys) -> None:
    path = copied.folder / "dataparser_transforms.json"
    frame = json.loads(path.read_text())
    frame["scale"] = 0.5
    path.write_text(json.dumps(frame))
    said = refused(tmp_path / "out", capsys, "--teacher-checkpoint", str(copied.folder), "--data", str(scene))
    assert "frame" in said and "0.5" in said and str(scene.name) in said and "dataparser_transforms.json" in said


def test_data_that_is_named_must_be_there(teacher: Run, tmp_path: Path, capsys) -> None:
    missing = tmp_path / "typo"
    said = refused(tmp_path / "out", capsys, "--teacher-checkpoint", str(teacher.folder), "--data", str(missing))
    assert "typo" in said and "--data" in said


def test_weights_of_another_method(copied: Run, tmp_path: Path, capsys) -> None:
    from nerfstudio.configs.method_configs import all_methods  # noqa: PLC0415

    config = load_config(copied.config)
    config.pipeline.model = all_methods["vanilla-nerf"].pipeline.model
    copied.config.write_text(yaml.dump(config))
    said = refused(tmp_path / "out", capsys, "--teacher-checkpoint", str(copied.folder))
    assert "does not fit" in said and "field_coarse" in said


def test_an_existing_run_is_not_overwritten(student: Run, teacher: Run) -> None:
    for logs in writer.EVENT_WRITERS:  # those of the finished run may still wait in another thread
        logs.tb_writer.flush()
    before = {path: path.stat().st_mtime_ns for path in student.folder.rglob("*")}
    config = distil_config(student.folder.parents[2], "--teacher-checkpoint", str(teacher.folder))
    assert config.get_base_dir() == student.folder
    config.save_config()
    with pytest.raises(InputError, match="already holds a run"):
        config.setup(local_rank=0, world_size=1).setup()
    assert before == {path: path.stat().st_mtime_ns for path in student.folder.rglob("*")}


def test_a_sky_needs_contracted_space(teacher: Run, tmp_path: Path, capsys) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--pipeline.model.background-color", "last_sample")
    assert "sky of contracted space" in refused(tmp_path / "out", capsys, *options)


def test_resuming_a_run_of_another_method(teacher: Run, tmp_path: Path, capsys) -> None:
    said = refused(tmp_path / "out", capsys, "--load-dir", str(teacher.checkpoints))
    assert "nerfacto" in said and "pvd-distill" in said


def test_broken_teacher_is_called_so(copied: Run, tmp_path: Path, capsys) -> None:
    def change(state: dict) -> None:
        state["_model.field.mlp_head.layers.2.bias"] += 8.0

    change_state(copied, change)
    config = distil_config(tmp_path / "out", "--teacher-checkpoint", str(copied.folder), "--max-num-iterations", "4")
    start(config)
    said = " ".join(capsys.readouterr().out.split())
    assert "looks broken" in said and "dB between" in said


def test_coarse_samples_are_warned_about(teacher: Run, tmp_path: Path, capsys) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--pipeline.model.render-step-size", "0.4")
    config = distil_config(tmp_path / "out", *options)
    start(config)
    said = " ".join(capsys.readouterr().out.split())
    assert "shared samples lose" in said and "--pipeline.model.render-step-size 0.2" in said


def test_data_that_the_teacher_got_by_its_own_data_option(copied: Run, scene: Path, tmp_path: Path) -> None:
    config = load_config(copied.config)
    config.pipeline.datamanager.data, config.pipeline.datamanager.dataparser.data = scene, Path("data/blender/lego")
    copied.config.write_text(yaml.dump(config))
    ours = distil_config(tmp_path / "out", "--teacher-checkpoint", str(copied.folder))
    assert ours.pipeline.datamanager.dataparser.data == scene


def test_neither_teacher_nor_images(student: Run, scene: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "student"
    shutil.copytree(student.folder, folder)
    run = Run(folder)
    run.config.write_text(run.config.read_text().replace("step-000000149", "step-000000999").replace("teapot", "gone"))
    assert "teapot" not in run.config.read_text()
    said = refused(tmp_path / "out", capsys, "--load-dir", str(run.checkpoints))
    assert "nothing to learn from" in said


def test_images_that_are_gone_cannot_be_learned(copied: Run, tmp_path: Path, capsys) -> None:
    copied.config.write_text(copied.config.read_text().replace("teapot", "gone"))
    options = ("--teacher-checkpoint", str(copied.folder), "--pipeline.distillation.training-images", "True")
    assert "needs the training images, on disk" in refused(tmp_path / "out", capsys, *options)


def test_cpu_is_used_without_a_gpu_and_said(teacher: Run, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = ("--teacher-checkpoint", str(teacher.folder), "--machine.device-type", "cuda")
    config: TrainerConfig = distil_config(tmp_path / "out", *options)
    assert config.machine.device_type == "cpu"
    assert "training on the CPU" in capsys.readouterr().out
    assert quiet(config, tmp_path, "x") is config


@pytest.mark.parametrize("parts", [("hash", "marble"), ("hybrid", "vm")])
def test_a_composition_of_unknown_parts(parts: tuple[str, str], teacher: Run, tmp_path: Path, capsys) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--student", "hybrid", "--pipeline.model.hybrid.parts")
    said = refused(tmp_path / "out", capsys, *options, *parts)
    assert f"composed of '{parts[0] if parts[0] == 'hybrid' else parts[1]}'" in said
    assert "mlp, hash, vm, cp, triplane, sparse" in said


@pytest.mark.parametrize(
    ("student", "option", "figure"),
    [
        ("vm", "--pipeline.model.vm.resolution", "1440001.4 GB"),
        ("hash", "--pipeline.model.hash.log2-hashmap-size", "GB"),
        ("sparse", "--pipeline.model.sparse.resolution", "GB"),
        ("hybrid", "--pipeline.model.vm.resolution", "GB"),
        ("mlp", "--pipeline.model.grid-resolution", "GB"),
    ],
)
def test_sizes_that_do_not_fit_in_memory(
    student: str, option: str, figure: str, teacher: Run, tmp_path: Path, capsys
) -> None:
    size = "36" if "log2" in option else "1000000" if "vm" in option else "65536"
    options = ("--teacher-checkpoint", str(teacher.folder), "--student", student, option, size)
    said = refused(tmp_path / "out", capsys, *options)
    assert "would take" in said and figure in said and "Lower" in said and option.rpartition(".")[0] in said


def test_features_asked_for_where_the_student_has_none(teacher: Run, tmp_path: Path, capsys) -> None:
    options = ("--teacher-checkpoint", str(teacher.folder), "--student", "sparse")
    said = refused(tmp_path / "out", capsys, *options, "--pipeline.distillation.feature-weight", "0.01")
    assert "sparse student has no feature vector" in said and "feature-weight" in said
