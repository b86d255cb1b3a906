"""A pipeline that may have a teacher beside its student: in the viewer, in evaluation and in reports."""

from pathlib import Path
from typing import Any

from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from nerfstudio.utils.rich_utils import CONSOLE
from rich.markup import escape

from pvd_nerfstudio.comparison import Comparison
from pvd_nerfstudio.data.datamanager import DistillationDataManager
from pvd_nerfstudio.distillation.active.levels import ActiveLearningConfig
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.student.model import StudentModel
from pvd_nerfstudio.teacher.check import check_frame
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.viewer import TITLE, Panel


class ComparedPipeline(VanillaPipeline):
    """A student that needs no teacher, and shows it where it is at hand."""

    config: Any
    datamanager: DistillationDataManager
    comparison: Comparison | None = None
    """The teacher beside the student."""

    @property
    def student(self) -> StudentModel:
        """The student, out of its DDP wrapper."""
        model = self.model
        assert isinstance(model, StudentModel)
        return model

    @property
    def panel(self) -> Panel:
        """The viewer's panel."""
        return getattr(self, TITLE)

    def add_panel(self, levels: ActiveLearningConfig | None) -> None:
        """Make the viewer's panel; it finds it by the name that it shows.

        Args:
            levels: of active learning, where a student is trained.
        """
        cameras, teacher = self.datamanager.train_dataset.cameras, self.config.teacher
        panel = Panel(self.student, lambda: self.comparison, self.load_teacher, cameras, teacher, levels)
        setattr(self, TITLE, panel)

    def load_teacher(self, place: Path) -> None:
        """Have a teacher beside a student that is no longer trained.

        Args:
            place: its run.

        Raises:
            InputError: it cannot be loaded, or shows another scene.
        """
        data = self.datamanager
        dataset = data.config.data or data.config.dataparser.data
        teacher = FrozenTeacher(find_run(place), self.device, dataset)
        if not data.stands_in:
            check_frame(teacher, data.train_dataparser_outputs)
        self.compare_with(teacher)
        self.panel.show({})

    def compare_with(self, teacher: FrozenTeacher) -> None:
        """Show a teacher's pictures beside the student's, in the viewer and in evaluation."""
        comparison, data = Comparison(teacher, self.student), self.datamanager
        self.comparison = comparison
        data.eval_dataloader.picture = data.fixed_indices_eval_dataloader.picture = comparison.picture
        self.student.beside = lambda camera, rgb: comparison.outputs(camera, rgb, self.panel.wanted())

    def get_average_eval_image_metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """nerfstudio's, for `ns-eval`: against the teacher too, where it still is."""
        teacher = self.config.teacher
        if self.comparison is None and teacher is not None and teacher.exists():
            try:
                self.load_teacher(teacher)
            except InputError as error:
                CONSOLE.print(f"[yellow]Evaluation without the teacher: {escape(str(error))}")
        return super().get_average_eval_image_metrics(*args, **kwargs)
