"""What `ns-train pvd-distill --help` says."""

import re

import pytest
import tyro
from conftest import SMALL
from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion

from pvd_nerfstudio.student.registry import BUILT_IN


@pytest.fixture(scope="module")
def told() -> str:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        said: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: said.extend(map(str, words)))
        patch.setenv("COLUMNS", "100")
        tyro.cli(AnnotatedBaseConfigUnion, args=["pvd-distill", "--help"])
    return " ".join(re.sub("[│╭╰─╯╮]", " ", "\n".join(said)).split())


def test_the_two_options_that_matter_come_first(told: str) -> None:
    options = re.findall(r" (--[a-z][a-z.-]+)", told)
    assert options[:3] == ["--help", "--teacher-checkpoint", "--student"]


def test_defaults_are_what_is_done(told: str) -> None:
    of_ours = told[told.index("--pipeline.distillation.feature-end") :]
    assert not re.search(r"default: -1", of_ours)
    assert "(default: 0.1; pvd: 1)" in told and "or what suits the student; pvd: 4096" in told
    assert re.search(r"--max-num-iterations INT .{0,120}default: mlp: 30,000; hash, vm.{0,60}: 20,000", told)
    assert re.search(r"--optimizers.fields.optimizer.lr FLOAT The learning rate. \(default: mlp: 0.0039", told)


def test_what_means_nothing_here_is_not_offered(told: str) -> None:
    hidden = (
        "--pipeline.datamanager.patch-size",
        "--pipeline.datamanager.pixel-sampler",
        "--pipeline.datamanager.train-num-images-to-sample-from",
        "--pipeline.model.enable-collider",
        "--pipeline.model.loss-coefficients",
        "--pipeline.steps",
        "--prompt",
    )
    assert not any(name in told for name in hidden)
    assert "--pipeline.datamanager.pseudo-views" in told and "--pipeline.model.grid-resolution" in told


def test_a_printed_config_has_the_student_that_is_used_alone() -> None:
    config = tyro.cli(AnnotatedBaseConfigUnion, args=["pvd-distill", *SMALL])
    model = config.pipeline.model
    for student in ("vm", "hybrid"):
        model.student = student
        shown = {name for name in BUILT_IN if re.search(rf"^ *{name}: ", str(config), re.MULTILINE)}
        assert shown == {student, *model.chosen.composed_of}
    assert vars(model).keys() >= set(BUILT_IN)
