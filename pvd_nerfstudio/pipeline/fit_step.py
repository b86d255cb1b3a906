"""How much a training step takes on, where the user leaves it open.

In contracted space rays have several times the samples that they have through an object. There samples are longer,
and on a CPU rays fewer, so that a step costs about as much everywhere; by a count, which comes out the same each time.
Where edits have brought in a second thing there is twice as much to learn: rays, points and chunks are more.
A GPU is busy with the start of its kernels where steps are small: there they have more rays and points, by a timing.
"""

import math
import time
from collections.abc import Callable

import torch
from nerfstudio.cameras.rays import RayBundle
from torch import Generator

from pvd_nerfstudio.distillation.stages import DistillationConfig
from pvd_nerfstudio.edits.kinds import Copy, Insert
from pvd_nerfstudio.input.text import say
from pvd_nerfstudio.processes import numbers_of_first
from pvd_nerfstudio.student.model import StudentModel
from pvd_nerfstudio.teacher.frozen import FrozenTeacher

DrawRays = Callable[[int, Generator], RayBundle]
"""Gives any number of rays into the scene."""

COUNTED = 1024
"""Rays whose samples are counted."""
OF_A_RAY = 24
"""Samples of a ray in training, on average, from which on they become longer."""
LONGEST = 2.5
"""How much longer they may be than in images."""
FEWEST = 1 / 2
"""Of the rays of a step, those that are left at least."""
LOOKED_AT, HARDLY_SEEN = 1 << 16, 0.02
"""Places where there may be something to learn, and the opacity of a sample from which on there is."""
HARDLY_MORE, MOST_MORE = 1.1, 4.0
"""Times as much as without edits: from where on it counts, and up to where."""
SCHEDULE = "start_chunks", "first_chunks", "fill_every", "refresh_every"
"""Of the bank: when chunks come."""
WIDER = (1, 2, 4, 8, 16)
"""How many times as many rays a step of a GPU may have."""
SLOWER = 1.3
"""Times as long as a step with the usual number of rays may take."""


def fit_samples(student: StudentModel, method: DistillationConfig, draw_rays: DrawRays, seed: int) -> None:
    """Let a step have about as many samples as it has through an object, for students in contracted space.

    Args:
        student: whose `train_step_factor` may grow.
        method: whose `rays_per_step` may shrink, on a CPU.
        draw_rays: as in training.
        seed: of the rays that are counted.
    """
    config, device = student.config, student.device
    rays = draw_rays(COUNTED, Generator(device=device).manual_seed(seed))
    (each,) = numbers_of_first([len(student.sample(rays)) / COUNTED], device)
    factor = min(max(config.train_step_factor * each / OF_A_RAY, config.train_step_factor), LONGEST)
    each *= config.train_step_factor / factor
    config.train_step_factor = round(factor, 2)
    if device.type == "cpu":
        method.rays_per_step = round(method.rays_per_step * max(FEWEST, min(1.0, OF_A_RAY / each)))
    say(
        f"In training rays have {each:.0f} samples, {config.train_step_factor:g} times as long as in images, and a "
        f"step {method.rays_per_step:,} rays (--pipeline.model.train-step-factor, "
        "--pipeline.distillation.rays-per-step)."
    )


def fit_to_edits(teacher: FrozenTeacher, student: StudentModel, method: DistillationConfig, seed: int) -> None:
    """Let a step have as many more rays and points as edits have made more of what there is to learn in a scene box.

    Args:
        teacher: with its edits.
        student: who says what can be seen of a density.
        method: whose `rays_per_step` and `points_per_step` may grow; new chunks come faster then, unless the user says
            how fast they do.
        seed: of the places that are looked at.
    """
    if teacher.space.contracted or not any(isinstance(edit, (Copy, Insert)) for edit in teacher.edits):
        return
    low, high = teacher.box
    anywhere = torch.rand(LOOKED_AT, 3, generator=Generator().manual_seed(seed)).to(low)
    places, length = low + anywhere * (high - low), student.spacing.step_size
    now, before = (
        int((density * length > HARDLY_SEEN).sum())
        for density in (teacher.densities(places, length), teacher.unedited_densities(places, length))
    )
    (more,) = numbers_of_first([min(now / before, MOST_MORE) if before else 1.0], student.device)
    if more < HARDLY_MORE:
        return
    method.rays_per_step, method.points_per_step = (
        round(more * count) for count in (method.rays_per_step, method.points_per_step)
    )
    usual = DistillationConfig().resolved(student.config.chosen.preferred)
    for name in SCHEDULE:
        value = getattr(method, name)
        if value != getattr(usual, name):  # the user's
            continue
        steps, chunks = max(1, round(value / more)), max(value, min(round(more * value), method.chunks))
        setattr(method, name, steps if name.endswith("_every") else chunks)
    say(
        f"Edits make {more:.2g} times as much of what there is to learn: a step has {method.rays_per_step:,} rays or "
        f"{method.points_per_step:,} points, and new chunks come every {method.refresh_every:,} steps "
        "(--pipeline.fit-step)."
    )


def fit_to_gpu(
    student: StudentModel, method: DistillationConfig, draw_rays: DrawRays, seed: int, in_half: bool
) -> None:
    """Let a step have as many rays and points as cost hardly more time.

    Args:
        student: is timed, and learns nothing.
        method: whose `rays_per_step` and `points_per_step` may grow.
        draw_rays: as in training.
        seed: of the rays that are timed.
        in_half: whether training is in mixed precision.
    """
    rays = draw_rays(method.rays_per_step * WIDER[-1], Generator(device=student.device).manual_seed(seed))
    (best,) = numbers_of_first([widest(lambda times: seconds_of(student, rays, times, in_half))], student.device)
    method.rays_per_step *= int(best)
    method.points_per_step *= int(best)
    say(
        f"A step has {method.rays_per_step:,} rays or {method.points_per_step:,} points, which this GPU takes in "
        "hardly more time than fewer (--pipeline.distillation.rays-per-step, points-per-step)."
    )


def widest(seconds: Callable[[int], float]) -> int:
    """The largest of `WIDER` that hardly takes longer than the first.

    Args:
        seconds: of a step with so many times as many rays; infinite where memory does not suffice.
    """
    best, usual = WIDER[0], seconds(WIDER[0])
    for times in WIDER[1:]:
        taken = seconds(times)
        if math.isinf(taken) or taken > SLOWER * usual:
            break
        best = times
    return best


def seconds_of(student: StudentModel, rays: RayBundle, times: int, in_half: bool, repeats: int = 3) -> float:
    """Forward and backward pass of a share of some rays, `times` of `WIDER[-1]`; the fastest of some repeats."""
    taken = []
    some = rays[: len(rays) * times // WIDER[-1]]
    try:
        for _ in range(1 + repeats):  # the first starts what is started once
            torch.cuda.synchronize(student.device)
            began = time.perf_counter()
            with torch.autocast(student.device.type, enabled=in_half):
                loss = student.get_pixels(some)["premultiplied"].square().mean()
            loss.backward()
            torch.cuda.synchronize(student.device)
            taken.append(time.perf_counter() - began)
    except RuntimeError:  # torch's error of memory is one, and so is that of cuBLAS
        if times == WIDER[0]:
            raise
        return math.inf
    finally:
        student.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
    return min(taken[1:])
