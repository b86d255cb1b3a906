"""Every number of every configuration of ours is refused outside its range, by the name that it is typed with."""

import copy
import dataclasses
import shutil
import typing
from collections.abc import Iterator
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from helpers import refused

from pvd_nerfstudio.commands.demo import Demo
from pvd_nerfstudio.commands.report.command import Report
from pvd_nerfstudio.commands.views import Views
from pvd_nerfstudio.data.llff import LLFFDataParserConfig
from pvd_nerfstudio.data.nsvf import NSVFDataParserConfig
from pvd_nerfstudio.data.poses import PosesConfig
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.ranges import Range, check_ranges, numbers
from pvd_nerfstudio.registry import pvd_distill

WHOLE = [
    pvd_distill.config,
    Demo(),
    Report(Path("x")),
    Views(Path("x")),
    LLFFDataParserConfig(),
    NSVFDataParserConfig(),
    PosesConfig(),
]
NOT_TYPED = {"loss_coefficients", "collider_params", "gradient_accumulation_steps"}
"""Dictionaries of nerfstudio's that no option sets."""


def is_number(hint: Any) -> bool:
    if typing.get_origin(hint) is typing.Literal:
        return any(isinstance(one, (int, float)) and not isinstance(one, bool) for one in typing.get_args(hint))
    return hint in (int, float) or any(is_number(one) for one in typing.get_args(hint))


def number_fields(config: Any) -> Iterator[str]:
    """Dotted names of the fields whose annotation has a number in it."""
    hints = typing.get_type_hints(type(config))
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        inner = {item.name: value} if not isinstance(value, dict) else flat(item.name, value)
        nested = {name: part for name, part in inner.items() if dataclasses.is_dataclass(part)}
        for name, part in nested.items():
            if not isinstance(part, type):
                yield from (f"{name}.{key}" for key in number_fields(part))
        if not nested and is_number(hints[item.name]) and item.name not in NOT_TYPED:
            yield item.name


def flat(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    return {key: part for inner, one in value.items() for key, part in flat(f"{name}.{inner}", one).items()}


def put(config: Any, name: str, value: Any) -> Any:
    """A copy with another value."""
    config = copy.deepcopy(config)
    *path, last = name.split(".")
    owner = config
    for part in path:
        owner = owner[part] if isinstance(owner, dict) else getattr(owner, part)
    setattr(owner, last, value)
    return config


@pytest.mark.parametrize("config", WHOLE, ids=lambda config: type(config).__name__)
def test_every_number_has_a_range(config: Any) -> None:
    assert set(number_fields(config)) - {name for name, _, _ in numbers(config)} == set()
    check_ranges(config)


@pytest.mark.parametrize("config", WHOLE, ids=lambda config: type(config).__name__)
def test_what_lies_outside_is_refused_and_what_lies_within_is_not(config: Any) -> None:
    for name, usual, allowed in numbers(config):
        is_tuple = isinstance(usual, tuple)
        step = 1 if isinstance(usual, int) else 1e-6 * max(1.0, abs(allowed.low), min(abs(allowed.high), 1e9))
        ends = [(allowed.low, -step), (allowed.high, step)]
        for end, outwards in ends:
            if abs(end) == inf:
                continue
            within, beyond = (end - outwards, end) if allowed.inside else (end, end + outwards)
            check_ranges(put(config, name, (within,) * 2 if is_tuple else within))
            for bad in (beyond, end + 1000 * outwards):
                if bad != allowed.also:
                    said = fails(put(config, name, (within, bad) if is_tuple else bad))
                    assert f"--{name}".replace("_", "-") in said and said.endswith(f"must be {allowed.words}.")
        if allowed.also is not None:
            check_ranges(put(config, name, allowed.also))
        for bad in (nan, inf, -inf, True, "1"):
            fails(put(config, name, (bad,) if is_tuple else bad))


def fails(config: Any) -> str:
    with pytest.raises(InputError) as error:
        check_ranges(config)
    return str(error.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--pipeline.distillation.refresh-every", "0"),
            "distillation.refresh-every is 0; it must be 1 or more, or -1.",
        ),
        (("--pipeline.distillation.points-per-step", "0"), "points-per-step is 0"),
        (("--pipeline.distillation.first-chunks", "0"), "first-chunks is 0"),
        (("--pipeline.distillation.color-weight", "-0.5"), "color-weight is -0.5; it must be 0 or more, or -1."),
        (("--pipeline.distillation.opacity-weight", "-0.5"), "opacity-weight is -0.5"),
        (("--pipeline.distillation.empty-share", "2"), "empty-share is 2.0; it must be between 0 and 1"),
        (("--pipeline.distillation.point-end", "1.5"), "point-end is 1.5"),
        (
            ("--pipeline.distillation.feature-end", "0.9", "--pipeline.distillation.feature-weight", "1"),
            "--pipeline.distillation.feature-end is 0.9, which is behind",
        ),
        (("--pipeline.model.grid-resolution", "1"), "--pipeline.model.grid-resolution is 1; it must be 2 or more."),
        (("--pipeline.occupancy-threshold", "1.5"), "--pipeline.occupancy-threshold is 1.5"),
        (
            ("--pipeline.model.render-step-size", "-0.1"),
            "model.render-step-size is -0.1; it must be above 0.",
        ),
        (("--pipeline.model.near-plane", "3", "--pipeline.model.far-plane", "2"), "raise --pipeline.model.far-plane"),
        (("--max-num-iterations", "-5"), "--max-num-iterations is -5; it must be 0 or more."),
        (("--pipeline.model.mlp.hidden-dim", "0"), "--pipeline.model.mlp.hidden-dim is 0; it must be 1 or more."),
        (("--optimizers.fields.optimizer.lr", "-1"), "--optimizers.fields.optimizer.lr is -1.0"),
        (("--pipeline.datamanager.camera-res-scale-factor", "0"), "camera-res-scale-factor is 0.0"),
        (("--machine.seed", "-1"), "--machine.seed is -1"),
    ],
)
def test_what_is_typed_is_refused_by_its_name(options, said: str, teacher: Run, tmp_path: Path, capsys) -> None:
    assert said in refused(tmp_path / "out", capsys, "--teacher-checkpoint", str(teacher.folder), *options)


def test_numbers_of_a_file_are_refused_with_the_file(student: Run, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "student"
    shutil.copytree(student.folder, folder)
    text = (folder / "config.yml").read_text()
    (folder / "config.yml").write_text(text.replace("refresh_every: 4", "refresh_every: 0"))
    said = refused(tmp_path / "out", capsys, "--load-dir", str(folder / "nerfstudio_models"))
    assert f"{folder / 'config.yml'}: --pipeline.distillation.refresh-every is 0" in said


def test_words_of_ranges() -> None:
    assert Range(1, also=-1).words == "1 or more, or -1" and Range(0, 1, inside=True).words.startswith(
        "between 0 and 1"
    )
