"""Edits of an analytic volume, a ball of known density and colour, have closed forms."""

import json
import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from pvd_nerfstudio.edits.file import parse
from pvd_nerfstudio.edits.kinds import any_changes, box_of
from pvd_nerfstudio.edits.place import Matter, Places
from pvd_nerfstudio.errors import InputError

BALL = {"kind": "sphere", "center": [0.5, 0, 0], "radius": 0.3}
ALL = {"kind": "halfspace", "point": [0, 0, -1e5], "normal": [0, 0, 1]}
BEHIND = {"kind": "halfspace", "point": [0, 0, 0], "normal": [-1, 0, 0]}


def edits_of(*entries: dict[str, Any]):
    return parse(json.dumps({"version": 1, "edits": entries}), "edits")


def ball(places: Places) -> Matter:
    """Density 5 in a ball about (0.5, 0, 0); its colour is the direction it is seen from, its feature the place."""
    inside = (places.positions - torch.tensor([0.5, 0.0, 0.0])).norm(dim=-1, keepdim=True) < 0.25
    return Matter(5.0 * inside, (places.directions + 1) / 2, places.positions.clone())


def places_at(positions: Tensor, directions: Tensor | None = None) -> Places:
    if directions is None:
        directions = torch.tensor([0.0, 0.0, 1.0]).expand_as(positions)
    zero = torch.zeros_like(positions[:, :1])
    return Places(positions, positions, directions, zero, zero, zero)


def edited(places: Places, *entries: dict[str, Any], other: Any = None) -> Matter:
    ask = ball
    for edit in edits_of(*entries):
        able = edit.into(other) if edit.kind == "insert" else edit
        ask = partial(able.answer, ask)
    return ask(places)


def random_places(count: int = 4000) -> Places:
    return places_at(torch.rand(count, 3) * 3 - 1.5, torch.nn.functional.normalize(torch.randn(count, 3), dim=-1))


def test_erased_is_empty_and_all_else_as_it_was() -> None:
    places = random_places()
    plain, left = ball(places), edited(places, {"kind": "erase", "region": BEHIND})
    behind = places.positions[:, 0] <= 0
    assert torch.equal(left.density[~behind], plain.density[~behind]) and not left.density[behind].any()
    assert torch.equal(left.rgb, plain.rgb)


def test_keep_is_to_erase_the_complement() -> None:
    places = random_places()
    kept = edited(places, {"kind": "keep", "region": BALL})
    erased = edited(places, {"kind": "erase", "region": {"kind": "complement", "of": BALL}})
    assert torch.equal(kept.density, erased.density) and kept.density.any()


def test_a_half_space_is_on_the_side_that_its_normal_points_to() -> None:
    places = places_at(torch.tensor([[0.5, 0.0, 0.0], [0.4, 0.0, 0.0]]))
    kept = edited(places, {"kind": "keep", "region": {"kind": "halfspace", "point": [0.45, 0, 0], "normal": [9, 0, 0]}})
    assert kept.density.flatten().tolist() == [5, 0]


def test_a_soft_edge_lies_half_within_and_half_outside() -> None:
    distances = torch.tensor([-0.06, -0.05, -0.025, 0.0, 0.025, 0.05, 0.06])
    for region, positions in (
        ({"kind": "sphere", "center": [0, 0, 0], "radius": 0.3, "edge": 0.1}, [[0.3 + d, 0, 0] for d in distances]),
        ({"kind": "box", "center": [0, 0, 0], "scale": [0.6, 9, 9], "edge": 0.1}, [[0.3 + d, 1, 2] for d in distances]),
        (
            {"kind": "halfspace", "point": [0.3, 0, 0], "normal": [-2, 0, 0], "edge": 0.1},
            [[0.3 + d, 5, 5] for d in distances],
        ),
    ):
        (edit,) = edits_of({"kind": "erase", "region": region})
        share = edit.region.share(torch.tensor(positions))[:, 0]
        torch.testing.assert_close(share, torch.tensor([1, 1, 0.75, 0.5, 0.25, 0, 0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("far", [[], [BEHIND]], ids=["bounded", "endless"])
def test_a_union_has_of_a_place_what_most_of_its_regions_have(far: list[Any]) -> None:
    """Up to the faces of hard boxes and within soft edges, which reach beyond them."""
    boxes = [
        {"kind": "box", "center": [x, 0.3, 0.7], "scale": [0.5, 0.7, 0.4], "rotation": [0, 0.2, x], "edge": edge}
        for x, edge in ((-0.4, 0.0), (0.3, 0.2), (0.7, 0.0))
    ]
    upright = {"kind": "box", "center": [0.1, 0.7, -1.3], "scale": [0.2, 0.2, 0.2]}
    parts = [*boxes, upright, BALL, *far]
    corners = torch.cartesian_prod(*[torch.tensor([-0.1, 0.1])] * 3)
    positions = torch.cat([random_places().positions, torch.tensor([0.1, 0.7, -1.3]) + corners])
    whole, *each = (
        edits_of({"kind": "erase", "region": r})[0].region for r in ({"kind": "union", "of": parts}, *parts)
    )
    wanted = torch.stack([region.share(positions) for region in each]).amax(dim=0)
    assert torch.equal(whole.share(positions), wanted) and wanted.any()


def test_a_box_is_nerfstudios() -> None:
    from nerfstudio.data.scene_box import OrientedBox

    numbers = [0.1, -0.2, 0.3], [0.3, 0.5, -0.9], [0.8, 1.4, 0.5]
    (edit,) = edits_of(
        {"kind": "erase", "region": dict(zip(("kind", "center", "rotation", "scale"), ("box", *numbers)))}
    )
    positions = torch.rand(5000, 3) * 3 - 1.5
    theirs = OrientedBox.from_params(*map(tuple, numbers)).within(positions.double())
    assert torch.equal(edit.region.share(positions)[:, 0] > 0, theirs) and theirs.any()
    low, high = edit.region.bounds
    assert ((positions[theirs] >= low) & (positions[theirs] <= high)).all()


def test_a_rigid_motion_is_seen_by_the_moved_camera() -> None:
    """What moves with everything, directions included, is seen as before by who moves along."""
    places, angles = random_places(), [0.2, -0.4, 0.7]
    entry = {"kind": "move", "region": ALL, "translation": [0.3, 0.1, -0.2], "rotation": angles, "pivot": [0, 0, 0]}
    motion = edits_of(entry)[0].motion
    moved = places_at(motion(places.positions), places.directions @ motion.rotation.T)
    plain, there = ball(places), edited(moved, entry)
    torch.testing.assert_close(there.density, plain.density)
    seen = plain.density[:, 0] > 0
    torch.testing.assert_close(there.rgb[seen], plain.rgb[seen], atol=1e-5, rtol=0)


def test_a_move_and_its_inverse_are_the_identity() -> None:
    places = random_places()
    forth = {"kind": "move", "region": BALL, "translation": [-1.1, 0.1, 0.2], "rotation": [0, 0, 0.5], "scale": 1.5}
    there = {"kind": "sphere", "center": [-0.6, 0.1, 0.2], "radius": 0.45}
    back = {
        "kind": "move",
        "region": there,
        "translation": [1.1, -0.1, -0.2],
        "rotation": [0, 0, -0.5],
        "scale": 1 / 1.5,
    }
    plain, again = ball(places), edited(places, forth, back)
    torch.testing.assert_close(again.density, plain.density, atol=1e-4, rtol=1e-4)
    seen = plain.density[:, 0] > 0
    torch.testing.assert_close(again.rgb[seen], plain.rgb[seen], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ("move", "copy"))
def test_what_is_moved_is_gone_and_what_is_copied_stays(kind: str) -> None:
    places = places_at(torch.tensor([[0.5, 0.0, 0.0], [-0.5, 0.0, 0.0]]))
    there = edited(places, {"kind": kind, "region": BALL, "translation": [-1, 0, 0]})
    assert there.density.flatten().tolist() == ([0, 5] if kind == "move" else [5, 5])


def test_what_grows_stays_as_opaque_as_it_is() -> None:
    places = places_at(torch.tensor([[0.5, 0.4, 0.0]]))
    larger = edited(places, {"kind": "move", "region": BALL, "scale": 2})
    assert float(larger.density) == 2.5, "twice as long at half the density"


def test_what_is_turned_turns_about_its_own_middle() -> None:
    positions = torch.tensor([[0.5, 0.1, 0.0], [0.5, -0.1, 0.0]])
    there = edited(places_at(positions), {"kind": "move", "region": BALL, "rotation": [0, 0, math.pi / 2]})
    assert there.density.flatten().tolist() == [5, 5]


def test_overlapping_volumes_add_densities_and_mix_colours_by_density() -> None:
    def other(places: Places) -> Matter:
        return Matter(torch.full_like(places.starts, 15.0), torch.zeros_like(places.positions))

    places = places_at(torch.tensor([[0.5, 0.0, 0.0], [-0.5, 0.0, 0.0]]))
    both = edited(places, {"kind": "insert", "run": "x", "region": {**BALL, "edge": 0.0}}, other=other)
    assert both.density.flatten().tolist() == [20, 0], "the other's region lies about one of the two"
    torch.testing.assert_close(both.rgb[0], ball(places).rgb[0] / 4)


def test_the_order_matters() -> None:
    places = places_at(torch.tensor([[0.5, 0.0, 0.0], [-0.5, 0.0, 0.0]]))
    copy = {"kind": "copy", "region": BALL, "translation": [-1, 0, 0]}
    erase = {"kind": "erase", "region": BALL}
    assert edited(places, copy, erase).density.flatten().tolist() == [0, 5]
    assert edited(places, erase, copy).density.flatten().tolist() == [0, 0]


def test_thin_and_thick() -> None:
    places = places_at(torch.tensor([[0.5, 0.0, 0.0]]))
    assert float(edited(places, {"kind": "thin", "region": BALL, "factor": 0.5}).density) == 2.5
    assert float(edited(places, {"kind": "thicken", "region": BALL, "factor": 3}).density) == 15


def test_colours() -> None:
    places = places_at(torch.tensor([[0.5, 0.0, 0.0], [-0.5, 0.0, 0.0]]))
    plain = ball(places).rgb

    def color(**numbers: Any) -> Tensor:
        rgb = edited(places, {"kind": "recolor", "region": BALL, **numbers}).rgb
        assert torch.equal(rgb[1], plain[1]), "outside nothing changes"
        return rgb[0]

    torch.testing.assert_close(
        color(color=[1, 0, 0], strength=0.25), 0.75 * plain[0] + 0.25 * torch.tensor([1.0, 0, 0])
    )
    torch.testing.assert_close(color(hue=120), plain[0].roll(1), msg="red becomes green")
    torch.testing.assert_close(color(brightness=0.5), plain[0] / 2)
    grey = color(saturation=0)
    torch.testing.assert_close(grey, grey.mean().expand(3))


def test_features_are_left_out_where_their_meaning_has_changed() -> None:
    places = random_places()
    inside = (places.positions - torch.tensor([0.5, 0.0, 0.0])).norm(dim=-1) <= 0.3
    recolored = edited(places, {"kind": "recolor", "region": BALL, "hue": 90})
    assert torch.equal(recolored.feature.isnan().all(dim=-1), inside)
    assert not edited(places, {"kind": "erase", "region": BALL}).feature.isnan().any()


def test_changes_are_where_they_say() -> None:
    places, turn = random_places(), {"rotation": [0.1, 0.2, 0.3]}
    entries = [
        {"kind": "move", "region": BALL, "translation": [-1, 0, 0], **turn},
        {"kind": "copy", "region": BEHIND, "translation": [0.7, 0.3, 0]},
        {"kind": "recolor", "region": BALL, "hue": 100},
    ]
    plain, after = ball(places), edited(places, *entries)
    changed = ((plain.density - after.density).abs() + (plain.rgb - after.rgb).abs() * after.density).sum(dim=-1) > 1e-4
    said = any_changes(edits_of(*entries), places.positions)
    assert changed.any() and not (changed & ~said).any() and not said.all()


def test_the_box_is_around_what_is_brought() -> None:
    box = torch.tensor([[-1.0, -1, -1], [1, 1, 1]])
    moved = edits_of({"kind": "copy", "region": BEHIND, "translation": [3, 0, 0]})
    assert box_of(moved, box).tolist() == [[-1, -1, -1], [3, 1, 1]]
    erased = edits_of({"kind": "erase", "region": BALL})
    assert torch.equal(box_of(erased, box), box)
    inserted = edits_of({"kind": "insert", "run": "x", "region": BALL, "translation": [0, 5, 0]})
    assert box_of(inserted, box)[1].tolist() == pytest.approx([1, 5.3, 1])
    aside = {"kind": "sphere", "center": [9, 0, 0], "radius": 1}
    missed = edits_of({"kind": "copy", "region": aside, "translation": [9, 0, 0]})
    assert torch.equal(box_of(missed, box), box), "a region that holds nothing brings nothing"


def test_the_bounds_of_what_lies_in_two_regions() -> None:
    both = {
        "kind": "complement",
        "of": {"kind": "union", "of": [{"kind": "complement", "of": r} for r in (BALL, BEHIND)]},
    }
    (edit,) = edits_of({"kind": "erase", "region": both})
    assert edit.region.bounds.tolist() == edits_of({"kind": "erase", "region": BALL})[0].region.bounds.tolist()


def test_copies_of_copies_of_everything_are_refused() -> None:
    copies = [{"kind": "copy", "region": ALL, "translation": [0.1, 0, 0]}] * 30
    with pytest.raises(InputError, match="copies of copies"):
        edited(random_places(), *copies)


def test_what_has_been_moved_away_is_not_asked_for() -> None:
    asked: list[int] = []

    def counted(places: Places) -> Matter:
        asked.append(len(places))
        return ball(places)

    (move,) = edits_of({"kind": "move", "region": ALL, "translation": [0.2, 0, 0]})
    places = random_places()
    moved = move.answer(counted, places)
    assert asked == [len(places)], "of each place where it came from, and not what was there"
    assert torch.equal(
        moved.density, ball(replace(places, positions=places.positions - torch.tensor([0.2, 0, 0]))).density
    )


def test_moves_in_a_chain_ask_for_few_places_more() -> None:
    asked = 0

    def counting(places: Places) -> Matter:
        nonlocal asked
        asked += len(places)
        return ball(places)

    ask = counting
    for edit in edits_of(*[{"kind": "move", "region": BALL, "rotation": [0, 0, 0.1]}] * 10):
        ask = partial(edit.answer, ask)
    places = random_places()
    inside = int(((places.positions - torch.tensor([0.5, 0.0, 0.0])).norm(dim=-1) <= 0.3).sum())
    ask(places)
    assert asked <= len(places) + 1100 * inside
