"""`pvd export`: what other programs read. Videos and point clouds are `ns-render`'s and `ns-export`'s."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import trimesh
import tyro

from pvd_nerfstudio.commands.export.gaussians import write_ply
from pvd_nerfstudio.commands.export.html import page
from pvd_nerfstudio.commands.export.mesh import mesh_of
from pvd_nerfstudio.commands.export.tensors import write_tensors
from pvd_nerfstudio.commands.report.command import find_conversion, load_student
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.ranges import at_least, check_ranges
from pvd_nerfstudio.input.text import is_file, say
from pvd_nerfstudio.input.whole import write_whole
from pvd_nerfstudio.pipeline.handover import point_answers
from pvd_nerfstudio.pipeline.student import StudentPipeline
from pvd_nerfstudio.student.fields.gaussians import GaussianField
from pvd_nerfstudio.student.model import PointAnswers


@dataclass
class Export:
    """Write a student as a mesh, as plain tensors, as a web page or as Gaussians; one or more of the four."""

    ranges = {"resolution": at_least(8), "level": at_least(1e-3)}

    run_path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """The student's run: its config.yml, its folder or one of its .ckpt files."""
    mesh: bool = False
    """mesh.ply: the surface of the density (marching cubes), with colours at its vertices."""
    safetensors: bool = False
    """student.safetensors: all numbers and what they mean; docs/load_student.py reads it without this package."""
    html: bool = False
    """scene.html, of a `sparse` student: one file that shows the scene in a browser, without a server or network."""
    ply: bool = False
    """splat.ply, of a `splat` student: its Gaussians, as viewers and engines read them."""
    output_dir: Path = Path("exports")
    """Folder for the files."""
    overwrite: bool = False
    """Replace files that are there already."""
    resolution: int = 256
    """Of the mesh: vertices of the grid along the longest side."""
    level: float = 10.0
    """Of the mesh: density at which its surface lies, per length that counts as one (--pipeline.model.scale)."""
    teacher: Path | None = None
    """Whose colours the mesh has; left out: the teacher of the training where it is at hand, or else the student."""
    save_world_frame: bool = False
    """Whether mesh and Gaussians have the data set's own coordinates, and not those that nerfstudio moved the scene
    to."""

    def run(self) -> None:
        """Write what was asked for; everything that can be wrong is said before the first of it."""
        check_ranges(self)
        files = {"mesh": "mesh.ply", "safetensors": "student.safetensors", "html": "scene.html", "ply": "splat.ply"}
        asked = {name: self.output_dir / file for name, file in files.items() if getattr(self, name)}
        if not asked:
            raise InputError("Nothing was asked for: add --mesh, --safetensors, --html or --ply.")
        for path in asked.values():
            if path.exists() and not self.overwrite:
                raise InputError(f"{path} exists already; replace it with --overwrite, or choose another --output-dir.")
        run, _ = find_conversion(self.run_path)
        pipeline = load_student(run)
        field: Any = pipeline.student.field
        if isinstance(field, GaussianField) != self.ply or (self.ply and len(asked) > 1):
            raise InputError(
                "Of a `splat` student there is --ply, which has all of it, and of all others --mesh, --safetensors and "
                f"--html; {self.run_path} is a `{pipeline.student.config.student}`."
            )
        world = pipeline.datamanager.train_dataparser_outputs if self.save_world_frame else None
        self._make_folder()
        writers: dict[str, Callable[[Path], Any]] = {
            "html": lambda path: path.write_text(page(pipeline, run.config_path.parent.name), "utf8"),
            "safetensors": lambda path: write_tensors(pipeline.student, path),
            "mesh": lambda path: self._mesh(pipeline).export(path),
            "ply": lambda path: write_ply(field, path, world),
        }
        for name, write in writers.items():
            if name in asked:
                write_whole(asked[name], write)
                say(f"{asked[name]}: {asked[name].stat().st_size / 1e6:,.2f} MB")

    def _make_folder(self) -> None:
        try:
            self.output_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"The folder {self.output_dir} cannot be made: {error.strerror}.") from error

    def _mesh(self, pipeline: StudentPipeline) -> trimesh.Trimesh:
        mesh = mesh_of(pipeline.student, self._colors(pipeline), self.resolution, self.level)
        if self.save_world_frame:
            poses = torch.eye(4)[:3].repeat(len(mesh.vertices), 1, 1)
            poses[:, :, 3] = torch.from_numpy(np.asarray(mesh.vertices)).float()
            outputs = pipeline.datamanager.train_dataparser_outputs
            mesh.vertices = outputs.transform_poses_to_original_space(poses)[:, :, 3].numpy()
        return mesh

    def _colors(self, pipeline: StudentPipeline) -> PointAnswers:
        """The teacher's, where it is and answers at points.

        Raises:
            InputError: the one that was named cannot.
        """
        place = self.teacher or pipeline.config.teacher
        if place is not None and (self.teacher is not None or is_file(place)):
            try:
                pipeline.load_teacher(place)
            except InputError as error:
                if self.teacher is not None:
                    raise
                say(f"The colours are the student's: {error}", "yellow")
        teacher = None if pipeline.comparison is None else pipeline.comparison.teacher
        answers = point_answers(teacher, pipeline.student)
        say(f"The mesh has the {'student' if answers is None else 'teacher'}'s colours.")
        return answers or pipeline.student.answer
