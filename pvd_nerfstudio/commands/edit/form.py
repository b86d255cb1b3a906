"""An edit as the panel shows it: flat numbers by name, made of an entry of the file, and an entry made of them."""

from typing import Any

from pvd_nerfstudio.edits.kinds import EDITS

Entry = dict[str, Any]
EVERYTHING, IN_FILE = "everything", "as in the file"
"""In place of a region: none, which only an insert may say; and one that has no handles, such as a union."""
OF_REGION = {
    "box": {"center": "center", "rotation": "rotation", "scale": "size", "edge": "edge"},
    "sphere": {"center": "center", "radius": "radius", "edge": "edge"},
    "halfspace": {"point": "center", "normal": "normal", "edge": "edge"},
    EVERYTHING: {},
    IN_FILE: {},
}
"""What the file's numbers of a region are called here."""
OF_KIND: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(EDITS, ()),
    **dict.fromkeys(("move", "copy"), ("translation", "turn", "grow")),
    "insert": ("run", "translation", "turn", "grow"),
    "thin": ("factor",),
    "thicken": ("factor",),
    "recolor": ("mixes", "hue", "saturation", "brightness", "color", "strength"),
}
"""What an edit of each kind has beside its region."""
IN_FILES_WORDS = {"turn": "rotation", "grow": "scale"}
START: dict[str, Any] = {
    "kind": "erase",
    "region": "box",
    "outside": False,
    "center": [0.0, 0.0, 0.0],
    "rotation": [0.0, 0.0, 0.0],
    "size": [0.5, 0.5, 0.5],
    "normal": [0.0, 0.0, 1.0],
    "radius": 0.3,
    "edge": 0.0,
    "translation": [0.0, 0.0, 0.0],
    "turn": [0.0, 0.0, 0.0],
    "grow": 1.0,
    "factor": 0.5,
    "mixes": False,
    "hue": 0.0,
    "saturation": 1.0,
    "brightness": 1.0,
    "color": [0.9, 0.2, 0.1],
    "strength": 1.0,
    "run": "",
}
"""What everything is before it is said."""


def shown_by(form: dict[str, Any]) -> set[str]:
    """Names of what matters for an edit."""
    names = {"kind", "region", "outside", *OF_REGION[form["region"]].values(), *OF_KIND[form["kind"]]}
    if form["kind"] == "recolor":
        names -= {"hue", "saturation", "brightness"} if form["mixes"] else {"color"}
    return names


def form_of(entry: Entry) -> dict[str, Any]:
    """The numbers of an entry of the file."""
    form = {**START, "kind": entry["kind"]}
    region = entry.get("region", {"kind": EVERYTHING})
    form["outside"] = region["kind"] == "complement"
    region = region["of"] if form["outside"] else region
    form["region"] = region["kind"] if region["kind"] in OF_REGION else IN_FILE
    form |= {name: region[word] for word, name in OF_REGION[form["region"]].items() if word in region}
    form["mixes"] = "color" in entry
    words = {name: IN_FILES_WORDS.get(name, name) for name in OF_KIND[form["kind"]]}
    return form | {name: entry[word] for name, word in words.items() if word in entry}


def entry_of(form: dict[str, Any], before: Entry) -> Entry:
    """The entry that a form says.

    Args:
        form: what is shown.
        before: the entry that it was made of: what has no place in a form, such as a pivot, stays.
    """
    shown = shown_by(form)
    kept = {"pivot": before["pivot"]} if "pivot" in before and form["kind"] in ("move", "copy", "insert") else {}
    entry: Entry = {"kind": form["kind"], **kept}
    if form["region"] != EVERYTHING:
        words = OF_REGION[form["region"]].items()
        region = {"kind": form["region"]} | {word: form[name] for word, name in words if form[name] != _unsaid(name)}
        if form["region"] == IN_FILE:
            region = before.get("region", {"kind": IN_FILE})
            region = region["of"] if region["kind"] == "complement" else region
        entry["region"] = {"kind": "complement", "of": region} if form["outside"] else region
    values = {name: form[name] for name in OF_KIND[form["kind"]] if name in shown and name != "mixes"}
    values = {name: value for name, value in values.items() if value != _unsaid(name)}
    return entry | {IN_FILES_WORDS.get(name, name): value for name, value in values.items()}


def _unsaid(name: str) -> Any:
    """What a file need not say."""
    defaults = ("edge", "rotation", "translation", "turn", "grow", "hue", "saturation", "brightness", "strength")
    return START[name] if name in defaults else None
