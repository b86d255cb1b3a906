"""Hard views: the poses whose renderings come out worst are visited again, from slightly elsewhere."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from pvd_nerfstudio.distillation.active import Rule, summary
from pvd_nerfstudio.input.saved import rows_like


class HardPoses(nn.Module):
    """A pool of the poses that went worst. It lives on the CPU.

    `error`: the pool holds the worst of all that were offered; a member's error fades with each offer, so that it
    leaves unless it is found bad again; poses are drawn in proportion to their error. `papers` (PVD-AL, section 3.4.1):
    the worst tenth of each offer takes the place of the oldest members; nothing is drawn before the pool is full; then
    all members are alike.

    Args:
        size: of the pool.
        rule: as above.
        degrees: largest rotation of a drawn pose about each of the camera's axes.
        shift: largest movement of a drawn pose along each axis of the world.
    """

    fading = 0.9
    """What a member's error is multiplied with at each offer."""
    hard_share = 0.1
    """Share of an offer that enters under the papers' rule."""

    def __init__(self, size: int = 100, rule: Rule = "error", degrees: float = 9.0, shift: float = 0.0) -> None:
        super().__init__()
        self.size, self.rule, self.degrees, self.shift = size, rule, degrees, shift
        self.poses = torch.zeros(0, 3, 4)
        self.errors = torch.zeros(0)
        self.ages = torch.zeros(0)

    def offer(self, poses: Float[Tensor, "views 3 4"], errors: Float[Tensor, "views"]) -> None:
        """Take in the worst of these poses.

        Args:
            poses: camera to world.
            errors: of their renderings, mean of squares: the smaller the PSNR, the larger.
        """
        if not len(errors):
            return
        poses, errors, ages = poses.detach().cpu(), errors.detach().cpu(), self.ages + 1
        if self.rule == "error":
            held = self.errors * self.fading
        else:
            held = self.errors
            worst = errors.topk(max(1, round(self.hard_share * len(errors)))).indices
            poses, errors = poses[worst], errors[worst]
        together = torch.cat([errors, held])
        size = min(self.size, len(together))
        kept = together.topk(size).indices if self.rule == "error" else torch.arange(size)
        self.errors = together[kept]
        self.poses = torch.cat([poses, self.poses])[kept]
        self.ages = torch.cat([torch.zeros(len(poses)), ages])[kept]

    def draw(self, count: int, generator: Generator) -> Float[Tensor, "drawn 3 4"]:
        """`count` perturbed members, or none as long as there is nothing to draw from; on the generator's device."""
        device = generator.device
        if not len(self.poses) or (self.rule == "papers" and len(self.poses) < self.size):
            return torch.zeros(0, 3, 4, device=device)
        weights = self.errors.clamp_min(1e-12) if self.rule == "error" else torch.ones_like(self.errors)
        chosen = torch.multinomial(weights.to(device), count, replacement=True, generator=generator)
        return perturbed(self.poses.to(device)[chosen], self.degrees, self.shift, generator)

    def summary(self) -> dict[str, float]:
        """Size of the pool, mean age of its members in calls of `offer`, their mean error."""
        return summary(self.errors, self.ages)

    def get_extra_state(self) -> dict[str, Any]:
        """The pool."""
        return {"poses": self.poses, "errors": self.errors, "ages": self.ages}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """The pool as it was saved."""
        names = ("poses", "errors", "ages")
        self.poses, self.errors, self.ages = (rows_like(state[name], getattr(self, name), self.size) for name in names)
        if not len(self.poses) == len(self.errors) == len(self.ages):
            raise ValueError("a pool of poses whose errors are not as many")


def perturbed(
    poses: Float[Tensor, "views 3 4"], degrees: float, shift: float, generator: Generator
) -> Float[Tensor, "views 3 4"]:
    """Poses turned about each of the camera's axes and moved along each of the world's, uniformly up to a limit."""
    angles, way = 2 * torch.rand(2, len(poses), 3, generator=generator, device=poses.device) - 1
    x, y, z = (angles * math.radians(degrees)).unbind(-1)
    turn = _rotation(x, 0) @ _rotation(y, 1) @ _rotation(z, 2)
    return torch.cat([poses[:, :, :3] @ turn, poses[:, :, 3:] + shift * way[:, :, None]], dim=-1)


def _rotation(angle: Float[Tensor, "views"], axis: int) -> Float[Tensor, "views 3 3"]:
    matrix = torch.eye(3, device=angle.device).repeat(len(angle), 1, 1)
    a, b = (axis + 1) % 3, (axis + 2) % 3
    matrix[:, a, a] = matrix[:, b, b] = angle.cos()
    matrix[:, a, b], matrix[:, b, a] = -angle.sin(), angle.sin()
    return matrix
