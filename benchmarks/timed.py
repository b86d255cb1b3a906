"""Train one run by the clock and measure it on the side, with the clock stopped."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from torch import Tensor

from benchmarks.teacher import DEVICE, GOLDEN
from pvd_nerfstudio.student.model import StudentModel
from pvd_nerfstudio.teacher.frozen import image_of

WORST = 0.1
"""Share of the views that are called the worst."""


@dataclass
class Measured:
    """A moment of a run."""

    seconds: float
    steps: int
    psnr: float
    """Mean over the test views."""
    worst: float
    """Mean over the tenth of the views that came out worst."""


class Stopwatch:
    """Counts seconds except while it is held."""

    def __init__(self) -> None:
        self._total, self._since = 0.0, None

    def start(self) -> None:
        """Count on."""
        self._since = time.perf_counter()

    def hold(self) -> None:
        """Stop counting."""
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        self._total, self._since = self.seconds, None

    @property
    def seconds(self) -> float:
        """What was counted."""
        return self._total + (0.0 if self._since is None else time.perf_counter() - self._since)


class Views:
    """Some pixels of each test view."""

    def __init__(self, config: TrainerConfig, pixels: int) -> None:
        data: Any = config.pipeline.datamanager
        self._dataset = InputDataset(data.dataparser.setup().get_dataparser_outputs("test"))
        self._pixels = pixels

    @torch.no_grad()
    def psnr(self, model: Any) -> Tensor:
        """Of each view, `[views]`."""
        model.eval()
        decibels = []
        for view in range(len(self._dataset)):
            camera = self._dataset.cameras[view : view + 1]
            total = int(camera.width) * int(camera.height)
            chosen = (torch.arange(self._pixels, dtype=torch.float64) * GOLDEN % 1 * total).long()
            if isinstance(model, StudentModel):
                image = model.pixels(camera, chosen)
            else:
                rays = camera.generate_rays(camera_indices=0, keep_shape=True).flatten()
                rays = rays[chosen].to(DEVICE).reshape((len(chosen), 1))
                image = image_of(model.get_outputs_for_camera_ray_bundle(rays))[:, 0]
            truth = self._dataset.get_image_float32(view).flatten(0, 1)[chosen].to(image)
            truth = model.renderer_rgb.blend_background(truth)
            decibels.append(-10 * torch.log10((image.clamp(0, 1) - truth).square().mean()))
        model.train()
        return torch.stack(decibels).cpu()


class Enough(Exception):
    """The seconds are over."""


@dataclass
class Timed:
    """A run by the clock."""

    config: TrainerConfig
    seconds: float
    """When it is stopped."""
    times: list[float]
    """When it is measured; at its end in any case."""
    pixels: int = 2000
    """Of each test view."""
    curve: list[Measured] = field(default_factory=list)

    def run(self) -> Trainer:
        """Train and measure."""
        views, watch, pending = Views(self.config, self.pixels), Stopwatch(), sorted(self.times)
        torch.manual_seed(self.config.machine.seed)
        watch.start()
        trainer = self.config.setup(local_rank=0, world_size=1)
        trainer.setup()
        step_of_trainer, done = trainer.train_iteration, 0

        def measure() -> None:
            watch.hold()
            psnr = views.psnr(trainer.pipeline.model).sort().values
            worst = psnr[: max(1, round(WORST * len(psnr)))]
            self.curve.append(Measured(watch.seconds, done, float(psnr.mean()), float(worst.mean())))
            watch.start()

        def iteration(step: int) -> Any:
            nonlocal done
            if watch.seconds >= self.seconds:
                raise Enough
            if pending and watch.seconds >= pending[0]:
                pending.pop(0)
                measure()
            done += 1
            return step_of_trainer(step)

        trainer.train_iteration = iteration
        try:
            trainer.train()
        except Enough:
            pass
        measure()
        return trainer
