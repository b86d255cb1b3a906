"""Muon in single precision, all matrices of a shape at once."""

from collections import defaultdict
from collections.abc import Callable
from math import sqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class Muon(torch.optim.Muon):
    """torch's Muon, with the same options (`adjust_lr_fn` is `original`) and state, for the small matrices of fields.

    torch's iterates in bfloat16, whose products take 8 to 90 times as long as float's on a CPU without instructions
    for them (AVX2), and one matrix after another, which a GPU spends on starting kernels.

    Source: Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """torch's, for parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape].append(parameter)
            for (rows, columns), parameters in alike.items():
                rate = float(group["lr"]) * sqrt(max(1, rows / columns))
                torch._foreach_mul_(parameters, 1 - float(group["lr"]) * group["weight_decay"])
                torch._foreach_add_(parameters, self._directions(parameters, group), alpha=-rate)
        return loss

    def _directions(self, parameters: list[Tensor], group: dict[str, Any]) -> tuple[Tensor, ...]:
        """The momentum of parameters of one shape, orthogonal."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        states = [self.state[parameter] for parameter in parameters]
        for state, gradient in zip(states, gradients):
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(gradient)
        momenta = [state["momentum_buffer"] for state in states]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"]) if group["nesterov"] else momenta
        return orthogonal(torch.stack(ahead), group["ns_coefficients"], group["ns_steps"], group["eps"]).unbind()


def orthogonal(
    matrices: Float[Tensor, "matrices rows columns"], coefficients: tuple[float, float, float], steps: int, eps: float
) -> Float[Tensor, "matrices rows columns"]:
    """Matrices with the same singular vectors and singular values near 1, by an iteration of Newton and Schulz.

    Args:
        matrices: any.
        coefficients: a, b, c of a X + b (X X') X + c (X X')² X.
        steps: how often.
        eps: smallest norm of a matrix that is divided by it.
    """
    a, b, c = coefficients
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
