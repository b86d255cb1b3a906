"""Features of different widths: the student's are mapped to the teacher's, and the map is thrown away in the end."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn


class FeatureProjection(nn.Linear):
    """A linear map between features, so that PVD's eq. 5 holds for vectors of two widths.

    Args:
        student: width of the student's features.
        teacher: width of the teacher's.
        seed: of the run; the map starts with random orthogonal rows or columns.
    """

    def __init__(self, student: int, teacher: int, seed: int) -> None:
        super().__init__(student, teacher)
        nn.init.orthogonal_(self.weight, generator=Generator().manual_seed(seed))
        nn.init.zeros_(self.bias)
        if torch.distributed.is_initialized():
            for parameter in self.parameters():
                parameter.register_hook(_mean_over_processes)

    def forward(self, input: Float[Tensor, "points student"]) -> Float[Tensor, "points teacher"]:
        """The student's features where the teacher's are."""
        return super().forward(input)


def _mean_over_processes(gradient: Tensor) -> Tensor:
    """One map for all processes (DDP)."""
    torch.distributed.all_reduce(gradient)
    return gradient / torch.distributed.get_world_size()
