"""A pipeline that may have a teacher beside its student: in the viewer, in evaluation and in reports."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from torch import Tensor

from pvd_nerfstudio.data.datamanager import DistillationDataManager
from pvd_nerfstudio.distillation.active.levels import ActiveLearningConfig
from pvd_nerfstudio.edits.file import parse_saved
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.text import is_file, say
from pvd_nerfstudio.pipeline.comparison import DIFFERENCE, TEACHER, Comparison, difference
from pvd_nerfstudio.pipeline.images import Images
from pvd_nerfstudio.pipeline.panel import TITLE, Panel
from pvd_nerfstudio.student.model import StudentModel
from pvd_nerfstudio.teacher.check import check_frame
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.teacher.frozen import FrozenTeacher

TEACHER_IN_EVALUATION = "PVD_TEACHER"
"""Environment variable by which `ns-eval`, which takes no option of a method, is asked to compare with the teacher."""
SOME = 8
"""Views of which the viewer shows the error at once."""


class StudentPipeline(VanillaPipeline):
    """A student that needs no teacher, and shows it where it is at hand."""

    config: Any
    datamanager: DistillationDataManager
    comparison: Comparison | None = None
    """The teacher beside the student."""
    _trained = "not trained yet"

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
        """Make the viewer's panel. The attribute's name is what the viewer shows.

        Args:
            levels: of active learning, where a student is trained.
        """
        teacher = self.config.teacher
        panel = Panel(self.student, lambda: self.comparison, self.load_teacher, self._cameras, teacher, levels)
        setattr(self, TITLE, panel)
        self.student.beside = self._beside

    def _cameras(self) -> Cameras:
        return self.datamanager.train_dataset.cameras

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """nerfstudio's; the panel says what was loaded."""
        super().load_pipeline(loaded_state, step)
        self._trained = f"trained for {step + 1:,} steps"
        self.panel.show({"Stage": self._trained})

    def load_teacher(self, place: Path) -> None:
        """Have a teacher beside a student that is no longer trained.

        Args:
            place: its run.

        Raises:
            InputError: it cannot be loaded, cannot render here, or is not the one that the student was made from.
        """
        data = self.datamanager
        dataset = data.config.data or data.config.dataparser.data
        edits = parse_saved(data.config.edits)
        teacher = FrozenTeacher(find_run(place), self.device, dataset, self.config.asks_splats_at_points, edits)
        if self.config.teacher_digest not in ("", teacher.digest):
            raise InputError(
                f"The weights of {teacher.run.checkpoint_path} are not those that this student was converted from: "
                f"it is another teacher, or was trained on since. The student's own was {self.config.teacher}."
            )
        if not data.stands_in:
            check_frame(teacher, data.train_dataparser_outputs, data.frame_box)
        cameras = data.train_dataset.cameras
        errors = Comparison(teacher, self.student).errors(cameras[torch.linspace(0, len(cameras) - 1, SOME).long()])
        self.compare_with(teacher)
        self.panel.show({"Stage": self._trained}, errors)

    def compare_with(self, teacher: FrozenTeacher) -> None:
        """Show a teacher's renderings beside the student's, in the viewer and in evaluation."""
        self.comparison = Comparison(teacher, self.student)
        self.datamanager.compare_with(self.comparison.render)

    def _beside(self, camera: Cameras, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Normals and the teacher's images, for those who ask for them; all of their names for the viewer."""
        on_request: dict[str, Callable[[Images], Tensor]] = {
            "normals": lambda images: self.student.normal_image(camera, images)
        }
        if self.comparison is not None or not self.panel.is_shown:
            on_request[TEACHER] = lambda images: self._with_teacher().render(camera).to(images["rgb"])
            on_request[DIFFERENCE] = lambda images: difference(images["rgb"], images[TEACHER])
        images = Images(outputs, on_request)
        return images.all_of(self.panel.wanted()) if self.panel.is_shown else images

    def _with_teacher(self) -> Comparison:
        """What renders the teacher; it is loaded now where it is not at hand."""
        if self.comparison is None:
            self.load_teacher(self._asked_teacher(os.environ.get(TEACHER_IN_EVALUATION) or "1"))
        assert self.comparison is not None
        return self.comparison

    def _asked_teacher(self, asked: str) -> Path:
        """The place of the teacher that was asked for.

        Raises:
            InputError: it is the training's, and nobody knows which that was.
        """
        if asked == "1" and self.config.teacher is None:
            raise InputError(
                f"This student does not say which teacher it was made from; name it: {TEACHER_IN_EVALUATION}=PATH."
            )
        return self.config.teacher if asked == "1" else Path(asked)

    def get_average_eval_image_metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """nerfstudio's, for `ns-eval`: the student's own, and against the teacher where that was asked for.

        Raises:
            InputError: there is nothing to evaluate on, or the teacher that was asked for cannot be had.
        """
        if not self.datamanager.eval_dataset:
            raise InputError(
                "The data set has no evaluation view, so there is nothing to evaluate on. Name another with --data, "
                "or take fewer of its images for training (its dataparser's split options)."
            )
        if self.comparison is None:
            self._have_teacher_in_evaluation()
        return super().get_average_eval_image_metrics(*args, **kwargs)

    def _have_teacher_in_evaluation(self) -> None:
        """It is loaded where it was asked for, and where images are missing or do not show the edited scene."""
        own, asked = self.config.teacher, os.environ.get(TEACHER_IN_EVALUATION, "")
        images_tell = self.datamanager.has_eval_images and not self.datamanager.are_edited
        if asked:
            self.load_teacher(self._asked_teacher(asked))
        elif not images_tell and own is not None and is_file(own):
            try:
                self.load_teacher(own)
            except InputError as error:
                say(f"Evaluation without images and without the teacher: {error}", "yellow")
