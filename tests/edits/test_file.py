"""The file of edits is read strictly, and what is wrong with it is said with its line or its entry."""

import json
from pathlib import Path

import pytest

from pvd_nerfstudio.edits.file import as_text, parse, read_edits
from pvd_nerfstudio.edits.kinds import EDITS
from pvd_nerfstudio.edits.regions import REGIONS
from pvd_nerfstudio.edits.schema import schema
from pvd_nerfstudio.errors import InputError

BALL = '{"kind": "sphere", "center": [0, 0, 0.2], "radius": 1.2}'
ALL = f"""{{"version": 1, "edits": [
  {{"kind": "keep", "region": {BALL}}},
  {{"kind": "erase", "region": {{"kind": "box", "center": [0.4, 0, 0.5], "rotation": [0, 0, 0.3],
                                 "scale": [0.6, 0.3, 0.4], "edge": 0.02}}}},
  {{"kind": "move", "region": {{"kind": "halfspace", "point": [0, 0, 0], "normal": [1, 0, 0]}},
                    "translation": [0.5, 0, 0], "rotation": [0, 0, 1.57], "scale": 1.0}},
  {{"kind": "copy", "region": {BALL}, "pivot": [1, 2, 3], "scale": 2}},
  {{"kind": "recolor", "region": {{"kind": "complement", "of": {{"kind": "union", "of": [{BALL}]}}}},
                       "color": [0.9, 0.2, 0.1], "strength": 0.8}},
  {{"kind": "thin", "region": {BALL}, "factor": 0.5}}, {{"kind": "thicken", "region": {BALL}, "factor": 2}},
  {{"kind": "insert", "run": "outputs/scene/config.yml", "region": {BALL}, "translation": [1, 0, 0]}}]}}"""


def test_all_kinds_are_read_and_written_again() -> None:
    edits = parse(ALL, "edits", Path("/there"))
    assert [edit.kind for edit in edits] == ["keep", "erase", "move", "copy", "recolor", "thin", "thicken", "insert"]
    assert edits[-1].run == Path("/there/outputs/scene/config.yml"), "a relative path starts at the file"
    assert parse(as_text(edits), "again") == edits


def one(kind: str, region: str = BALL, more: str = "") -> str:
    entry = f'{{"kind": "{kind}", "region": {region}{more}}}'
    return f'{{"version": 1, "edits": [{{"kind": "erase", "region": {BALL}}},\n {entry}]}}'


WRONG = {
    "no JSON": ('{"version": 1,\n "edits": [,]}', "line 2, column 12"),
    "cut short": ('{"version": 1, "edits": [', "line 1"),
    "a list": ("[]", "a list of 0"),
    "no version": ('{"edits": []}', '"version" is missing'),
    "another version": ('{"version": 2, "edits": []}', "version: it is 2"),
    "true for a version": ('{"version": true, "edits": []}', "version: it is true"),
    "no list": ('{"version": 1, "edits": {}}', "edits: it is an object"),
    "an unknown key beside": ('{"version": 1, "edits": [], "edit": []}', '"edit" is unknown'),
    "an entry that is none": ('{"version": 1, "edits": [7]}', "edit 1: it is 7"),
    "no kind": ('{"version": 1, "edits": [{}]}', 'edit 1: "kind" is missing'),
    "an unknown kind": (one("delete"), 'edit 2: "kind" is "delete"'),
    "a kind that is a list": ('{"version": 1, "edits": [{"kind": []}]}', 'edit 1: "kind" is []'),
    "no region": ('{"version": 1, "edits": [{"kind": "erase"}]}', 'edit 1 (erase): "region" is missing'),
    "a region of another kind": (one("erase", '{"kind": "cube"}'), 'edit 2 (erase), region: "kind" is "cube"'),
    "an unknown key": (one("erase", BALL, ', "strenght": 1'), 'edit 2 (erase): "strenght" is unknown'),
    "an unknown key of a region": (
        one("erase", '{"kind": "sphere", "centre": [0, 0, 0], "radius": 1}'),
        'edit 2 (erase), region (sphere): "centre" is unknown',
    ),
    "two numbers": (one("move", BALL, ', "translation": [1, 2]'), "edit 2 (move), translation: it is a list of 2"),
    "a word for a number": (one("thin", BALL, ', "factor": "half"'), 'edit 2 (thin), factor: it is "half"'),
    "true for a number": (one("thin", BALL, ', "factor": true'), "edit 2 (thin), factor: it is true"),
    "no number": (one("move", BALL, ', "scale": NaN'), "edit 2 (move), scale: it is NaN"),
    "too large a number": (one("move", BALL, ', "scale": 1e999'), "edit 2 (move), scale: it is too large"),
    "a size of 0": (one("move", BALL, ', "scale": 0'), "edit 2 (move), scale: it is 0; it must be above 0"),
    "a factor that thickens": (one("thin", BALL, ', "factor": 2'), "edit 2 (thin), factor: it is 2"),
    "a colour of bytes": (one("recolor", BALL, ', "color": [255, 0, 0]'), "edit 2 (recolor), color: it is 255"),
    "a recolouring that does nothing": (one("recolor"), "edit 2 (recolor): it changes nothing"),
    "two ways at once": (one("recolor", BALL, ', "color": [1, 0, 0], "hue": 9'), "say either"),
    "a negative radius": (
        one("erase", '{"kind": "sphere", "center": [0, 0, 0], "radius": -1}'),
        "edit 2 (erase), region (sphere), radius: it is -1",
    ),
    "a normal without a direction": (
        one("keep", '{"kind": "halfspace", "point": [0, 0, 0], "normal": [0, 0, 0]}'),
        "normal is 0, 0, 0",
    ),
    "a union of nothing": (one("keep", '{"kind": "union", "of": []}'), "region (union): of is empty"),
    "a key twice": (one("erase", BALL, f', "region": {BALL}'), 'edit 2 (erase): "region" is said twice'),
    "regions without end": (
        one("keep", '{"kind": "complement", "of": ' * 40 + BALL + "}" * 40),
        "more than 16 deep",
    ),
    "lists without end": ("[" * 100_000, "without end"),
    "a run that is no path": (
        '{"version": 1, "edits": [{"kind": "insert", "run": 3}]}',
        "edit 1 (insert), run: it is 3",
    ),
    "too many regions": (one("keep", '{"kind": "union", "of": [' + ", ".join([BALL] * 1000) + "]}"), "1,002 regions"),
    "nobody's home": (
        '{"version": 1, "edits": [{"kind": "insert", "run": "~nobody-here/run"}]}',
        "edit 1 (insert), run: Could not determine home",
    ),
    "too many": (json.dumps({"version": 1, "edits": [{}] * 201}), "201 of them"),
    "more digits than are read": (one("thin", BALL, f', "factor": {"9" * 5000}'), "digits"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_with_its_place(name: str, tmp_path: Path) -> None:
    text, said = WRONG[name]
    path = tmp_path / "edits.json"
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        read_edits(path)
    assert said in str(refused.value) and "edits.json" in str(refused.value)


def test_what_is_no_file_of_text_is_refused(tmp_path: Path) -> None:
    for name, content in (("bytes", b"\xff\xfe\x00"), ("large", b" " * (1 << 21))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            read_edits(tmp_path / name)
    for missing in (tmp_path / "gone", tmp_path):
        with pytest.raises(InputError, match="no such file"):
            read_edits(missing)


def test_a_signature_of_windows_editors_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "edits.json").write_bytes(b"\xef\xbb\xbf" + ALL.encode())
    assert len(read_edits(tmp_path / "edits.json")) == 8


def test_the_schema_knows_what_is_read() -> None:
    """Every key that is read is in it with words and, where it has one, its range; and no other."""
    said = schema()
    json.dumps(said)
    kinds = said["properties"]["edits"]["items"]["oneOf"], said["$defs"]["region"]["oneOf"]
    for entries, known in zip(kinds, (EDITS, REGIONS)):
        assert {entry["properties"]["kind"]["const"] for entry in entries} == set(known)
        for entry in entries:
            assert all(value["description"] for name, value in entry["properties"].items() if name != "kind")
    thin = next(entry for entry in kinds[0] if entry["properties"]["kind"]["const"] == "thin")
    assert thin["required"] == ["kind", "region", "factor"]
    assert (thin["properties"]["factor"]["exclusiveMinimum"], thin["properties"]["factor"]["exclusiveMaximum"]) == (
        0,
        1,
    )
