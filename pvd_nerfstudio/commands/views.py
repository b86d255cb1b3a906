"""`pvd-views`: an image of the cameras of a conversion, to check where the teacher is queried."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from jaxtyping import Float
from torch import Generator, Tensor

from pvd_nerfstudio.commands.report.command import find_conversion, load_student
from pvd_nerfstudio.commands.report.figures import cameras_figure
from pvd_nerfstudio.errors import InputError, run_command
from pvd_nerfstudio.input.ranges import at_least, check_ranges
from pvd_nerfstudio.input.renamed import current_options
from pvd_nerfstudio.input.text import is_file, say
from pvd_nerfstudio.pipeline.student import StudentPipeline


@dataclass
class Views:
    """Draw real, pseudo and hard cameras from above and from two sides."""

    ranges = {"pseudo": at_least(0), "hard": at_least(0)}

    load_config: Path
    """The student's config.yml."""
    output: Path = Path("views.png")
    """The image."""
    overwrite: bool = False
    """Replace an image that is there already."""
    pseudo: int = 100
    """How many pseudo cameras are drawn."""
    hard: int = 8
    """How many of the training views that the student gets worst are marked, while its teacher is at hand."""

    @torch.no_grad()
    def run(self) -> None:
        """Draw and write."""
        check_ranges(self)
        if self.output.exists() and not self.overwrite:
            raise InputError(f"{self.output} exists already; replace it with --overwrite, or choose another.")
        pipeline = load_student(find_conversion(self.load_config)[0])
        data, generator = pipeline.datamanager, Generator(device=pipeline.device).manual_seed(0)
        pseudo = data.pseudo_views(self.pseudo, generator)
        groups = {
            "training": data.train_cameras.camera_to_worlds,
            f"pseudo, {data.pseudo_views.words}": pseudo.camera_to_worlds,
        }
        hard = self._hard(pipeline)
        if hard is not None:
            groups["the student's worst"] = hard
        figure = cameras_figure(groups, pipeline.student.grid.aabb)
        self.output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(self.output, dpi=110)
        say(str(self.output))

    def _hard(self, pipeline: StudentPipeline) -> Float[Tensor, "views 3 4"] | None:
        """The training views that differ most from the teacher's; None where it is not at hand."""
        place = pipeline.config.teacher
        if place is None or not is_file(place) or not self.hard:
            return None
        try:
            pipeline.load_teacher(place)
        except InputError as error:
            say(f"No hard views: {error}", "yellow")
            return None
        assert pipeline.comparison is not None
        cameras = pipeline.datamanager.train_cameras
        worst = pipeline.comparison.errors(cameras).argsort(descending=True)[: self.hard]
        return cameras.camera_to_worlds[worst.to(cameras.device)]


def main() -> None:
    """Entry point of `pvd-views`."""
    run_command(lambda: tyro.cli(Views, args=current_options(sys.argv[1:])).run())


if __name__ == "__main__":
    main()
