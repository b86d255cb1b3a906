"""Finding and reading a trained run: what nerfstudio saves loads, wherever it lies; nothing in it is executed."""

import copy
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.engine.trainer import TrainerConfig

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.teacher import safe_yaml
from pvd_nerfstudio.teacher.checkpoint import TeacherRun, find_run, load_state, stored_state
from pvd_nerfstudio.teacher.safe_yaml import load_config
from pvd_nerfstudio.trainer_config import PVDTrainerConfig

METHODS = {name: config for name, config in all_methods.items() if isinstance(config, TrainerConfig)}
LEGO_HASH = Path(__file__).parents[3] / "shared" / "teachers" / "lego-hash"
NERFACTO = yaml.dump(METHODS["nerfacto"])
OURS = yaml.dump(METHODS["pvd-distill"])
TARGET = "_target: !!python/name:nerfstudio.models.nerfacto.NerfactoModel ''"
assert NERFACTO.count(TARGET) == 1


def pipeline_state() -> dict[str, Any]:
    return {
        "_model.field.weight": torch.ones(2, 3),
        "_model.field.levels": torch.tensor(16),
        "_model.lpips.net.weight": torch.full((2,), torch.nan),
        "datamanager.train_camera_optimizer.pose": torch.zeros(1),
    }


def save_checkpoint(folder: Path, step: int = 2750, pipeline: Any = None, **options: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rate = np.float64(0.0094)
    content = {
        "step": step,
        "pipeline": pipeline_state() if pipeline is None else pipeline,
        "optimizers": {},
        "schedulers": {"fields": {"_last_lr": [rate], "steps": np.int64(step), "warm": np.bool_(True)}},
        "scalers": {},
    }
    path = folder / f"step-{step:09d}.ckpt"
    torch.save(content, path, **options)
    return path


def run_of(checkpoint_path: Path) -> TeacherRun:
    return TeacherRun(checkpoint_path.parents[1] / "config.yml", checkpoint_path, 0, METHODS["nerfacto"])


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    config = copy.deepcopy(METHODS["nerfacto"])
    config.output_dir = Path("gone/for/ever")
    folder = tmp_path / "outputs" / "lego" / "nerfacto" / "today"
    save_checkpoint(folder / "nerfstudio_models")
    (folder / "config.yml").write_text(yaml.dump(config), "utf8")
    return folder


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "config.yml"
        path.write_text(text, "utf8")
        return path

    return write


# The config


@pytest.mark.parametrize("method", METHODS)
def test_every_installed_method_loads_as_it_was_saved(method: str, written: Callable[[str], Path]) -> None:
    saved = METHODS[method]
    if method == "generfacto":  # it learns from prompts, and no teacher is without cameras
        with pytest.raises(InputError, match="'dataparser' is missing"):
            load_config(written(yaml.dump(saved)))
        return
    loaded = load_config(written(yaml.dump(saved)))
    if isinstance(saved, PVDTrainerConfig):
        assert loaded == saved and type(loaded) is PVDTrainerConfig
        return
    assert (loaded.method_name, loaded.relative_model_dir) == (saved.method_name, saved.relative_model_dir)
    ours, theirs = loaded.pipeline, saved.pipeline
    assert ours.model == theirs.model and type(ours.model) is type(theirs.model)
    assert ours.datamanager.data == theirs.datamanager.data
    assert ours.datamanager.dataparser == theirs.datamanager.dataparser


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [
        ("pathlib.WindowsPath ['C:\\', data, lego]", Path("C:/data/lego")),
        ("pathlib.WindowsPath ['data\\lego']", Path("data/lego")),
        ("pathlib.PosixPath [/, data]", Path("/data")),
        ("pathlib._local.PosixPath [data/lego]", Path("data/lego")),
        ("pathlib.PurePosixPath []", Path(".")),
    ],
)
def test_paths_of_any_system_load(saved: str, loaded: Path, written: Callable[[str], Path]) -> None:
    text = NERFACTO.replace("\n    data: null", f"\n    data: !!python/object/apply:{saved}", 1)
    assert load_config(written(text)).pipeline.datamanager.data == loaded


def test_enumerations_pickled_by_name_load(written: Callable[[str], Path]) -> None:
    name = "nerfstudio.utils.writer.EventName"
    by_value = f"!!python/object/apply:{name}\n      - Test PSNR\n"
    by_name = f"!!python/object/apply:builtins.getattr [!!python/name:{name} '', CURR_TEST_PSNR]\n"
    assert by_value in OURS
    assert load_config(written(OURS.replace(by_value, by_name))) == METHODS["pvd-distill"]


@pytest.mark.parametrize(
    ("queried", "named"),
    [
        ("!!python/object/apply:os.system ['touch {marker}']", "asks to run 'os.system'"),
        ("!!python/object/apply:nerfstudio.utils.scripts.run_command ['touch {marker}']", "asks to run"),
        ("!!python/object/apply:builtins.getattr [!!python/name:nerfstudio.utils.scripts '', os]", "asks for"),
        ("!!python/object/apply:_operator.getitem [[touch], 0]", "_operator.getitem"),
        ("!!python/object/new:subprocess.Popen [[touch, '{marker}']]", "refused"),
        ("!!python/object:subprocess.Popen {{args: [touch, '{marker}']}}", "asks for 'subprocess.Popen'"),
        ("!!python/object:nerfstudio.utils.writer.EventName {{}}", "asks for an object of"),
        ("!!python/module:os ''", "refused"),
        ("!!python/name:os.system ''", "asks for 'os.system'"),
        ("!!python/name:nerfstudio.utils.scripts.run_command ''", "asks for 'nerfstudio"),
        ("!!python/name:nerfstudio.data.utils.nerfstudio_collate.Cameras.__init__ ''", "asks for"),
        ("!!python/name:nerfstudio.engine.trainer.Path ''", "asks for 'nerfstudio.engine.trainer.Path'"),
        ("!!python/name:eval ''", "asks for 'eval'"),
        ("!!python/name:torch.nn.Linear ''", "asks for 'torch.nn.Linear'"),
    ],
)
def test_hostile_config_is_refused(queried: str, named: str, written: Callable[[str], Path], tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = written(NERFACTO.replace(TARGET, "_target: " + queried.format(marker=marker)))
    with pytest.raises(InputError, match=named) as error:
        load_config(path)
    assert str(path) in str(error.value)
    assert "lacks" in str(error.value) or "nothing was executed" in str(error.value)
    assert not marker.exists()


def test_module_outside_the_allowed_packages_is_not_imported(
    written: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evilplugin.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')", "utf8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="refused: config.yml asks for 'evilplugin.EvilConfig'"):
        load_config(written(NERFACTO.replace(TARGET, "_target: !!python/object:evilplugin.EvilConfig {}")))
    assert not (tmp_path / "marker").exists()


def test_installed_plugin_loads(
    written: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "from dataclasses import dataclass\nfrom nerfstudio.models.nerfacto import NerfactoModelConfig\n"
    text += "@dataclass\nclass RoseConfig(NerfactoModelConfig):\n    petals: int = 5\n"
    (tmp_path / "roseplugin.py").write_text(text, "utf8")
    dist_info = tmp_path / "roseplugin-1.0.dist-info"
    dist_info.mkdir()
    (dist_info / "METADATA").write_text("Metadata-Version: 2.1\nName: roseplugin\nVersion: 1.0\n", "utf8")
    (dist_info / "entry_points.txt").write_text("[nerfstudio.method_configs]\nrose = roseplugin:method\n", "utf8")
    monkeypatch.syspath_prepend(tmp_path)
    theirs = NERFACTO.replace("nerfstudio.models.nerfacto.NerfactoModelConfig", "roseplugin.RoseConfig")
    model = load_config(written(theirs)).pipeline.model
    assert type(model).__name__ == "RoseConfig" and model.petals == 5


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "!!python/object:nerfstudio.models.nerfacto.NerfactoModelConfig",
            "!!python/object:zipnerf_ns.model.ZipModelConfig",
            r"method 'nerfacto' \(package 'zipnerf_ns'\), which is not installed here: pip install",
        ),
        ("nerfacto.NerfactoModelConfig", "nerfacto.OldConfig", "nerfstudio version installed here lacks .*OldConfig"),
        ("models.nerfacto.Nerfacto", "models.oldacto.Nerfacto", "nerfstudio version installed here lacks"),
        ("project_name: ", "project_name: [", r"config.yml, line \d+: not valid YAML"),
        ("project_name: ", "project_name: !mine ", r"line \d+: refused: config.yml has the tag '!mine'"),
    ],
)
def test_config_that_cannot_be_used(old: str, new: str, message: str, written: Callable[[str], Path]) -> None:
    assert old in NERFACTO
    with pytest.raises(InputError, match=message):
        load_config(written(NERFACTO.replace(old, new)))


@pytest.mark.parametrize("text", ["", "just text", "a: 1", "!!python/tuple [1]", "[" * 2000, "a: !!int x", "\x00"])
def test_file_that_is_no_config(text: str, written: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="config.yml"):
        load_config(written(text))


def test_config_without_pipeline(written: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="no pipeline for method 'mine'"):
        load_config(written("!!python/object:nerfstudio.engine.trainer.TrainerConfig {method_name: mine}"))


def test_only_the_agreed_packages_are_allowed() -> None:
    assert {"nerfstudio", "pvd_nerfstudio"} <= safe_yaml.allowed_packages()
    assert not {"os", "torch", "numpy", "builtins"} & safe_yaml.allowed_packages()


# Finding a run


@pytest.mark.parametrize("given", ["config.yml", ".", "nerfstudio_models", "nerfstudio_models/step-000002750.ckpt"])
def test_all_four_kinds_of_path(given: str, run_folder: Path) -> None:
    run = find_run(run_folder / given)
    assert run.config_path == run_folder / "config.yml"
    assert run.checkpoint_path == run_folder / "nerfstudio_models" / "step-000002750.ckpt"
    assert (run.step, run.config.method_name) == (2750, "nerfacto")


def test_relative_path(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run_folder / "nerfstudio_models")
    assert find_run(Path(".")).config_path == run_folder / "config.yml"
    assert find_run(Path("..")).checkpoint_path.is_absolute()


def test_moved_run_loads(run_folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.move(run_folder, moved)
    run = find_run(moved)
    assert run.checkpoint_path.parent == moved / "nerfstudio_models"
    assert set(load_state(run)) == {"field.weight", "field.levels"}


def test_relative_model_dir_of_the_config(run_folder: Path) -> None:
    text = (run_folder / "config.yml").read_text("utf8")
    (run_folder / "config.yml").write_text(text.replace("- nerfstudio_models", "- deep\n- weights"), "utf8")
    assert find_run(run_folder).checkpoint_path.parent == run_folder / "nerfstudio_models"
    (run_folder / "deep").mkdir()
    shutil.move(run_folder / "nerfstudio_models", run_folder / "deep" / "weights")
    assert find_run(run_folder).checkpoint_path.parent == run_folder / "deep" / "weights"


def test_latest_of_several_checkpoints_is_taken_and_said(run_folder: Path, capsys) -> None:
    models = run_folder / "nerfstudio_models"
    older = save_checkpoint(models, 500)
    save_checkpoint(models, 1000000000)
    assert find_run(run_folder).step == 1000000000
    said = capsys.readouterr().out
    assert "3 checkpoints in" in said and "step 1000000000, is used; give the .ckpt" in said
    assert find_run(older).step == 500
    assert not capsys.readouterr().out


def test_no_such_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"config.yml, the run folder, .*step-\*.ckpt") as error:
        find_run(Path("nothing"))
    assert str(tmp_path / "nothing") in str(error.value)


def test_folder_above_the_runs_names_them(run_folder: Path, tmp_path: Path) -> None:
    for day in range(4):
        shutil.copytree(run_folder, run_folder.with_name(f"day{day}"))
    with pytest.raises(InputError, match="no config.yml in it. There are runs below .* and 2 more") as error:
        find_run(tmp_path / "outputs")
    assert str(error.value).count("config.yml,") + str(error.value).count("config.yml and") == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty is no run folder"):
        find_run(tmp_path / "empty")


def test_run_without_checkpoints(run_folder: Path) -> None:
    (run_folder / "nerfstudio_models" / "step-000002750.ckpt").unlink()
    (run_folder / "nerfstudio_models" / "step-last.ckpt").touch()
    for given in (run_folder, run_folder / "config.yml", run_folder / "nerfstudio_models"):
        with pytest.raises(InputError, match="nerfstudio_models holds no step-"):
            find_run(given)
    shutil.rmtree(run_folder / "nerfstudio_models")
    with pytest.raises(InputError, match="nerfstudio_models nor a step-"):
        find_run(run_folder)


def test_checkpoint_without_config(run_folder: Path) -> None:
    (run_folder / "config.yml").unlink()
    with pytest.raises(InputError, match="no config.yml beside"):
        find_run(run_folder / "nerfstudio_models" / "step-000002750.ckpt")


def test_file_of_another_kind(run_folder: Path) -> None:
    (run_folder / "last.ckpt").touch()
    with pytest.raises(InputError, match="neither a config.yml nor"):
        find_run(run_folder / "last.ckpt")


@pytest.mark.parametrize("name", ["config.yml", "nerfstudio_models", "nerfstudio_models/step-000002750.ckpt"])
def test_links_in_a_run_are_not_followed(name: str, run_folder: Path, tmp_path: Path) -> None:
    (run_folder / name).rename(tmp_path / "elsewhere")
    (run_folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a link, which is not followed in a run"):
        find_run(run_folder)


def test_a_link_to_a_run_is_the_users_own(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run_folder)
    assert find_run(tmp_path / "link").step == 2750


@pytest.mark.parametrize("name", ["config.yml", "nerfstudio_models/step-000002750.ckpt"])
def test_pipes_are_not_waited_for(name: str, run_folder: Path) -> None:
    (run_folder / name).unlink()
    os.mkfifo(run_folder / name)
    with pytest.raises(InputError, match="is no file"):
        load_state(find_run(run_folder))


def test_weights_outside_the_run_are_not_found(run_folder: Path) -> None:
    shutil.copytree(run_folder / "nerfstudio_models", run_folder.parent / "others")
    text = (run_folder / "config.yml").read_text("utf8")
    (run_folder / "config.yml").write_text(text.replace("- nerfstudio_models", "- ..\n- others"), "utf8")
    assert find_run(run_folder).checkpoint_path.parent == run_folder / "nerfstudio_models"


# Reading the weights


def test_shapes_are_known_without_the_weights(run_folder: Path) -> None:
    run = find_run(run_folder)
    shapes = {key: value.shape for key, value in stored_state(run).items()}
    assert shapes == {key: value.shape for key, value in load_state(run).items()} and shapes["field.weight"] == (2, 3)


def test_state_is_the_models_alone(run_folder: Path) -> None:
    state = load_state(find_run(run_folder))
    assert set(state) == {"field.weight", "field.levels"}
    assert torch.equal(state["field.weight"], torch.ones(2, 3))


@pytest.mark.parametrize("prefix", ["module._model.", "_model.module.", "module._model.module."])
def test_prefixes_of_parallel_training_are_removed(prefix: str, tmp_path: Path) -> None:
    pipeline = {prefix + key: torch.zeros(1) for key in ("field.weight", "lpips.weight")}
    assert set(load_state(run_of(save_checkpoint(tmp_path / "models", pipeline=pipeline)))) == {"field.weight"}


def test_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "models")
    path.write_text("no such page", "utf8")
    with pytest.raises(InputError, match="is no checkpoint|cut short"):
        load_state(run_of(path))


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"pipeline": [1]}, [torch.zeros(1)]])
def test_checkpoint_without_pipeline(content: Any, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "models")
    torch.save(content, path)
    with pytest.raises(InputError, match="no 'pipeline': not a checkpoint of a nerfstudio pipeline"):
        load_state(run_of(path))


@pytest.mark.parametrize("pipeline", [{}, {"field.weight": torch.ones(1)}, {"_model.lpips.weight": torch.ones(1)}])
def test_checkpoint_without_model(pipeline: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no '_model.' weights"):
        load_state(run_of(save_checkpoint(tmp_path / "models", pipeline=pipeline)))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite(value: float, tmp_path: Path) -> None:
    pipeline = pipeline_state() | {f"_model.field.layer{i}": torch.tensor([1.0, value]) for i in range(5)}
    with pytest.raises(InputError, match="NaN or infinite .*: field.layer0, field.layer1, .* and 2 more"):
        load_state(run_of(save_checkpoint(tmp_path / "models", pipeline=pipeline)))


def test_weights_that_are_not_tensors(tmp_path: Path) -> None:
    pipeline = pipeline_state() | {"_model.field.extra": "text"}
    with pytest.raises(InputError, match="other than tensors .*field.extra"):
        load_state(run_of(save_checkpoint(tmp_path / "models", pipeline=pipeline)))


@pytest.mark.skipif(not LEGO_HASH.is_dir(), reason=f"{LEGO_HASH} is not there")
def test_run_that_nerfstudio_trained() -> None:
    run = find_run(LEGO_HASH)
    state = load_state(run)
    assert run.step == 2750
    assert state["field.mlp_base.model.0.hash_table"].shape == (16 * 2**16, 2)
    assert not any(key.startswith(("_model", "lpips")) for key in state)
