"""How good is a teacher? Its own rendering, and its rendering through the students' samples, on the test photographs.

    python -m benchmarks.teacher --teacher ../shared/teachers/lego-hash

Pixels are taken evenly from every view: stock nerfacto renders about a thousand rays a second on two CPU cores.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.model_components.renderers import RGBRenderer
from rich.console import Console
from rich.progress import track

from pvd_nerfstudio.rendering.occupancy import OccupancyGrid
from pvd_nerfstudio.teacher.check import fill_grid
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.teacher.targets import SharedSamples, render_teacher


@dataclass
class Benchmark:
    """PSNR of a teacher on its test views."""

    teacher: Path
    """The teacher's run."""
    pixels: int = 4000
    """Pixels of each view."""
    grid_resolution: int = 128
    """Cells of the occupancy grid along each side."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where it runs."""

    def run(self) -> None:
        """Print both PSNRs."""
        teacher = FrozenTeacher(find_run(self.teacher), self.device)
        box = teacher.aabb
        step_size = float((box[1] - box[0]).norm()) / 400
        grid = OccupancyGrid(box, self.grid_resolution)
        fill_grid(grid, teacher, step_size, threshold=0.02)
        shared = SharedSamples(grid, teacher.space.near, teacher.space.far, step_size)
        renderer = RGBRenderer(background_color=teacher.space.background)
        dataparser = teacher.run.config.pipeline.datamanager.dataparser  # type: ignore[attr-defined]
        dataset = InputDataset(dataparser.setup().get_dataparser_outputs("test"))
        own, through = [], []
        for index in track(range(len(dataset)), "Rendering"):
            rays = dataset.cameras.generate_rays(camera_indices=index, keep_shape=True).flatten().to(self.device)
            chosen = torch.linspace(0, len(rays) - 1, self.pixels, device=self.device).long()
            image = dataset.get_image_float32(index).to(self.device)
            truth = renderer.blend_background(image).flatten(0, 1)[chosen]
            own.append(_psnr(teacher.render_rays(rays[chosen]), truth))
            through.append(_psnr(render_teacher(teacher, shared, rays[chosen], shift=0.5).over(renderer), truth))
        views = len(dataset)
        Console().print(f"{views} views: {sum(own) / views:.2f} dB, through the grid {sum(through) / views:.2f} dB")


def _psnr(image: torch.Tensor, truth: torch.Tensor) -> float:
    return float(-10 * torch.log10((image - truth).square().mean()))


if __name__ == "__main__":
    tyro.cli(Benchmark).run()
