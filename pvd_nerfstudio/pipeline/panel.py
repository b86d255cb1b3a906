"""The panel "Distillation" in nerfstudio's viewer, in training and in ns-viewer."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import viser
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.viewer.viewer_elements import ViewerButton, ViewerCheckbox, ViewerElement, ViewerText
from torch import Tensor, nn

from pvd_nerfstudio.distillation.active.levels import LEVELS, ActiveLearningConfig
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.text import markdown
from pvd_nerfstudio.pipeline.comparison import Comparison
from pvd_nerfstudio.pipeline.opening import Opening, viser_pose
from pvd_nerfstudio.student.model import StudentModel

TITLE = "Distillation"
"""Name of the panel: the viewer shows the name of the pipeline's attribute."""
HARD_VIEWS = 8
"""Views in one round of "next hard view"."""
CANDIDATES = 64
"""Training cameras among which they are looked for."""
COLOR = (255, 80, 32)


class Text(ViewerElement[str]):
    """Words that can change; nerfstudio has no such element, and its text field would render anew at each change."""

    def __init__(self, text: str = "") -> None:
        super().__init__("text")
        self._text = text

    def _create_gui_handle(self, viser_server: viser.ViserServer) -> None:
        self._handle = viser_server.gui.add_markdown(self._text)

    def install(self, viser_server: viser.ViserServer) -> None:
        """Put it where the viewer is."""
        self._create_gui_handle(viser_server)

    @property
    def value(self) -> str:
        """What it says, in markdown."""
        return self._text

    @value.setter
    def value(self, text: str) -> None:
        self._text = text
        if hasattr(self, "_handle"):
            self._handle.content = text


class PromptButton(ViewerButton):
    """A button that answers at once: what it does has to wait until no image is in the making."""

    def __init__(self, name: str, do: Callable[[ViewerButton], None], at_once: Callable[[], None]) -> None:
        super().__init__(name, do)
        self._at_once = at_once

    def _create_gui_handle(self, viser_server: viser.ViserServer) -> None:
        super()._create_gui_handle(viser_server)
        self.gui_handle.on_click(lambda _: self._at_once())


class Panel(nn.Module):
    """What there is to see and to switch. A module, because the viewer looks for its elements in modules.

    Args:
        student: who learns, or has learned.
        comparison: gives the teacher beside the student; None while there is no teacher.
        load: loads a teacher from a path; raises InputError.
        cameras: gives the views among which the hard ones are looked for.
        teacher: where the teacher was in training.
        levels: of active learning; None when nothing is trained.
    """

    def __init__(
        self,
        student: StudentModel,
        comparison: Callable[[], Comparison | None],
        load: Callable[[Path], None],
        cameras: Callable[[], Cameras],
        teacher: Path | None,
        levels: ActiveLearningConfig | None,
    ) -> None:
        super().__init__()
        self._student = (student,)  # a module of its own would be in every checkpoint twice
        self._comparison, self._load, self._cameras, self._levels = comparison, load, cameras, levels
        self._round: list[tuple[int, float]] = []
        self._frustums: dict[int, viser.CameraFrustumHandle] = {}
        self._hidden: list[viser.CameraFrustumHandle] = []
        self.control = Opening(student, cameras)
        self._state, self._said = Text(), Text()
        self._boxes = {} if levels is None else {level: self._box(level, levels) for level in LEVELS}
        self._place = ViewerText("Teacher", "" if teacher is None else str(teacher), hint="Run to compare with.")
        elements: list[ViewerElement[Any]] = [self._state, *self._boxes.values()]
        if levels is None:
            elements += [self._place, PromptButton("Load teacher", self._load_teacher, lambda: self._say("Loading …"))]
        elements += [PromptButton("Next hard view", self._next_hard_view, lambda: self._say("Looking …")), self._said]
        for number, element in enumerate(elements):  # the viewer finds public attributes, in the order of their names
            setattr(self, f"element_{number:02d}", element)
        self.show({})

    def show(self, facts: dict[str, str], errors: Tensor | None = None, pools: dict[str, float] | None = None) -> None:
        """Say what there is to know now.

        Args:
            facts: names and values; the architectures follow.
            errors: mean squared errors of the last steps against the teacher.
            pools: what active learning says of its pools.
        """
        facts, comparison = dict(facts), self._comparison()
        if comparison is not None:
            teacher = comparison.teacher
            facts["Teacher"] = f"{teacher.run.config.method_name}, {teacher.num_parameters:,} parameters"
        student = self._student[0]
        count = sum(parameter.numel() for parameter in student.parameters())
        facts["Student"] = f"{student.config.student}, {count:,} parameters"
        if errors is not None:
            facts["Against the teacher"] = f"{-10 * float(errors.mean().log10()):.1f} dB"
        for level in LEVELS:
            if pools and f"hard_{level}_size" in pools:
                facts[f"Pool of hard {level}"] = f"{pools[f'hard_{level}_size']:,.0f}"
        self._state.value = "  \n".join(f"**{name}** {markdown(value)}" for name, value in facts.items())

    def show_levels(self) -> None:
        """Bring the check boxes up to what the flags are."""
        for level, box in self._boxes.items():
            box.value = getattr(self._levels, level)

    @property
    def is_shown(self) -> bool:
        """Whether there is a viewer."""
        return hasattr(self.control, "viewer")

    def wait(self) -> None:
        """Say that a student's training is prepared; until it begins there is nothing to see."""
        self.show({"Stage": "getting ready: the teacher is loaded and asked for its first answers"})
        self.control.wait()

    def wanted(self) -> set[str]:
        """The outputs that somebody looks at."""
        panel = self.control.viewer.control_panel
        return {panel.output_render} | ({panel.split_output_render} if panel.split else set())

    def _box(self, level: str, levels: ActiveLearningConfig) -> ViewerCheckbox:
        def switch(box: ViewerCheckbox) -> None:
            setattr(levels, level, box.value)

        return ViewerCheckbox(f"Hard {level}", getattr(levels, level), cb_hook=switch)

    def _say(self, text: str) -> None:
        self._said.value = text

    def _load_teacher(self, button: ViewerButton) -> None:
        del button
        place = self._place.value.strip()
        try:
            if not place:
                raise InputError("Type in where the teacher's run lies.")
            self._load(Path(place))
        except Exception as error:  # a thread of the viewer: nobody else would say what went wrong
            self._said.value = f"**Not loaded:** {_words(error)}"
            return
        self._round = []
        self._said.value = "Loaded: its renderings and the difference are among the outputs."

    def _next_hard_view(self, button: ViewerButton) -> None:
        """Move the camera to the next of the views that the student gets worst, and mark them all."""
        del button
        comparison = self._comparison()
        if comparison is None:
            self._said.value = "There is no teacher to compare with; load it first."
            return
        try:
            if not self._round:
                self._round = self._worst_views(comparison)
                self._mark()
            view, psnr = self._round.pop(0)
            self._uncover(view)
            self._said.value = f"Training view {view}: {psnr:.1f} dB against the teacher."
            wxyz, position = viser_pose(self._cameras(), view)
            for client in self.control.server.get_clients().values():
                with client.atomic():
                    client.camera.wxyz, client.camera.position = wxyz, position
        except Exception as error:  # as above
            self._said.value = f"**No hard view:** {_words(error)}"

    def _uncover(self, view: int) -> None:
        """Hide the frustums of a view, nerfstudio's with its image and ours: from within they cover it."""
        self._cover()
        there = [frustums.get(view) for frustums in (self.control.viewer.camera_handles, self._frustums)]
        self._hidden = [frustum for frustum in there if frustum is not None and frustum.visible]
        for frustum in self._hidden:
            frustum.visible = False

    def _cover(self) -> None:
        """Show again what was hidden."""
        for frustum in self._hidden:
            frustum.visible = True
        self._hidden = []

    def _worst_views(self, comparison: Comparison) -> list[tuple[int, float]]:
        """Numbers of training cameras and their PSNR against the teacher, the worst first."""
        cameras = self._cameras()
        candidates = torch.linspace(0, len(cameras) - 1, min(CANDIDATES, len(cameras))).long()
        psnr = -10 * comparison.errors(cameras[candidates]).clamp_min(1e-10).log10().cpu()
        order = psnr.argsort()[:HARD_VIEWS]
        return list(zip(candidates[order].tolist(), psnr[order].tolist()))

    def _mark(self) -> None:
        """Draw the hard views as frustums in a colour of their own."""
        self._cover()
        cameras = self._cameras()
        scale = self.control.viewer.config.camera_frustum_scale
        for frustum in self._frustums.values():
            frustum.remove()
        self._frustums.clear()
        for view, _ in self._round:
            wxyz, position = viser_pose(cameras, view)
            self._frustums[view] = self.control.server.scene.add_camera_frustum(
                name=f"/hard_views/{view}",
                fov=2 * math.atan(float(cameras.cy[view] / cameras.fy[view])),
                aspect=float(cameras.width[view] / cameras.height[view]),
                scale=1.3 * scale,
                color=COLOR,
                wxyz=wxyz,
                position=position,
            )


def _words(error: Exception) -> str:
    kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
    return markdown(f"{kind}{error}".replace("\n", " "))
