"""One training step of a student that is drawn: a picture of the teacher out of the bank, the student's beside it."""

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pvd_nerfstudio.distillation import losses
from pvd_nerfstudio.distillation.bank import PictureTargets, TargetBank, seeded_generator
from pvd_nerfstudio.distillation.stages import Stage
from pvd_nerfstudio.pipeline.step import RECENT, STAGES, keep_better
from pvd_nerfstudio.rendering.harmonics import draw
from pvd_nerfstudio.rendering.splatting import view_at
from pvd_nerfstudio.student.splat import HIDDEN, SplatModel

ABSOLUTE = 0.2
"""Share of the mean absolute difference in the loss; the rest is that of the squared one."""

COMPARED = 16
"""Pictures by which the last weights and their average are compared."""


class PictureStep:
    """What happens in a step.

    Args:
        student: who learns.
        bank: the targets.
        size: height and width of the pictures.
        stage: says which stage a step belongs to.
        seed: of the run.
    """

    def __init__(
        self, student: SplatModel, bank: TargetBank, size: tuple[int, int], stage: Callable[[int], Stage], seed: int
    ) -> None:
        self.bank, self.stage = bank, stage
        self._student, self._size, self._seed = student, size, seed
        self.pools: dict[str, float] = {}
        self.errors: deque[Tensor] = deque(maxlen=RECENT)
        """Mean squared errors of the last steps, against the teacher."""

    def __call__(
        self, model: Callable[..., dict[str, Tensor]], step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        """Outputs of the student, terms of the loss, metrics."""
        del model
        self.fill_bank(step)
        generator = seeded_generator(self._student.device, self._seed + 1, step)
        number = torch.randint(self.bank.num_pictures, (1,), generator=generator, device=generator.device)
        target = self.bank.pictures(number)
        rgb, opacity = self._draw(target)
        pair = rgb, opacity, target.rgb.view(-1, 3), target.opacity.view(-1, 1)
        background = torch.rand(3, generator=generator, device=generator.device)
        difference = rgb - pair[2] + background * (pair[3] - opacity)
        loss = ABSOLUTE * difference.abs().mean() + (1 - ABSOLUTE) * difference.square().mean()
        with torch.no_grad():
            self.errors.append(losses.pixel_errors(*pair).mean())
        terms = {"pixel_loss": loss} | self._student.field.regularization(generator)
        metrics = {"stage": STAGES.index("pixels"), "psnr_to_teacher": -10 * torch.log10(self.errors[-1])}
        return {"rgb": rgb, "accumulation": opacity}, terms, metrics

    def _draw(self, target: PictureTargets) -> tuple[Tensor, Tensor]:
        """The student in place of one picture: colour `[pixels, 3]`, premultiplied, and opacity `[pixels, 1]`.

        Pixels that do not count are empty, as they are in the target.
        """
        height, width = self._size
        view = view_at(target.poses.view(3, 4), target.intrinsics[0].tolist(), width, height)
        image = draw(self._student.field.named, view, HIDDEN).flatten(0, 1) * target.seen.view(-1, 1)
        return image[:, :3], image[:, 4:]

    def fill_bank(self, step: int) -> None:
        """Query the teacher for the chunks that the bank lacks at a step."""
        self.bank.advance(step)

    def learn_errors(self) -> None:
        """Nothing more is to be heard of a step."""

    def pull(self) -> Tensor:
        """How much the loss of pictures pulls at each Gaussian's place, on average over those that it is seen in.

        Lengths are in halves of a picture, as in the original.
        """
        means = self._student.field.means
        total, count = torch.zeros_like(means[:, 0]), torch.zeros_like(means[:, 0])
        for target in self._some_pictures():
            rgb, opacity = self._draw(target)
            difference = rgb - target.rgb.view(-1, 3) + 0.5 * (target.opacity.view(-1, 1) - opacity)
            (gradient,) = torch.autograd.grad(difference.abs().mean(), means)
            pose = target.poses.view(3, 4)
            away = (means.detach() - pose[:, 3]).norm(dim=-1)
            length = gradient.norm(dim=-1) * away * (max(self._size) / 2 / float(target.intrinsics[0, 0]))
            total, count = total + length, count + (length > 0)
        return total / count.clamp_min(1)

    @torch.no_grad()
    def keep_better(self) -> None:
        """Of the student's weights and their average, which it is done with then."""
        keep_better(self._student, self._error_of_some)

    def _some_pictures(self) -> list[PictureTargets]:
        """Out of the whole bank, always the same."""
        numbers = torch.linspace(0, self.bank.num_pictures - 1, COMPARED).long().unique().to(self._student.device)
        return [self.bank.pictures(number[None]) for number in numbers]

    def _error_of_some(self) -> float:
        pairs = [(*self._draw(one), one.rgb.view(-1, 3), one.opacity.view(-1, 1)) for one in self._some_pictures()]
        return float(torch.stack([losses.pixel_errors(*pair).mean() for pair in pairs]).mean())
