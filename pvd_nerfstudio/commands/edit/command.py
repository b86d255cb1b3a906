"""`pvd-edit`: a trained run in nerfstudio's viewer, through edits that are made there and saved for `--edits`."""

import atexit
import json
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion
from nerfstudio.viewer.viewer import Viewer
from torch import nn

from pvd_nerfstudio.commands.edit.panel import TITLE, EditPanel
from pvd_nerfstudio.commands.edit.scene import EditedScene
from pvd_nerfstudio.edits.file import Edits, read_edits
from pvd_nerfstudio.edits.schema import schema
from pvd_nerfstudio.errors import InputError, run_command
from pvd_nerfstudio.input.renamed import current_options
from pvd_nerfstudio.input.text import is_file, say
from pvd_nerfstudio.pipeline.handover import shared_samples
from pvd_nerfstudio.pipeline.opening import Opening
from pvd_nerfstudio.pipeline.pipeline import DistillationPipeline
from pvd_nerfstudio.rendering.turns import Turns


class EditPipeline(nn.Module):
    """What nerfstudio's viewer takes for a pipeline: cameras, the edited teacher as its model, and the panel.

    Args:
        pipeline: of a conversion, before its first step.
        edits: what is edited to begin with.
        path: where edits are saved.
    """

    def __init__(self, pipeline: DistillationPipeline, edits: Edits, path: Path) -> None:
        super().__init__()
        student, self.datamanager = pipeline.student, pipeline.datamanager
        teacher = pipeline.look_at_teacher()
        self.model = EditedScene(teacher, shared_samples(student), student.renderer_rgb)
        setattr(self, TITLE, EditPanel(self.model, edits, path))
        self.opening = Opening(student, lambda: pipeline.datamanager.train_dataset.cameras)


@dataclass
class Edit:
    """Edit a trained run in nerfstudio's viewer: erase, keep, move, copy, recolour, insert; live, and saved as JSON."""

    teacher_checkpoint: Path | None = None
    """The run to edit: its config.yml, its folder, its nerfstudio_models folder or one of its .ckpt files."""
    edits: Path = Path("edits.json")
    """The file of edits: read where it is there, and where "Save" writes to."""
    data: Path | None = None
    """Where the run's data set is now."""
    viewer: ViewerConfig = field(default_factory=lambda: ViewerConfig(default_composite_depth=False))
    """Viewer configuration"""
    schema: bool = False
    """Print the JSON schema of the file of edits, for editors that complete what is typed, and end."""

    def run(self) -> None:
        """Show the viewer until Ctrl-C."""
        if self.schema:
            print(json.dumps(schema(), indent=2))  # for a file, and not for a terminal
            return
        viewer = self.open()
        for line in viewer.viewer_info:
            say(line)
        say(f'"Save" in the panel {TITLE} writes {self.edits.absolute()}; Ctrl-C ends.')
        while True:
            time.sleep(1)

    def open(self) -> Viewer:
        """The viewer.

        Raises:
            InputError: the run cannot be edited, or the file of edits makes no sense.
        """
        if self.teacher_checkpoint is None:
            raise InputError("Which run? Name it with --teacher-checkpoint PATH.")
        edits = read_edits(self.edits) if is_file(self.edits) else ()
        words = ["pvd-distill", "--teacher-checkpoint", str(self.teacher_checkpoint), "--max-num-iterations", "1"]
        words += [] if self.data is None else ["--data", str(self.data)]
        config = tyro.cli(AnnotatedBaseConfigUnion, args=words)
        config.pipeline.inherit_color_head = False
        pipeline = config.pipeline.setup(device=config.machine.device_type)
        shown: Any = EditPipeline(pipeline, edits, self.edits)
        data = pipeline.datamanager
        folder = Path(tempfile.mkdtemp(prefix="pvd-edit-"))  # the viewer's log, and a camera path that is saved there
        atexit.register(remove_unless_used, folder)
        lock: Any = Turns()
        viewer = Viewer(self.viewer, folder / "viewer.log", data.get_datapath(), shown, train_lock=lock)
        viewer.init_scene(data.train_dataset, "completed", data.eval_dataset)
        viewer.update_scene(step=0)
        return viewer


def remove_unless_used(folder: Path) -> None:
    """Remove the viewer's folder, unless a camera path was saved in it."""
    if not any(folder.rglob("*.json")):
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Entry point of `pvd-edit`."""
    run_command(lambda: tyro.cli(Edit, args=current_options(sys.argv[1:])).run())


if __name__ == "__main__":
    main()
