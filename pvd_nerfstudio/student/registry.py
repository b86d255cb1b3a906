"""Which students there are: name to configuration. Other packages add theirs through an entry point.

    [project.entry-points."pvd_nerfstudio.students"]
    siren = "their_package.siren:SirenFieldConfig"

The name becomes a choice of `--student`, and the configuration's fields become `--pipeline.model.siren.*`.
"""

from dataclasses import fields
from importlib.metadata import entry_points
from keyword import iskeyword
from typing import TYPE_CHECKING, Literal

from nerfstudio.models.base_model import ModelConfig

from pvd_nerfstudio.input.text import say
from pvd_nerfstudio.student.fields.base import FieldConfig
from pvd_nerfstudio.student.fields.gaussians import SplatFieldConfig
from pvd_nerfstudio.student.fields.hash import HashFieldConfig
from pvd_nerfstudio.student.fields.hybrid import HybridFieldConfig
from pvd_nerfstudio.student.fields.low_rank import CPFieldConfig, TriplaneFieldConfig, VMFieldConfig
from pvd_nerfstudio.student.fields.mlp import MLPFieldConfig
from pvd_nerfstudio.student.fields.sparse import SparseFieldConfig

GROUP = "pvd_nerfstudio.students"
BUILT_IN: dict[str, type[FieldConfig]] = {
    "mlp": MLPFieldConfig,
    "hash": HashFieldConfig,
    "vm": VMFieldConfig,
    "cp": CPFieldConfig,
    "triplane": TriplaneFieldConfig,
    "sparse": SparseFieldConfig,
    "hybrid": HybridFieldConfig,
    "splat": SplatFieldConfig,
}
OWN = (
    "ranges check student scale grid_resolution render_step_size disparity_from depth train_step_factor near_plane "
    "far_plane contracted background_color chosen chosen_parts"
)
TAKEN = {*OWN.split(), *(option.name for option in fields(ModelConfig))}
"""What else the student's model has options for."""


def _find_students() -> dict[str, type[FieldConfig]]:
    """Ours, and those of other packages; one that cannot be imported must not stop `ns-train`."""
    found = dict(BUILT_IN)
    for entry in entry_points(group=GROUP):
        try:
            config = entry.load()
            if not isinstance(config(), FieldConfig):
                raise TypeError(f"{entry.value} is not a FieldConfig class")
            if entry.name in found or entry.name in TAKEN:
                raise ValueError(f"the name {entry.name!r} is taken")
            if not entry.name.isidentifier() or iskeyword(entry.name):
                raise ValueError(f"{entry.name!r} is no name for an option")
        except Exception as error:  # another package's import may fail in any way
            say(f"The student '{entry.name}' is left out: {type(error).__name__}: {error}", "yellow")
            continue
        found[entry.name] = config
    return found


STUDENTS = _find_students()
"""Name of a student to the class of its configuration."""

if TYPE_CHECKING:
    StudentName = str
else:
    StudentName = Literal[tuple(STUDENTS)]
