"""What can be told to a conversion: a teacher, a student, and how the one becomes the other."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig

from pvd_nerfstudio.data.datamanager import DistillationDataManagerConfig
from pvd_nerfstudio.data.orbit import Box
from pvd_nerfstudio.distillation.active.levels import ActiveLearningConfig
from pvd_nerfstudio.distillation.stages import DistillationConfig
from pvd_nerfstudio.input.ranges import ANY, at_least, inside
from pvd_nerfstudio.student.model import StudentModelConfig


def _pipeline() -> type:
    """What is built from the options; it reads them, so it is imported late."""
    from pvd_nerfstudio.pipeline.pipeline import DistillationPipeline  # noqa: PLC0415

    return DistillationPipeline


@dataclass
class DistillationPipelineConfig(VanillaPipelineConfig):
    """A teacher, a student and how the one becomes the other."""

    ranges = {"occupancy_threshold": inside(0, 1), "sized_for": ANY, "steps": at_least(0), "seed": at_least(0)}

    _target: type = field(default_factory=_pipeline)
    datamanager: DistillationDataManagerConfig = field(default_factory=DistillationDataManagerConfig)
    """Where views come from."""
    model: StudentModelConfig = field(default_factory=StudentModelConfig)
    """The student."""
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    """The method: stages, losses and bank."""
    active: ActiveLearningConfig = field(default_factory=ActiveLearningConfig)
    """Which views, rays and points are looked at most."""
    teacher: Path | None = None
    """The teacher's run; set it with --teacher-checkpoint."""
    teacher_digest: tyro.conf.Suppress[str] = ""
    """Tells the teacher's weights from all others'; set at the hand-over."""
    edits: Path | None = None
    """What to do with the teacher's volume first; also --edits."""
    keep_detail: bool = True
    """Whether cells and samples stay as small where edits enlarge the scene box: along its sides there are more cells
    then than the sizes say, up to twice as many."""
    sized_for: tyro.conf.Suppress[Box | None] = None
    """The scene box that the sizes were for."""
    occupancy_threshold: float | None = None
    """Opacity of one sample from which on a cell of the occupancy grid is kept; left out: 0.02, and 0.01 in contracted
    space, where rays pass through more of what is thin."""
    splat_density: bool = True
    """Ask a teacher of Gaussians at points, too; otherwise its pictures and their depth are distilled alone."""
    fit_step: bool = True
    """Choose rays a step and the length of training's samples where they are left at their defaults: in contracted
    space by how many samples rays have, with edits by how much they have brought in (chunks of the bank come faster
    then, too), on a GPU by how long a step takes."""
    inherit_color_head: bool = True
    """Start with the teacher's colour head where its shape fits."""
    is_step_open: tyro.conf.Suppress[bool] = False
    """Whether they were left at their defaults; until the hand-over."""
    steps: int = 0
    """Steps of the whole run, which the stages are shares of; --max-num-iterations sets it."""
    seed: int = 0
    """Seed of all that is drawn; --machine.seed sets it."""

    @property
    def asks_splats_at_points(self) -> bool:
        """Whether Gaussians are asked for their density; a student that contracts space does not."""
        return self.splat_density and not self.model.contracted

    @property
    def threshold(self) -> float:
        """The chosen `occupancy_threshold`."""
        return self.occupancy_threshold or (0.01 if self.model.contracted else 0.02)
