"""Conversion from Python: `from pvd_nerfstudio import distill`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from pvd_nerfstudio.commands.convert import Convert
from pvd_nerfstudio.pipeline.student import StudentPipeline


@dataclass(frozen=True)
class Student:
    """A finished student."""

    config: Path
    """The run's config.yml, for nerfstudio's commands."""
    pipeline: StudentPipeline
    """nerfstudio's pipeline, with the teacher beside it."""

    @property
    def cameras(self) -> Cameras:
        """Those of the data set's evaluation views."""
        dataset: Any = self.pipeline.datamanager.eval_dataset
        return dataset.cameras

    @torch.no_grad()
    def render(self, camera: Cameras) -> Float[Tensor, "height width 3"]:
        """The picture that one camera takes of the student, colours in [0, 1], on the CPU."""
        model = self.pipeline.student
        return model.get_outputs_for_camera(camera.flatten()[:1].to(model.device))["rgb"].cpu()


def distill(teacher: str | Path, student: str = "mlp", output_dir: str | Path = "outputs", **options: Any) -> Student:
    """Convert a trained nerfstudio run into another architecture: `pvd convert` from Python.

    Args:
        teacher: the run: its config.yml, its folder, its nerfstudio_models folder or one of its .ckpt files.
        student: architecture to convert to.
        output_dir: where the new run goes.
        options: as in `pvd convert`: minutes, steps, size, target_mb, edits, data, viewer.

    Raises:
        InputError: something of it cannot be used; the message says what to do.
        KeyboardInterrupt: of the user; what was trained until then is saved.
    """
    trainer = Convert(Path(teacher), to=student, output_dir=Path(output_dir), **options).convert()
    assert trainer is not None, "no dry run from Python"
    trainer.pipeline.eval()
    return Student(trainer.base_dir / "config.yml", trainer.pipeline)
