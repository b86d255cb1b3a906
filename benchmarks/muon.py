"""How long does a step of Muon take, torch's and ours, on the matrices of students?

    python -m benchmarks.muon

Both in one process, in turn; the median of five steps each.
"""

import statistics
import time

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.teacher import DEVICE
from pvd_nerfstudio.student.fields.hash import HashFieldConfig
from pvd_nerfstudio.student.fields.mlp import MLPFieldConfig
from pvd_nerfstudio.training.muon import Muon

STUDENTS = {
    "mlp 4 x 128": MLPFieldConfig(num_layers=4, hidden_dim=128),
    "mlp 8 x 256": MLPFieldConfig(),
    "hash": HashFieldConfig(implementation="torch"),
}


def main() -> None:
    """Print a row a student."""
    table = Table("student", "matrices", "torch.optim.Muon, ms", "ours, ms", "ratio")
    for name, config in STUDENTS.items():
        field = config.setup(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3]), contracted=False).to(DEVICE)
        for matrix in field.matrices:
            matrix.grad = torch.randn_like(matrix)
        theirs, ours = (milliseconds(kind(field.matrices, lr=1e-9)) for kind in (torch.optim.Muon, Muon))
        table.add_row(name, str(len(field.matrices)), f"{theirs:.1f}", f"{ours:.1f}", f"{theirs / ours:.0f}")
    Console().print(table)


def milliseconds(optimizer: torch.optim.Optimizer, repeats: int = 5) -> float:
    """Of a step, after a first one."""
    taken = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        optimizer.step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken[1:])


if __name__ == "__main__":
    main()
