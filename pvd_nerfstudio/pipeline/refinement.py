"""For students that are drawn: Gaussians are removed that show nothing, and others divided where one is not enough.

Some pictures of the bank say where: the more the loss of a picture pulls at a Gaussian's place, the more is missing
there (Kerbl et al., 2023, section 5.2). Nothing of it is remembered between two refinements, so a run that is resumed
goes on as if it had not stopped.
"""

from typing import Any

import torch
from gsplat.strategy.ops import duplicate, remove, split
from jaxtyping import Float
from torch import Generator, Tensor
from torch.optim import Optimizer

from pvd_nerfstudio.student.fields.gaussians import GaussianField

FAINT = 0.005
"""Opacity under which a Gaussian shows nothing."""


@torch.no_grad()
def refine(
    field: GaussianField, optimizers: dict[str, Optimizer], pull: Float[Tensor, "gaussians"], generator: Generator
) -> tuple[int, int]:
    """Remove what shows nothing, and divide what is pulled at the most, until there are as many as there may be.

    Args:
        field: the Gaussians; its parameters are new ones afterwards.
        optimizers: of each parameter, by its name; what they remember is divided, too.
        pull: mean length of the gradient of each Gaussian's place in the pictures that it is seen in.
        generator: of where the parts of a Gaussian go.

    Returns:
        How many were removed and divided.
    """
    parameters: dict[str, Any] = dict(field.named)
    state = {"pull": pull}
    faint = field.opacities[:, 0].sigmoid() < FAINT
    removed = int(faint.sum())
    if 0 < removed < len(faint):
        remove(parameters, optimizers, state, faint)
    most = field.config.num_gaussians - len(parameters["means"])
    growing = _most_pulled(state["pull"], min(most, round(field.config.growth * len(state["pull"]))))
    size = parameters["scales"].amax(dim=-1)
    is_small = size <= size.median()
    small, large = growing & is_small, growing & ~is_small
    if small.any():
        duplicate(parameters, optimizers, state, small)
        large = torch.cat([large, large.new_zeros(int(small.sum()))])
    if large.any():
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator, device=generator.device)))
            split(parameters, optimizers, state, large)
    for name, value in parameters.items():
        setattr(field, name, value)
    return removed, int(growing.sum())


def _most_pulled(pull: Float[Tensor, "gaussians"], count: int) -> Tensor:
    """Which ones, at most so many, and none that is not pulled at."""
    chosen = torch.zeros_like(pull, dtype=torch.bool)
    if count > 0:
        chosen[pull.topk(min(count, len(pull))).indices] = True
    return chosen & (pull > 0)
