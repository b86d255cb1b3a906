"""How good is a teacher? Its own rendering, and its rendering through the students' samples, on the test images.

    python -m benchmarks.teacher --teacher ../shared/teachers/lego-hash

Some pixels of every view are enough: stock nerfacto renders about a thousand rays a second on two CPU cores.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.model_components.renderers import RGBRenderer
from rich.console import Console
from rich.progress import track

from pvd_nerfstudio.data.views import rays_of
from pvd_nerfstudio.pipeline import DistillationPipelineConfig
from pvd_nerfstudio.rendering.occupancy import OccupancyGrid
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.teacher.occupancy import fill_grid
from pvd_nerfstudio.teacher.shown import shown_along_rays
from pvd_nerfstudio.teacher.targets import SharedSamples, render_teacher

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GOLDEN = (5**0.5 - 1) / 2
"""Its multiples spread evenly over [0, 1): pixels of all rows and columns; a fixed stride may meet few columns."""


@dataclass
class Benchmark:
    """PSNR of a teacher on its test views."""

    teacher: Path
    """The teacher's run."""
    pixels: int = 4000
    """Pixels of each view."""

    def run(self) -> None:
        """Print both PSNRs."""
        own, through = teacher_psnr(self.teacher, self.pixels)
        words = ("-" if value is None else f"{value:.2f} dB" for value in (own, through))
        Console().print("With its own samples {}, through the students' samples {}.".format(*words))


def teacher_psnr(path: Path, pixels: int, shared: bool = True) -> tuple[float | None, float | None]:
    """Mean over the test views, with the teacher's own samples and with those that students have by default.

    Args:
        path: the run.
        pixels: of each view.
        shared: whether the second is wanted where the first can be had.

    Returns:
        Both; None where a teacher cannot be rendered that way here, or it was not wanted.
    """
    run = find_run(path)
    data: Any = run.config.pipeline.datamanager  # type: ignore[attr-defined]
    if data.data is not None:
        data.dataparser.data = Path(data.data)
    teacher = FrozenTeacher(run, DEVICE, data.dataparser.data)
    renderer = RGBRenderer(background_color=teacher.space.background)
    dataset = InputDataset(data.dataparser.setup().get_dataparser_outputs("test"))
    wanted = teacher.has_density and (shared or not teacher.renders_natively)
    samples = default_samples(teacher, dataset.cameras) if wanted else None
    decibels: tuple[list[float], list[float]] = ([], [])
    for index in track(range(len(dataset)), f"Rendering {path.name}"):
        truth = renderer.blend_background(dataset.get_image_float32(index).to(DEVICE)).flatten(0, 1)
        chosen = (torch.arange(pixels, device=DEVICE, dtype=torch.float64) * GOLDEN % 1 * len(truth)).long()
        rays = dataset.cameras.generate_rays(camera_indices=index, keep_shape=True).flatten().to(DEVICE)[chosen]
        if teacher.shows_views:
            image = teacher.render(dataset.cameras[index : index + 1]).flatten(0, 1)[chosen]
            decibels[0].append(_psnr(image, truth[chosen]))
        elif teacher.renders_natively:
            decibels[0].append(_psnr(teacher.render_rays(rays), truth[chosen]))
        if samples is not None:
            decibels[1].append(_psnr(render_teacher(teacher, samples, rays, 0.5).over(renderer), truth[chosen]))
    own, through = (sum(values) / len(values) if values else None for values in decibels)
    return own, through


def default_samples(teacher: FrozenTeacher, cameras: Cameras) -> SharedSamples:
    """The samples that students have by default, of a scene that some cameras see."""
    config = DistillationPipelineConfig()
    model = config.model
    model.contracted = teacher.space.contracted
    grid = OccupancyGrid(teacher.aabb, model.grid_resolution, teacher.space.contracted)
    if model.contracted:
        seen = cameras.to(DEVICE)
        shown = shown_along_rays(teacher, lambda count, generator: rays_of(seen, count, generator), seed=0)
        model.fit(shown.scale, shown.bend(shown.scale))
        grid.scale = shown.scale
    spacing = model.spacing(teacher.aabb)
    fill_grid(grid, teacher, spacing, config.threshold)
    return SharedSamples(grid, 0.0, teacher.space.far, spacing, teacher.space.has_sky)


def _psnr(image: torch.Tensor, truth: torch.Tensor) -> float:
    return float(-10 * torch.log10((image.clamp(0, 1) - truth).square().mean()))


if __name__ == "__main__":
    tyro.cli(Benchmark).run()
