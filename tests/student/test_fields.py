"""The student fields: nerfstudio's own values, and what each of them must be able to learn from a teacher."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from nerfstudio.field_components.encodings import HashEncoding, TensorCPEncoding, TensorVMEncoding, TriplaneEncoding
from nerfstudio.field_components.spatial_distortions import SceneContraction
from torch import nn

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.hash_table import HashTable
from pvd_nerfstudio.student.fields.base import FieldConfig, StudentField
from pvd_nerfstudio.student.fields.growth import Moment, grow
from pvd_nerfstudio.student.fields.hash import HashFieldConfig
from pvd_nerfstudio.student.fields.hybrid import HybridFieldConfig
from pvd_nerfstudio.student.fields.interpolation import cell_corners
from pvd_nerfstudio.student.fields.low_rank import CPFieldConfig, LowRankFieldConfig, TriplaneFieldConfig, VMFieldConfig
from pvd_nerfstudio.student.fields.mlp import MLPFieldConfig
from pvd_nerfstudio.student.fields.sparse import EMPTY, SparseFieldConfig

AABB = torch.tensor([[-1.5, -1.0, -1.0], [1.5, 1.0, 2.0]])
RANKS = {"density_components": 3, "color_components": 5, "start_resolution": 6, "resolution": 12}
CONFIGS = {
    "mlp": MLPFieldConfig(num_layers=4, hidden_dim=32),
    "hash": HashFieldConfig(num_levels=4, log2_hashmap_size=10, max_res=64, implementation="torch"),
    "vm": VMFieldConfig(**RANKS),
    "cp": CPFieldConfig(**RANKS),
    "triplane": TriplaneFieldConfig(**RANKS),
    "sparse": SparseFieldConfig(resolution=16, subdivide_at=(0.3, 0.6), prune_at=(0.8,)),
}
HYBRIDS = [("hash", "vm"), ("mlp", "sparse"), ("cp", "triplane")]


def everywhere(unit: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(unit[:, 0], dtype=torch.bool)


def ball(unit: torch.Tensor) -> torch.Tensor:
    return (unit - 0.5).norm(dim=-1) < 0.3


def directions(count: int) -> torch.Tensor:
    return nn.functional.normalize(torch.randn(count, 3), dim=-1)


def build(name: str, contracted: bool = False, occupied=everywhere) -> StudentField:
    torch.manual_seed(0)
    field = CONFIGS[name].setup(aabb=AABB, contracted=contracted)
    grow(field, Moment(0.0, occupied))
    return field


def compose(parts: tuple[str, str]) -> StudentField:
    field = HybridFieldConfig(parts=parts).setup(aabb=AABB, contracted=False, parts=CONFIGS)
    grow(field, Moment(0.0, everywhere))
    return field


def test_one_look_up_gives_nerfstudios_values_and_gradients() -> None:
    """Also where coordinates times the hash's factors are beyond 32 bits."""
    sizes = {"num_levels": 5, "log2_hashmap_size": 10, "max_res": 4096, "implementation": "torch"}
    theirs, ours = HashEncoding(**sizes), HashTable(**sizes)
    ours.load_state_dict(theirs.state_dict())
    points = torch.rand(500, 3, generator=torch.Generator().manual_seed(0))
    points[0], points[1], points[2] = 0.0, 1.0, 0.5
    scaled = points[:, None] * ours.scalings[:, None]
    inside = (scaled != scaled.floor()).all(dim=-1).all(dim=-1)  # on a border of cells the slope has two values
    assert inside.sum() > 400
    places = [points.clone().requires_grad_() for _ in range(2)]
    for encoding, place in zip((theirs, ours), places):
        encoding(place).square().sum().backward()
    torch.testing.assert_close(ours(points), theirs(points), atol=1e-8, rtol=1e-5)
    torch.testing.assert_close(places[1].grad[inside], places[0].grad[inside], atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(ours.hash_table.grad, theirs.hash_table.grad, atol=1e-8, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "theirs"),
    [
        (VMFieldConfig(start_resolution=9, resolution=9), TensorVMEncoding(9, 4)),
        (CPFieldConfig(start_resolution=9, resolution=9), TensorCPEncoding(9, 4)),
        (TriplaneFieldConfig(start_resolution=9, resolution=9), TriplaneEncoding(9, 4, reduce="product")),
    ],
    ids=["vm", "cp", "triplane"],
)
def test_factors_have_nerfstudios_values_and_gradients(config: LowRankFieldConfig, theirs: nn.Module) -> None:
    ours = config.factors(4)
    ours.load_state_dict({name: value.permute(0, 2, 3, 1) for name, value in theirs.state_dict().items()})
    points = torch.rand(500, 3)
    points[0], points[1], points[2] = 0.0, 1.0, 0.5
    answers = ours(points), theirs(2 * points - 1)
    torch.testing.assert_close(*answers, atol=1e-7, rtol=1e-4)
    for answer in answers:
        answer.square().sum().backward()
    for name, parameter in theirs.named_parameters():
        learnt = dict(ours.named_parameters())[name].grad
        torch.testing.assert_close(learnt, parameter.grad.permute(0, 2, 3, 1), atol=1e-7, rtol=1e-3)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_linear_functions_are_interpolated_exactly(axes: int) -> None:
    unit, vertices = torch.rand(200, axes), 5
    unit[0], unit[1] = 0.0, 1.0
    number, weight = cell_corners(unit, vertices)
    place = torch.stack([number // vertices**k % vertices for k in reversed(range(axes))], dim=-1) / (vertices - 1)
    torch.testing.assert_close((place * weight[..., None]).sum(dim=1), unit, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(weight.sum(dim=1), torch.ones(200))


@pytest.mark.parametrize("field", [*CONFIGS, *HYBRIDS], ids=str)
def test_every_weight_learns_and_colours_stay_in_range(field: str | tuple[str, str]) -> None:
    student = build(field) if isinstance(field, str) else compose(field)
    log_density, feature = student.shallow(torch.rand(200, 3) * 2 - 1)
    rgb = student.deep(feature, directions(200))
    assert log_density.shape == (200, 1)
    assert rgb.min() >= 0 and rgb.max() <= 1
    (log_density.square().sum() + rgb.sum()).backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "sparse"])
def test_features_have_the_width_that_was_asked_for(name: str) -> None:
    assert build(name).shallow(torch.rand(9, 3))[1].shape == (9, CONFIGS[name].feature_dim)


def test_contracted_student_sees_the_space_that_nerfacto_sees() -> None:
    field = build("mlp", contracted=True)
    far = torch.tensor([[3.0, -8.0, 0.4], [40.0, 2.0, 900.0]])
    seen = []
    field.encode = lambda unit: seen.append(unit) or torch.zeros(len(unit), 16)
    field.shallow(far)
    torch.testing.assert_close(seen[0], (SceneContraction(order=float("inf"))(far) + 2) / 4)


@pytest.mark.parametrize("contracted", [False, True])
def test_the_way_back_from_the_unit_cube(contracted: bool) -> None:
    field = build("mlp", contracted)
    positions = AABB[0] + torch.rand(300, 3) * (AABB[1] - AABB[0]) * (5 if contracted else 1)
    seen = []
    field.encode = lambda unit: seen.append(unit) or torch.zeros(len(unit), 16)
    field.shallow(positions)
    torch.testing.assert_close(field.to_world(seen[0]), positions, atol=1e-3, rtol=1e-4)


def test_density_is_bounded() -> None:
    density = build("mlp").to_density(torch.tensor([[-50.0], [0.0], [50.0]]))
    assert torch.isfinite(density).all() and density[1] == 1.0
    assert density[2] == pytest.approx(torch.e**7, rel=1e-4)


@pytest.mark.parametrize("scale", [0.01, 1000.0])
@pytest.mark.parametrize("contracted", [False, True])
def test_a_scene_is_the_same_in_any_unit(contracted: bool, scale: float) -> None:
    """Opacities and colours; the bound of the density, too."""
    field = build("vm", contracted)
    positions, directions = torch.rand(200, 3) * 3 - 1.5, torch.nn.functional.normalize(torch.randn(200, 3), dim=-1)
    log_density, feature = field.shallow(positions)
    rgb, most = field.deep(feature, directions), field.to_density(torch.tensor(50.0))
    field.scale = scale
    field.aabb *= scale
    scaled, feature = field.shallow(scale * positions)
    torch.testing.assert_close(scaled.exp() * scale, log_density.exp(), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(field.deep(feature, directions), rgb, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(field.to_density(torch.tensor(50.0)) * scale, most)


def test_learning_rate_falls_with_the_width() -> None:
    assert MLPFieldConfig(hidden_dim=256).learning_rate < MLPFieldConfig(hidden_dim=128).learning_rate


def test_constant_factors_give_the_closed_form() -> None:
    field = build("vm")
    with torch.no_grad():
        for factor in field.parameters():
            factor.fill_(0.5)
        log_density, feature = field.shallow(torch.rand(20, 3))
    assert log_density.unique() == pytest.approx(3 * 3 * 0.25)  # directions, components, plane times line
    assert feature.unique() == pytest.approx(3 * 5 * 0.25 * 0.5)


# Growth


@pytest.mark.parametrize("name", ["vm", "cp", "triplane"])
def test_factors_grow_by_schedule_from_coarse_to_fine(name: str) -> None:
    config = CONFIGS[name]
    sizes = [config.resolution_at(progress) for progress in (0.0, *config.grow_at, 0.999)]
    assert sizes[0] == config.start_resolution and sizes[-1] == config.resolution
    assert sizes == sorted(sizes)


def test_growth_keeps_a_linear_factor_and_what_the_optimiser_remembers() -> None:
    field = build("vm")
    ramp = torch.linspace(0, 1, 6)
    with torch.no_grad():
        field.density_factors.line_coef.copy_(ramp[None, :, None, None].expand_as(field.density_factors.line_coef))
    optimizer = torch.optim.AdamW(field.parameters(), lr=0.0)
    field.shallow(torch.rand(100, 3))[0].sum().backward()
    optimizer.step()
    assert grow(field, Moment(0.9, everywhere, optimizer=optimizer))
    assert not grow(field, Moment(0.9, everywhere, optimizer=optimizer))
    line = field.density_factors.line_coef
    assert line.shape[1] == 12
    torch.testing.assert_close(line[0, :, 0, 0], torch.linspace(0, 1, 12))
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in held} == {id(parameter) for parameter in field.parameters()}
    assert optimizer.state[line]["exp_avg"].shape == line.shape
    assert optimizer.state[line]["exp_avg"].abs().sum() > 0 and optimizer.state[line]["step"] == 1
    field.shallow(torch.rand(100, 3))[0].sum().backward()
    optimizer.step()


def test_l1_empties_the_density_factors_alone() -> None:
    field = CONFIGS["vm"].setup(aabb=AABB, contracted=False)
    assert field.regularization(torch.Generator()) == {}
    field.density_l1 = 0.5
    loss = field.regularization(torch.Generator())["density_l1"]
    factors = [*field.density_factors.parameters()]
    assert loss.item() == pytest.approx(0.5 * float(torch.cat([f.detach().flatten() for f in factors]).abs().mean()))
    loss.backward()
    assert all(p.grad is None for p in field.color_factors.parameters())


# Sparse voxels


def fine_ball() -> StudentField:
    field = SparseFieldConfig(resolution=16, subdivide_at=(), prune_at=()).setup(aabb=AABB, contracted=False)
    grow(field, Moment(0.0, ball))
    return field


def test_voxels_are_stored_only_where_space_is_occupied() -> None:
    voxels = fine_ball().voxels
    assert len(voxels.table) == int(voxels.stored.sum()) + 1 < voxels.index.numel()
    inside, outside = torch.full((1, 3), 0.5), torch.full((1, 3), 0.05)
    assert voxels(inside)[0, 0] > 0 and voxels(outside).abs().sum() == 0


def test_nothing_is_learnt_where_nothing_is_stored() -> None:
    field = fine_ball()
    log_density, _ = field.shallow(AABB[0] + 0.1 + torch.rand(50, 3) * 0.1)
    assert (log_density == EMPTY).all()
    log_density.sum().backward()
    assert field.voxels.table.grad is None or field.voxels.table.grad[0].abs().sum() == 0


def test_subdivision_keeps_the_volume_and_what_the_optimiser_remembers() -> None:
    field = build("sparse")
    voxels = field.voxels
    torch.nn.init.normal_(voxels.table)
    with torch.no_grad():
        voxels.table[0] = 0.0
        voxels.table[:, 0] += 10.0 * (torch.arange(len(voxels.table)) > 0)
    optimizer = torch.optim.AdamW(field.parameters(), lr=0.0, weight_decay=0.0)
    field.encode(torch.rand(500, 3)).sum().backward()
    optimizer.step()
    points = torch.rand(300, 3)
    before = field.encode(points)
    assert grow(field, Moment(0.4, everywhere, optimizer=optimizer))
    assert voxels.index.shape == (9, 9, 9)
    torch.testing.assert_close(field.encode(points), before, atol=1e-4, rtol=1e-4)
    assert optimizer.state[voxels.table]["exp_avg"].shape == voxels.table.shape
    grow(field, Moment(0.7, everywhere, optimizer=optimizer))
    assert voxels.index.shape == (17, 17, 17)
    torch.testing.assert_close(field.encode(points), before, atol=1e-4, rtol=1e-4)


def test_voxels_without_density_are_pruned() -> None:
    field = build("sparse")
    voxels = field.voxels
    unit = torch.stack(torch.meshgrid(*[torch.linspace(0, 1, len(voxels.index))] * 3, indexing="ij"), dim=-1)
    with torch.no_grad():
        voxels.table[voxels.index[unit[..., 0] > 0.5].long(), 0] = 0.0
    for progress in (0.4, 0.7, 0.85):
        grow(field, Moment(progress, everywhere))
    assert voxels.stored[:9].all() and not voxels.stored[12:].any()
    assert len(voxels.table) == int(voxels.stored.sum()) + 1


def test_voxels_load_at_the_size_that_was_saved() -> None:
    saved = build("sparse", occupied=ball)
    grow(saved, Moment(0.85, ball))
    torch.nn.init.normal_(saved.voxels.table)
    loaded = CONFIGS["sparse"].setup(aabb=AABB, contracted=False)
    loaded.load_state_dict(saved.state_dict())
    points = torch.rand(200, 3)
    torch.testing.assert_close(loaded.encode(points), saved.encode(points))
    assert not grow(loaded, Moment(0.9, ball))


def test_a_packed_table_takes_a_quarter_and_shows_the_same(tmp_path: Path) -> None:
    """Its numbers are those that are saved, an opened run has them, and one that is learned on is whole again."""
    field = fine_ball()
    torch.nn.init.normal_(field.voxels.table)
    exact = field.voxels.table.detach().clone()
    torch.save(field.state_dict(), tmp_path / "whole")
    field.voxels.pack()
    torch.save(field.state_dict(), tmp_path / "packed")
    assert (tmp_path / "packed").stat().st_size < 0.3 * (tmp_path / "whole").stat().st_size
    opened = fine_ball()
    opened.load_state_dict(torch.load(tmp_path / "packed", weights_only=True))
    assert torch.equal(opened.voxels.table, field.voxels.table)
    scale = exact.abs().amax(dim=0)
    off = (exact - field.voxels.table).abs() / scale
    assert off[:, 0].max() < 1e-3 and off[:, 1:].max() < 0.01 and off[:, 1:].mean() < 0.004
    assert opened.state_dict().keys() == field.state_dict().keys()
    saved = torch.load(tmp_path / "packed", weights_only=True)
    for name, damaged in (
        ("others", saved["voxels.others"][:-9]),
        ("others", torch.zeros(50, dtype=torch.uint8)),
        ("largest", saved["voxels.largest"][:-1]),
        ("first", saved["voxels.first"][:-1]),
    ):
        with pytest.raises(ValueError, match="packed table"):
            fine_ball().load_state_dict({**saved, f"voxels.{name}": damaged})
    grow(opened, Moment(0.9, ball))
    assert "voxels.table" in opened.state_dict()


def test_factors_of_other_ranks_do_not_load() -> None:
    saved = build("vm").state_dict()
    other = VMFieldConfig(**RANKS | {"density_components": 4}).setup(aabb=AABB, contracted=False)
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.load_state_dict(saved)


def test_total_variation_is_zero_for_a_constant_volume() -> None:
    field = build("sparse")
    field.tv_weight = 1.0
    smooth = field.regularization(torch.Generator().manual_seed(0))["total_variation"]
    torch.nn.init.normal_(field.voxels.table)
    rough = field.regularization(torch.Generator().manual_seed(0))["total_variation"]
    assert smooth < 1e-3 < rough
    rough.backward()
    assert field.voxels.table.grad is not None and (field.voxels.table.grad[0] == 0).all()


def test_spherical_harmonics_of_degree_0_look_the_same_from_everywhere() -> None:
    config = SparseFieldConfig(resolution=8, subdivide_at=(), sh_degree=0)
    field = config.setup(aabb=AABB, contracted=False)
    grow(field, Moment(0.0, everywhere))
    torch.nn.init.normal_(field.voxels.table)
    feature = field.shallow(torch.zeros(1, 3))[1].expand(40, -1)
    assert feature.shape[1] == config.channels - 1 == 3
    assert field.deep(feature, directions(40)).std(dim=0).max() < 1e-6


def test_voxels_that_carry_no_weight_are_dropped_where_that_is_wanted() -> None:
    """In contracted space, or where the user says so: about what carries weight one cell stays."""
    kept = {}
    for name, contracted, least in (("box", False, None), ("contracted", True, None), ("said", False, 0.3)):
        config = SparseFieldConfig(resolution=32, subdivide_at=(0.3,), prune_weight=least)
        field = config.setup(aabb=AABB, contracted=contracted)
        grow(field, Moment(0.0, everywhere))

        def carried(cells: int) -> torch.Tensor:
            weights = torch.zeros(cells, cells, cells)
            weights[2, 2, 2], weights[-3, -3, -3] = 0.02, 0.5
            return weights

        grow(field, Moment(0.4, everywhere, carried=carried))
        kept[name] = field.voxels.stored.float().mean().item()
    # Of 16 cells along each side 3, and one more on either side, whose voxels meet them.
    assert kept["box"] == 1.0
    assert kept["said"] == pytest.approx((11 / 33) ** 3, abs=0.01)
    assert kept["contracted"] == pytest.approx(2 * kept["said"], abs=0.01)


@pytest.mark.parametrize("name", ["vm", "cp", "triplane", "sparse"])
def test_growing_is_a_function_of_progress_alone(name: str) -> None:
    """Whether a run was resumed on the way makes no difference."""
    straight, resumed = build(name, occupied=ball), build(name, occupied=ball)
    for progress in (0.05, 0.3, 0.5, 0.65, 0.9):
        grow(straight, Moment(progress, ball))
        grow(resumed, Moment(progress, ball))
        fresh = CONFIGS[name].setup(aabb=AABB, contracted=False)
        fresh.load_state_dict(resumed.state_dict())
        resumed = fresh
    theirs = resumed.state_dict()
    for key, value in straight.state_dict().items():
        if isinstance(value, dict):
            assert torch.equal(value.pop("stored"), theirs[key].pop("stored")) and value == theirs[key]
        else:
            assert torch.equal(value, theirs[key]), key


@pytest.mark.parametrize("name", ["vm", "cp", "triplane", "sparse"])
def test_a_run_that_is_made_longer_does_not_shrink(name: str) -> None:
    field = build(name, occupied=ball)
    grow(field, Moment(0.9, ball))
    before = {key: value for key, value in field.named_parameters()}
    assert not grow(field, Moment(0.1, ball))
    assert all(value is before[key] for key, value in field.named_parameters())


def test_coarse_voxels_miss_nothing_of_a_finer_occupancy_grid() -> None:
    def speck(unit: torch.Tensor) -> torch.Tensor:
        return ((unit > 0.52) & (unit < 0.54)).all(dim=-1)

    config = SparseFieldConfig(resolution=8, subdivide_at=(), prune_at=())
    field = config.setup(aabb=AABB, contracted=False)
    grow(field, Moment(0.0, speck, cells=64))
    assert field.voxels.stored[4:6, 4:6, 4:6].all() and int(field.voxels.stored.sum()) == 8


def test_voxels_start_from_the_teacher_and_the_optimiser_forgets_what_was_there() -> None:
    def teacher(unit: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 3 * unit[:, :1], unit

    field = build("sparse")
    optimizer = torch.optim.AdamW(field.parameters(), lr=0.0)
    field.encode(torch.rand(500, 3)).sum().backward()
    optimizer.step()
    grow(field, Moment(0.4, everywhere, optimizer=optimizer, teacher=teacher))
    corners = torch.rand(50, 3).mul(8).round() / 8
    values = field.encode(corners)
    torch.testing.assert_close(values[:, :1], 3 * corners[:, :1], atol=1e-4, rtol=1e-4)
    rgb = field.deep(values[:, 1:], directions(50))
    torch.testing.assert_close(rgb, corners.clamp(0.01, 0.99), atol=1e-4, rtol=1e-4)
    remembered = optimizer.state[field.voxels.table]["exp_avg"].abs().sum(dim=0)
    assert (remembered[[0, 1, 10, 19]] == 0).all() and remembered[2] > 0


def test_pruning_never_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    field = build("sparse")
    with torch.no_grad():
        field.voxels.table.zero_()
    grow(field, Moment(0.9, everywhere))
    assert len(field.voxels.table) > 1 and "all are kept" in capsys.readouterr().out


# Sizes


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (SparseFieldConfig(resolution=250), "--pipeline.model.x.resolution is 250, which cannot be halved 2 times"),
        (VMFieldConfig(resolution=100), "start with a resolution of 128.* --pipeline.model.x.start-resolution"),
        (HashFieldConfig(base_res=64, max_res=32), "--pipeline.model.x.base-res is 64"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(config: FieldConfig, said: str) -> None:
    with pytest.raises(InputError, match=said):
        config.check("--pipeline.model.x")


def test_whole_numbers_of_another_packages_student_are_positive() -> None:
    @dataclass
    class WavesConfig(MLPFieldConfig):
        waves: int = 3

    WavesConfig().check("--pipeline.model.waves")
    with pytest.raises(InputError, match="--pipeline.model.waves.waves is 0; it must be 1 or more."):
        WavesConfig(waves=0).check("--pipeline.model.waves")


@pytest.mark.parametrize("layers", [1, 2, 3, 8])
def test_networks_of_any_depth_learn(layers: int) -> None:
    field = MLPFieldConfig(num_layers=layers, hidden_dim=16).setup(aabb=AABB, contracted=False)
    field.encode(torch.rand(5, 3)).sum().backward()
    assert all(parameter.grad is not None for parameter in field.trunk.parameters())


def test_sizes_are_estimated_before_anything_is_allocated() -> None:
    field = VMFieldConfig(start_resolution=300).setup(aabb=AABB, contracted=False)
    table = sum(p.numel() for p in [*field.density_factors.parameters(), *field.color_factors.parameters()])
    assert VMFieldConfig().num_parameters == table
    assert VMFieldConfig().training_bytes == 20 * table
    assert HashFieldConfig().num_parameters == 14 * 2 * 2**19


def test_a_scene_that_fills_more_voxels_than_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvd_nerfstudio.student.memory._memory", lambda device: 10**6)
    field = CONFIGS["sparse"].setup(aabb=AABB, contracted=False)
    with pytest.raises(InputError, match="4,913 vertices"):
        grow(field, Moment(0.0, everywhere))


def test_a_composition_is_no_part_of_another() -> None:
    with pytest.raises(InputError, match="cannot be a part"):
        HybridFieldConfig().encoder()
