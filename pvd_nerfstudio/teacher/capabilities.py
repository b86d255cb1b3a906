"""One table at the start of a conversion: what the teacher has and what of it the student uses."""

from collections.abc import Collection

from rich.table import Column, Table
from rich.text import Text

from pvd_nerfstudio.input.text import plain


def capabilities_table(
    teacher: str,
    student: str,
    teacher_feature_dim: int | None,
    student_feature_dim: int | None,
    has_density: bool,
    wanted: Collection[str],
) -> Table:
    """What the teacher has, what the student uses, and why it leaves out the rest.

    Args:
        teacher: name of the teacher's method.
        student: name of the student's architecture.
        teacher_feature_dim: width of the teacher's feature vector; None: it has none.
        student_feature_dim: width of the student's; None: it has none.
        has_density: whether density and colour can be queried at points; otherwise there are only pixels.
        wanted: the rows (features, density, colour, pixels) whose losses have a weight.
    """
    table = Table("", Column(Text(f"{plain(teacher)} has")), f"{student} uses")
    features = "-" if teacher_feature_dim is None else f"{teacher_feature_dim} channels"
    table.add_row("features", features, _features(teacher_feature_dim, student_feature_dim, "features" in wanted))
    for name in ("density", "colour"):
        if has_density:
            table.add_row(name, "at any point", "yes" if name in wanted else "no: its loss has no weight")
        else:
            table.add_row(name, "-", "no: the teacher has no field that answers at points")
    pixels = "yes" if "pixels" in wanted or not has_density else "no: its loss has no weight"
    table.add_row("pixels", "colour, opacity" if has_density else "colour, opacity, depth", pixels)
    return table


def _features(theirs: int | None, ours: int | None, wanted: bool) -> str:
    if theirs is None:
        return "no: the teacher has none"
    if ours is None:
        return "no: this student has none"
    if not wanted:
        return "no: --pipeline.distillation.feature-weight is 0"
    return "yes" if theirs == ours else f"yes: a learned projection takes its {ours} channels to the teacher's {theirs}"
