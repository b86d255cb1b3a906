"""A config.yml from a stranger is read as ns-train wrote it, or refused with file, line and field."""

import dataclasses
import importlib
import re
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.dataparsers.base_dataparser import DataParser
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.base_model import Model

from benchmarks.mutations import MARKER, TAGS, mutate_config
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.teacher.safe_yaml import load_config

NERFACTO = yaml.dump(all_methods["nerfacto"])
TENSORF = yaml.dump(all_methods["tensorf"])
OURS = (Path(__file__).parents[1] / "runs" / "vm" / "config.yml").read_text("utf8")
MODEL = "  model: !!python/object:nerfstudio.models.nerfacto.NerfactoModelConfig\n"


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        path = tmp_path / "config.yml"
        path.write_bytes(text.encode("utf8", "surrogatepass"))
        return path

    return write


def refused(path: Path) -> str:
    """Read it; it must be refused, soon, and leave no marker."""
    start = time.process_time()
    with pytest.raises(InputError) as error:
        load_config(path)
    assert time.process_time() - start < 5
    assert not (path.parent / MARKER).exists()
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("tag", TAGS, ids=lambda tag: tag[:60])
@pytest.mark.parametrize("place", ["\nmethod_name: ", "\nproject_name: ", "\n    near_plane: ", "\n    data: "])
def test_nothing_is_run_wherever_it_stands(tag: str, place: str, written: Callable[[str], Path]) -> None:
    before, _, after = NERFACTO.partition(place)
    path = written(f"{before}{place}{tag}\n{after.partition(chr(10))[2]}")
    try:
        assert isinstance(load_config(path), TrainerConfig)  # a tag of nerfstudio's own, where nothing is read
    except InputError:
        pass
    assert not (path.parent / MARKER).exists()


@pytest.mark.parametrize("name", ["setup", "__deepcopy__", "__post_init__", "__class__", "__dict__", "__reduce__"])
def test_methods_are_not_shadowed(name: str, written: Callable[[str], Path]) -> None:
    shadow = f"    {name}: !!python/name:nerfstudio.models.splatfacto.SplatfactoModel ''\n"
    model = load_config(written(NERFACTO.replace(MODEL, MODEL + shadow))).pipeline.model
    assert name not in vars(model) and model == all_methods["nerfacto"].pipeline.model
    assert type(model) is type(all_methods["nerfacto"].pipeline.model)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("near_plane: 0.05", "near_plane: text", "'NerfactoModelConfig.near_plane' is text, where float belongs"),
        ("near_plane: 0.05", "near_plane: .nan", "no number that can be used"),
        ("near_plane: 0.05", "near_plane: 1.0e+999", "'NerfactoModelConfig.near_plane' is"),
        ("num_levels: 16", "num_levels: 16.5", "'NerfactoModelConfig.num_levels' is 16.5, where int belongs"),
        ("num_levels: 16", "num_levels: " + "9" * 5000, "is no value"),
        ("num_levels: 16", "num_levels: 99999999999999999999", "no number that can be used"),
        ("num_levels: 16", "num_levels: true", "where int belongs"),
        ("background_color: last_sample", "background_color: pink", "Literal"),
        ("background_color: last_sample", "background_color: [1]", "background_color"),
        ("models.nerfacto.NerfactoModel ''", "data.dataparsers.blender_dataparser.Blender ''", "_target' is"),
        ("!!python/name:nerfstudio.models.nerfacto.NerfactoModel ''", "null", "_target' is"),
        ("!!python/name:nerfstudio.models.nerfacto.NerfactoModel ''", "[]", "_target' is"),
        (MODEL, "  model:\n", "'model' is map, where ModelConfig belongs"),
        (MODEL, "  model: !!python/object:nerfstudio.configs.base_config.MachineConfig\n", "where ModelConfig belongs"),
        ("\n    data: null", "\n    data: 1.5", "'data' is 1.5"),
        ("\n    data: null", "\n    data: [a, b]", "'data' is seq"),
        ("\nmethod_name: nerfacto", "\nmethod_name: [a]", "'method_name' is seq, where str belongs"),
        ("\nmethod_name: nerfacto", "", "'method_name' is missing"),
        ("\nmethod_name: nerfacto", "\nmethod_name: nerfacto\nmethod_name: x", "'method_name' is there twice"),
        ("\nmethod_name: nerfacto", "\nmethod_name: nerfacto\n<<: {a: b}", "is there twice, or no name|merge"),
    ],
)
def test_values_of_another_kind_are_named(old: str, new: str, message: str, written: Callable[[str], Path]) -> None:
    assert old in NERFACTO
    said = refused(written(NERFACTO.replace(old, new, 1)))

    assert re.search(message, said) and ("line " in said), said


OTHERS = {
    "pipeline": "nerfstudio.pipelines.base_pipeline.VanillaPipelineConfig",
    "datamanager": "nerfstudio.data.datamanagers.base_datamanager.VanillaDataManagerConfig",
    "model": "nerfstudio.models.nerfacto.NerfactoModelConfig",
    "machine": "nerfstudio.configs.base_config.ViewerConfig",
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_configuration_of_another_kind_is_no_part_of_a_run_of_ours(name: str, written: Callable[[str], Path]) -> None:
    config = yaml.load(OURS, Loader=yaml.Loader)
    module, _, other = OTHERS[name].rpartition(".")
    owner = config if name in ("pipeline", "machine") else config.pipeline
    setattr(owner, name, getattr(importlib.import_module(module), other)())
    assert f"{type(owner).__name__}.{name}' is" in refused(written(yaml.dump(config)))


def aliases(fan: int, levels: int, kind: str) -> str:
    """Anchors that refer to anchors."""
    parts = {
        "list": lambda name: "[" + ", ".join([f"*{name}"] * fan) + "]",
        "map": lambda name: "{" + ", ".join(f"k{number}: *{name}" for number in range(fan)) + "}",
        "tuple": lambda name: "!!python/tuple [" + ", ".join([f"*{name}"] * fan) + "]",
    }
    rows = ["a0: &a0 [x]"] + [f"a{number}: &a{number} {parts[kind](f'a{number - 1}')}" for number in range(1, levels)]
    return "\n".join(rows) + f"\nproject_name: *a{levels - 1}\n"


@pytest.mark.parametrize("kind", ["list", "map", "tuple"])
@pytest.mark.parametrize(("fan", "levels"), [(9, 9), (2, 60), (200, 4)])
def test_anchors_do_not_multiply(kind: str, fan: int, levels: int, written: Callable[[str], Path]) -> None:
    assert "beyond measure" in refused(written(NERFACTO + aliases(fan, levels, kind)))


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {k: *a}", "a: &a {<<: *a}", "a: &a [b, [c, *a]]"])
def test_anchors_that_contain_themselves(text: str, written: Callable[[str], Path]) -> None:
    assert "contains itself" in refused(written(f"{NERFACTO}{text}\n"))


@pytest.mark.parametrize("pair", [("[", "]"), ("{a: ", "}"), ("? ", ""), ("- ", ""), ("!!python/tuple [", "]")])
def test_nesting_has_an_end(pair: tuple[str, str], written: Callable[[str], Path]) -> None:
    for depth in (100, 5000):
        said = refused(written(f"{NERFACTO}a: {pair[0] * depth}x{pair[1] * depth}\n"))
        assert "beyond measure" in said or "not valid YAML" in said


def test_objects_are_not_made_by_the_thousand(written: Callable[[str], Path]) -> None:
    one = "!!python/object:nerfstudio.engine.trainer.TrainerConfig {}"
    many = f"near_plane: [{one}{f', {one}' * 3000}]"
    assert "more objects" in refused(written(NERFACTO.replace("near_plane: 0.05", many)))


def test_directives_are_not_followed(written: Callable[[str], Path]) -> None:
    assert "directives" in refused(written("%TAG !x! " + "y" * 100000 + "\n---\n" + NERFACTO))


def test_large_files_are_not_read(written: Callable[[str], Path]) -> None:
    assert "larger than" in refused(written(NERFACTO + "a: b\n" * 200000))


@pytest.mark.parametrize(
    "name", ["scripts.train.entrypoint", "scripts.downloads.download_data.main", "viewer.viewer.Viewer"]
)
def test_scripts_are_not_imported(name: str, written: Callable[[str], Path]) -> None:
    assert "nothing was executed" in refused(written(f"{NERFACTO}a: !!python/name:nerfstudio.{name} ''\n"))


def test_what_a_file_says_does_not_steer_the_terminal(written: Callable[[str], Path]) -> None:
    said = refused(written(NERFACTO.replace("near_plane: 0.05", 'near_plane: "\\e[31m\\e]0;x\\a\\u202e"')))
    assert "\x1b" not in said and "\u202e" not in said and "\\x1b[31m" in said


def test_a_teachers_trainer_is_not_read(written: Callable[[str], Path]) -> None:
    """Optimisers, viewers and what else a version of nerfstudio or a plugin has there do not matter."""
    text = NERFACTO.replace("steps_per_save: 2000", "steps_per_save: whatever").replace("optimizers:", "optimisers:", 1)
    assert load_config(written(text)).pipeline.model == all_methods["nerfacto"].pipeline.model


def holds(value: Any) -> bool:
    """Whether a configuration is made of what configurations are made of."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {item.name for item in dataclasses.fields(value)}
        return set(vars(value)) <= fields and all(holds(getattr(value, name)) for name in fields)
    if isinstance(value, (list, tuple)):
        return all(map(holds, value))
    if isinstance(value, dict):
        return all(map(holds, [*value, *value.values()]))
    return value is None or isinstance(value, (bool, int, float, str, Path, Enum, type)) or callable(value)


@pytest.mark.parametrize(
    "sound", [NERFACTO, yaml.dump(all_methods["tensorf"]), OURS], ids=["nerfacto", "tensorf", "ours"]
)
def test_changed_configs_are_refused_or_read(sound: str, written: Callable[[str], Path]) -> None:
    """A seeded walk: other values, tags, keys, lines, anchors, nesting and signs."""
    opened = 0
    for number in range(70):
        path = written(mutate_config(sound, Random(number)))
        try:
            config: Any = load_config(path)
        except InputError:
            continue
        opened += 1
        assert holds(config.pipeline.model) and issubclass(config.pipeline.model._target, Model)
        assert issubclass(config.pipeline.datamanager.dataparser._target, DataParser)
    assert 3 < opened < 67 and not Path(MARKER).exists()
