"""Every family of teachers: loaded from a real run, its adapter says what the model itself computes."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import change_state
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.fields.base_field import Field
from teachers import FAMILIES, config_of

from pvd_nerfstudio.data.views import concatenate
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.rendering.occupancy import OccupancyGrid
from pvd_nerfstudio.rendering.space import Spacing
from pvd_nerfstudio.student.fields.mlp import MLPFieldConfig
from pvd_nerfstudio.teacher.adapters import GenericAdapter
from pvd_nerfstudio.teacher.capabilities import capabilities_table
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.teacher.samples import point_samples
from pvd_nerfstudio.teacher.targets import SharedSamples, render_teacher

FIELDS = [name for name in FAMILIES if name not in ("neus", "splatfacto")]
WITHOUT_CUDA = [name for name in FIELDS if not name.startswith("instant-ngp")]


@pytest.fixture()
def rays(scene: Path) -> RayBundle:
    return some_rays(scene)


def some_rays(scene: Path) -> RayBundle:
    parser = config_of("vanilla-nerf", scene).pipeline.datamanager.dataparser.setup()
    cameras = parser.get_dataparser_outputs("train").cameras
    return cameras[:1].generate_rays(camera_indices=0, keep_shape=True).flatten()[400:1200:40]


def flat(samples: RaySamples) -> RaySamples:
    """Samples of rays, `[rays, samples]`, in one list, with cones and camera indices of their own."""
    shape = samples.frustums.starts.shape[:2]

    def one_list(value: torch.Tensor) -> torch.Tensor:
        return value.expand(*shape, value.shape[-1]).reshape(-1, value.shape[-1])

    frustums = type(samples.frustums)(
        **{
            name: one_list(getattr(samples.frustums, name))
            for name in ("origins", "directions", "starts", "ends", "pixel_area")
        }
    )
    indices = torch.zeros(len(frustums.origins), 1, dtype=torch.long)
    return RaySamples(frustums=frustums, camera_indices=indices)


def captured(field: Field, render: Any) -> tuple[RaySamples, torch.Tensor, torch.Tensor]:
    """The last samples that a model gives to its field while it renders, and what the field makes of them."""
    calls: list[tuple[RaySamples, dict]] = []
    forward = field.forward

    def recorded(samples: RaySamples, *args: Any, **kwargs: Any) -> dict:
        kwargs.pop("mask", None)  # tensorf leaves out rays that meet nothing
        kwargs.pop("bg_color", None)
        calls.append((samples, forward(samples, *args, **kwargs)))
        return calls[-1][1]

    field.forward = recorded  # type: ignore[method-assign]
    try:
        render()
    finally:
        del field.forward
    samples, answer = calls[-1]
    return samples, answer[FieldHeadNames.DENSITY], answer[FieldHeadNames.RGB]


@pytest.mark.parametrize("name", WITHOUT_CUDA)
def test_adapter_says_what_the_teachers_own_rendering_uses(
    name: str, families: Mapping[str, Path], rays: RayBundle
) -> None:
    teacher = FrozenTeacher(find_run(families[name]), "cpu")
    assert teacher.renders_natively
    samples, density, rgb = captured(teacher._adapter.field, lambda: teacher.render_rays(rays))
    answer = teacher.query(flat(samples), chunk=100)
    assert density.max() > 0.1
    torch.testing.assert_close(answer.log_density.exp(), density.reshape(-1, 1).clamp_min(1e-10), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(answer.rgb, rgb.reshape(-1, 3), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["instant-ngp", "instant-ngp-bounded"])
def test_instant_ngp_answers_on_the_cpu_where_it_cannot_render(name: str, families: Mapping[str, Path]) -> None:
    teacher = FrozenTeacher(find_run(families[name]), "cpu")
    assert not teacher.renders_natively
    positions = torch.rand(200, 3) * 4 - 2
    samples = point_samples(positions, torch.nn.functional.normalize(torch.randn(200, 3), dim=-1))
    answer, own = teacher.query(samples), teacher._adapter.field(samples)
    torch.testing.assert_close(answer.log_density.exp(), own[FieldHeadNames.DENSITY].clamp_min(1e-10))
    torch.testing.assert_close(answer.rgb, own[FieldHeadNames.RGB])
    assert teacher.space.contracted == (name == "instant-ngp")


@pytest.mark.parametrize("name", FIELDS)
def test_density_for_the_grid_is_the_density_of_samples(name: str, families: Mapping[str, Path]) -> None:
    teacher = FrozenTeacher(find_run(families[name]), "cpu")
    positions = torch.rand(200, 3) * 1.6 - 0.8
    samples = point_samples(positions, torch.ones_like(positions))
    density = teacher.density(positions, 0.02)
    assert density.shape == (200, 1)
    if name != "mipnerf":
        torch.testing.assert_close(
            teacher.query(samples).log_density.exp(), density.clamp_min(1e-10), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("name", FIELDS)
def test_every_family_says_what_it_has(name: str, families: Mapping[str, Path]) -> None:
    teacher = FrozenTeacher(find_run(families[name]), "cpu")
    width = {"vanilla-nerf": 256, "mipnerf": 256, "tensorf": None, "tensorf-cp": None, "tensorf-triplane": None}
    assert teacher.has_density
    assert teacher.feature_dim == width.get(name, 15)
    expected = [[-1.5] * 3, [1.5] * 3]
    torch.testing.assert_close(teacher.aabb, torch.tensor(expected))


def copy_of(run: Path, folder: Path) -> Path:
    shutil.copytree(run, folder)
    return folder


def test_mipnerf_gets_its_cones(families: Mapping[str, Path], rays: RayBundle) -> None:
    teacher = FrozenTeacher(find_run(families["mipnerf"]), "cpu")
    shared = SharedSamples(OccupancyGrid(teacher.aabb, 8), 2.0, 6.0, Spacing(0.1))
    thin = render_teacher(teacher, shared, rays, shift=0.5)
    wide = render_teacher(teacher, shared, replace_area(rays, 100 * rays.pixel_area), shift=0.5)
    assert rays.pixel_area.min() > 0
    assert (thin.answer.log_density - wide.answer.log_density).abs().max() > 1e-3  # noqa: PLR2004


def replace_area(rays: RayBundle, area: torch.Tensor) -> RayBundle:
    return RayBundle(origins=rays.origins, directions=rays.directions, pixel_area=area)


def test_pairs_of_rays_keep_their_pixel_area(scene: Path) -> None:
    rays = some_rays(scene)
    torch.testing.assert_close(concatenate([rays[:3], rays[3:]]).pixel_area, rays.pixel_area)


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_of_a_missing_layer_are_refused(name: str, families: Mapping[str, Path], tmp_path: Path) -> None:
    run = copy_of(families[name], tmp_path / "run")

    def drop(state: dict) -> None:
        key = next(
            key for key in state if key.endswith(("weight", "features_dc")) and ("field" in key or "gauss" in key)
        )
        state["_model.field.strange"] = state.pop(key)

    change_state(run, drop)
    with pytest.raises(InputError, match="does not fit|'features_dc' is missing"):
        FrozenTeacher(find_run(run), "cpu")


def test_parameters_of_tiny_cuda_nn_that_do_not_fit_are_explained(families: Mapping[str, Path], tmp_path: Path) -> None:
    run = copy_of(families["nerfacto-tcnn"], tmp_path / "run")
    key = "_model.field.mlp_base.model.params"
    change_state(run, lambda state: state.update({key: state[key][:-7]}))
    with pytest.raises(InputError, match="field.mlp_base.model.params holds.*of the network 16 x 64 x 16.*hash grid"):
        FrozenTeacher(find_run(run), "cpu")


@pytest.mark.parametrize("name", ["nerfacto-tcnn", "instant-ngp-tcnn"])
def test_a_colour_head_of_tiny_cuda_nn_is_that_of_the_student(name: str, families: Mapping[str, Path]) -> None:
    """Its harmonics, its padding and the appearance that evaluation shows are in the weights that are handed over."""
    teacher = FrozenTeacher(find_run(families[name]), "cpu")
    student: Any = MLPFieldConfig(num_layers=2, hidden_dim=16).setup(aabb=teacher.aabb, contracted=False)
    head = teacher.color_head()
    assert head is not None
    student.color_head.load_state_dict(head)
    directions = torch.nn.functional.normalize(torch.randn(64, 3), dim=-1)
    answer = teacher.query(point_samples(torch.rand(64, 3) - 0.5, directions))
    torch.testing.assert_close(student.deep(answer.feature, directions), answer.rgb, atol=1e-5, rtol=1e-5)


def test_weights_of_torch_load_where_tiny_cuda_nn_is_installed(families: Mapping[str, Path], monkeypatch) -> None:
    monkeypatch.setattr("nerfstudio.field_components.encodings.TCNN_EXISTS", True)
    monkeypatch.setattr("nerfstudio.field_components.mlp.TCNN_EXISTS", True)
    teacher = FrozenTeacher(find_run(families["instant-ngp"]), "cpu")
    assert teacher.feature_dim == 15  # noqa: PLR2004


def test_scene_box_of_a_family_that_does_not_save_it(scene: Path, families: Mapping[str, Path], tmp_path: Path) -> None:
    run = copy_of(families["vanilla-nerf"], tmp_path / "run")
    text = (run / "config.yml").read_text()
    assert scene.name in text
    (run / "config.yml").write_text(text.replace(f"- {scene.name}\n", "- elsewhere\n"))
    with pytest.raises(InputError, match="scene box.*elsewhere.*--data"):
        FrozenTeacher(find_run(run), "cpu")
    assert FrozenTeacher(find_run(run), "cpu", scene).aabb.max() == 1.5  # noqa: PLR2004


def test_dynamic_teacher_is_refused(families: Mapping[str, Path]) -> None:
    run = find_run(families["vanilla-nerf"])
    run.config.pipeline.model.enable_temporal_distortion = True
    with pytest.raises(InputError, match="time"):
        FrozenTeacher(run, "cpu")


def test_a_family_without_an_adapter_is_asked_through_its_field(
    families: Mapping[str, Path], rays: RayBundle, monkeypatch
) -> None:
    known = FrozenTeacher(find_run(families["nerfacto"]), "cpu")
    monkeypatch.setattr("pvd_nerfstudio.teacher.adapters.ADAPTERS", {})
    generic = FrozenTeacher(find_run(families["nerfacto"]), "cpu")
    assert type(generic._adapter) is GenericAdapter
    assert generic.has_density and generic.feature_dim == 15  # noqa: PLR2004
    assert generic.space == known.space
    samples = point_samples(torch.rand(50, 3), torch.ones(50, 3))
    assert torch.equal(generic.query(samples).rgb, known.query(samples).rgb)
    torch.testing.assert_close(
        generic.density(samples.frustums.origins, 0.01), known.density(samples.frustums.origins, 0.01)
    )


@pytest.mark.parametrize(
    ("theirs", "ours", "wanted", "said"),
    [
        (15, 15, True, "yes"),
        (256, 15, True, "projection"),
        (15, 15, False, "feature-weight is 0"),
        (None, 15, True, "teacher has none"),
        (15, None, True, "student has none"),
    ],
)
def test_table_of_capabilities(theirs, ours, wanted, said) -> None:
    table = capabilities_table("nerfacto", "mlp", theirs, ours, has_density=True, wanted=["features"] if wanted else [])
    assert said in list(table.columns[2].cells)[0]
    assert [list(column.cells)[0] for column in table.columns][0] == "features"


def test_table_of_capabilities_without_a_field() -> None:
    table = capabilities_table("splatfacto", "mlp", None, 15, has_density=False, wanted=["pixels"])
    used = dict(zip(table.columns[0].cells, table.columns[2].cells))
    assert used["pixels"] == "yes"
    assert used["density"].startswith("no") and used["colour"].startswith("no")
