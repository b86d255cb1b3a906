"""Runs as they lie about: of earlier releases, beside their checkpoint, of methods that are half installed."""

import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, distil_config
from helpers import change_state, refused, start
from nerfstudio.data.dataparsers.base_dataparser import Semantics
from nerfstudio.data.dataparsers.blender_dataparser import Blender
from teachers import config_of, make

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.tiny_cuda_nn import Perceptron

TABLE, NETWORK, BOTH = "_model.field.mlp_base_grid.", "_model.field.mlp_base_mlp.", "_model.field.mlp_base."


def without(text: str, name: str) -> str:
    """A config.yml without a field and what is indented below it."""
    return re.sub(rf"^( +){name}:.*\n(?:\1 .*\n)*", "", text, flags=re.MULTILINE)


def old(run: Path, folder: Path, change: Any, *fields: str) -> Path:
    """A copy of a run as an earlier release would have saved it."""

    def without_cameras(state: dict) -> None:
        change(state)
        for name in [name for name in state if "camera_optimizer" in name]:
            del state[name]

    shutil.copytree(run, folder)
    text = (folder / "config.yml").read_text()
    for name in ("camera_optimizer", "use_appearance_embedding", "average_init_density", *fields):
        text = without(text, name)
    (folder / "config.yml").write_text(text)
    change_state(folder, without_cameras)
    return folder


def answers(run: Path) -> Any:
    directions = torch.nn.functional.normalize(torch.ones(50, 3), dim=-1)
    positions = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    return FrozenTeacher(find_run(run), "cpu").query_points(positions, directions, 0.05)


def same(one: Path, other: Path, density: float = 1.0) -> None:
    """Two runs of one field; the first releases had no factor before the density."""
    (new_density, new_color), (old_density, old_color) = answers(one), answers(other)
    torch.testing.assert_close(old_color, new_color, atol=1e-6, rtol=0)
    torch.testing.assert_close(old_density.exp() * density, new_density.exp())


def to_0_3_4(state: dict) -> None:
    """The table and the network in modules of their own, and a second time in a sequence."""
    for name in [name for name in state if name.startswith("_model.field.mlp_base.model.")]:
        number, _, rest = name.removeprefix("_model.field.mlp_base.model.").partition(".")
        value = state.pop(name)
        state[f"{(TABLE, NETWORK)[int(number)]}{rest}"] = state[f"{BOTH}{number}.{rest}"] = value


def test_nerfacto_of_0_3_4(families: Mapping[str, Path], tmp_path: Path) -> None:
    density = find_run(families["nerfacto"]).config.pipeline.model.average_init_density  # type: ignore[attr-defined]
    same(families["nerfacto"], old(families["nerfacto"], tmp_path / "run", to_0_3_4), density)


def test_nerfacto_of_0_3_4_by_tiny_cuda_nn(families: Mapping[str, Path], tmp_path: Path) -> None:
    def change(state: dict) -> None:
        params = state.pop(BOTH + "model.params")
        network, table = params[: 64 * 16 + 16 * 64], params[64 * 16 + 16 * 64 :]
        network.view(-1)[: 64 * 16].view(64, 16)[:, 8:] = 0  # four levels of two features, the rest is padding
        for owner, value in ((TABLE, table), (NETWORK, network), (f"{BOTH}0.", table), (f"{BOTH}1.", network)):
            state[f"{owner}tcnn_encoding.params"] = value

    same(families["nerfacto-tcnn"], old(families["nerfacto-tcnn"], tmp_path / "run", change), density=3.0)


def test_padding_that_was_an_input_is_refused(families: Mapping[str, Path], tmp_path: Path) -> None:
    def change(state: dict) -> None:
        params = state.pop(BOTH + "model.params")
        state[f"{TABLE}tcnn_encoding.params"], state[f"{NETWORK}tcnn_encoding.params"] = params[2048:], params[:2048]

    run = old(families["nerfacto-tcnn"], tmp_path / "run", change)
    with pytest.raises(InputError, match="8 features, no multiple of 16"):
        answers(run)


def test_nerfacto_of_0_1(families: Mapping[str, Path], tmp_path: Path) -> None:
    """tiny-cuda-nn's modules without nerfstudio's around them, and numbers that were not saved."""

    def change(state: dict) -> None:
        for name in [name for name in state if name.endswith("tcnn_encoding.params") and ".field." in name]:
            state[name.replace("tcnn_encoding.", "")] = state.pop(name)
        state[f"{BOTH}params"] = state.pop(f"{BOTH}model.params")
        proposal = "_model.proposal_networks.0."
        network = state.pop(f"{proposal}mlp_base.1.tcnn_encoding.params")
        state[f"{proposal}mlp_base.params"] = torch.cat(
            [network, state.pop(f"{proposal}encoding.tcnn_encoding.params")]
        )
        del state[f"{proposal}mlp_base.0.tcnn_encoding.params"]
        for name in ("max_res", "num_levels", "log2_hashmap_size"):
            del state[f"_model.field.{name}"]

    run = old(families["nerfacto-tcnn"], tmp_path / "run", change)
    text = (run / "config.yml").read_text()
    head, _, rest = text.partition("\n")
    (run / "config.yml").write_text(f"!!python/object:nerfstudio.configs.base_config.Config\n{rest}")
    assert "TrainerConfig" in head
    same(families["nerfacto-tcnn"], run, density=3.0)
    former: Any = FrozenTeacher(find_run(run), "cpu").model
    module = former.proposal_networks[0].mlp_base[1].tcnn_encoding
    first = Perceptron(16, module.n_output_dims, module.network_config).matrices(module.params)[0]
    assert not first[:, module.n_input_dims :].any(), "what was padded with zeros is padded with ones today"


@pytest.mark.parametrize("name", ["tensorf", "vanilla-nerf", "mipnerf", "instant-ngp-tcnn"])
def test_other_methods_without_todays_fields(name: str, families: Mapping[str, Path], tmp_path: Path) -> None:
    lacking = ("background_color", "use_gradient_scaling")
    same(families[name], old(families[name], tmp_path / "run", lambda state: None, *lacking))


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object:nerfstudio.engine.schedulers.SchedulerOfThen",
        "!!python/object:nerfstudio.engine.gone.SchedulerConfig",
        "!!python/object:a_method.optimizers.LionOptimizerConfig",
        "!!python/object/apply:nerfstudio.cameras.cameras.KindOfThen",
    ],
)
@pytest.mark.parametrize("field", ["optimizers", "logging", "viewer", "machine"])
def test_what_is_not_read_may_be_what_it_likes(tag: str, field: str, families, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(families["nerfacto"], run)
    text = without((run / "config.yml").read_text(), "never")
    text = re.sub(rf"^{field}:.*\n(?:[ -].*\n)*", "", text, flags=re.MULTILINE)
    (run / "config.yml").write_text(f"{text}{field}: {tag}\n" + ("- 1\n" if "apply" in tag else "  lr: 1.0\n"))
    assert find_run(run).config.method_name == "nerfacto"


def test_a_data_manager_that_is_not_installed(families: Mapping[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(families["nerfacto"], run)
    text = (run / "config.yml").read_text()
    kind = "nerfstudio.data.datamanagers.base_datamanager.VanillaDataManagerConfig"
    assert kind in text
    (run / "config.yml").write_text(text.replace(kind, "a_method.data.TheirDataManagerConfig"))
    assert FrozenTeacher(find_run(run), "cpu").has_density


def test_files_side_by_side(families: Mapping[str, Path], tmp_path: Path) -> None:
    """As people upload them: config.yml and the checkpoint in one folder."""
    found = find_run(families["nerfacto"])
    for path in (found.config_path, found.checkpoint_path):
        shutil.copy(path, tmp_path)
    for place in (tmp_path, tmp_path / "config.yml", tmp_path / found.checkpoint_path.name):
        assert find_run(place).checkpoint_path == tmp_path / found.checkpoint_path.name


@pytest.mark.parametrize("what", ["", "config.yml", "nerfstudio_models", "checkpoint"])
def test_a_run_is_gone_on_with_from_whatever_names_it(student: Run, teacher: Run, what: str, tmp_path: Path) -> None:
    place = next(student.checkpoints.iterdir()) if what == "checkpoint" else student.folder / what
    trainer = start(distil_config(tmp_path, "--load-dir", str(place), "--max-num-iterations", "61"))
    assert trainer._start_step == 60
    trainer.train()


def test_a_step_that_is_not_there_is_named_with_those_that_are(student: Run, tmp_path: Path, capsys) -> None:
    said = refused(tmp_path / "out", capsys, "--load-dir", str(student.folder), "--load-step", "7")
    assert "no checkpoint of step 7" in said and "it has 59" in said


def test_a_teacher_whose_density_is_no_number_says_where(teacher: Run, tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    shutil.copytree(teacher.folder, run)
    change_state(run, lambda state: state["_model.field.mlp_base.model.1.layers.1.bias"].fill_(200.0))
    said = refused(tmp_path / "out", capsys, "--teacher-checkpoint", str(run))
    assert "The density of the method 'nerfacto'" in said and "is inf at [" in said and "diverged" in said


def test_a_density_that_is_huge_is_bounded(teacher: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(teacher.folder, run)
    change_state(run, lambda state: state["_model.field.mlp_base.model.1.layers.1.bias"].add_(40.0))
    huge = FrozenTeacher(find_run(run), "cpu")
    assert float(huge.density(torch.zeros(5, 3), 0.01).max()) <= 1e10
    assert answers(run)[0].max() < 24


def test_what_a_dataparser_says_reaches_the_model(scene: Path, tmp_path: Path, monkeypatch) -> None:
    semantics = Semantics(filenames=[], classes=["a", "b"], colors=torch.zeros(2, 3), mask_classes=["a"])
    outputs = Blender._generate_dataparser_outputs

    def with_semantics(self: Any, split: str = "train") -> Any:
        found = outputs(self, split)
        found.metadata["semantics"] = semantics
        return found

    monkeypatch.setattr(Blender, "_generate_dataparser_outputs", with_semantics)
    sizes = {"log2_hashmap_size": 8, "max_res": 32, "num_levels": 4, "num_proposal_iterations": 1}
    args = [{"hidden_dim": 16, "log2_hashmap_size": 8, "num_levels": 3, "max_res": 16, "use_linear": False}]
    config = config_of("semantic-nerfw", scene, **sizes, proposal_net_args_list=args)
    run = make(config, tmp_path / "out", steps=0)
    assert FrozenTeacher(find_run(run), "cpu").has_density
    monkeypatch.setattr(Blender, "_generate_dataparser_outputs", outputs)
    with pytest.raises(InputError, match="semantics"):
        FrozenTeacher(find_run(run), "cpu")
    (run / "config.yml").write_text((run / "config.yml").read_text().replace(scene.name, "elsewhere"))
    with pytest.raises(InputError, match="what its dataparser says.*elsewhere.*--data"):
        FrozenTeacher(find_run(run), "cpu")


def test_a_dataparser_of_the_teachers_kind_keeps_its_options(
    teacher: Run, scene: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    taught = find_run(teacher.folder).config.pipeline.datamanager.dataparser  # type: ignore[attr-defined]
    usual = type(taught)().alpha_color
    given = ("--teacher-checkpoint", str(teacher.folder), "blender-data", "--data", str(scene))
    monkeypatch.setattr(sys, "argv", ["ns-train", *given])
    run = tmp_path / "run"
    shutil.copytree(teacher.folder, run)
    text = (run / "config.yml").read_text()
    (run / "config.yml").write_text(re.sub(r"alpha_color: \S+", "alpha_color: null", text))
    given = ("--teacher-checkpoint", str(run), "blender-data", "--data", str(scene))
    kept: Any = distil_config(tmp_path, *given)
    assert kept.pipeline.datamanager.dataparser.alpha_color is None
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["ns-train", *given, "--alpha-color", usual])
    typed: Any = distil_config(tmp_path, *given, "--alpha-color", usual)
    assert typed.pipeline.datamanager.dataparser.alpha_color == usual
    assert f"--alpha-color {usual} for the teacher's None" in " ".join(capsys.readouterr().out.split())


def test_a_background_that_is_not_the_teachers_is_named(teacher: Run, tmp_path: Path, capsys) -> None:
    theirs = find_run(teacher.folder).config.pipeline.model.background_color  # type: ignore[attr-defined]
    other = "black" if theirs == "white" else "white"
    options = ("--teacher-checkpoint", str(teacher.folder), "--pipeline.model.background-color", other)
    start(distil_config(tmp_path, *options, "--max-num-iterations", "1"))
    said = " ".join(capsys.readouterr().out.split())
    assert f"the student shows {other}" in said and "render-step-size" not in said and "broken" not in said


def test_how_large_the_teachers_images_were(teacher: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(teacher.folder, run)
    text = (run / "config.yml").read_text()
    assert "camera_res_scale_factor: 1.0" in text
    (run / "config.yml").write_text(text.replace("camera_res_scale_factor: 1.0", "camera_res_scale_factor: 0.5"))
    config: Any = distil_config(tmp_path, "--teacher-checkpoint", str(run))
    assert config.pipeline.datamanager.camera_res_scale_factor == 0.5
