"""How much faster are images with early ray termination?

    python -m benchmarks.termination RUN [RUN …]

Each run renders the same rays of its evaluation views with it and without it, in turns.
"""

import sys
import time
from pathlib import Path
from typing import Any

import torch

from pvd_nerfstudio.commands.report.command import find_conversion, load_student
from pvd_nerfstudio.rendering import termination

RAYS = 8192
REPEATS = 3
ALL_AT_ONCE = 1 << 30


@torch.no_grad()
def main(runs: list[str]) -> None:
    """Print a row of a table for each run."""
    print("| run | rays / s without | rays / s with | gain | largest difference of a colour |\n|---|---|---|---|---|")
    first_round = termination.FIRST_ROUND
    for place in runs:
        pipeline = load_student(find_conversion(Path(place))[0])
        student: Any = pipeline.student
        student.eval()
        cameras = pipeline.datamanager.eval_dataset.cameras
        seconds, images = {ALL_AT_ONCE: 0.0, first_round: 0.0}, {}
        for view in torch.linspace(0, len(cameras) - 1, REPEATS).long().tolist():
            rays = (
                cameras[view : view + 1].generate_rays(camera_indices=0, keep_shape=True).flatten().to(student.device)
            )
            rays = rays[torch.linspace(0, len(rays) - 1, min(RAYS, len(rays)), device=student.device).long()]
            for rounds in seconds:
                termination.FIRST_ROUND = rounds
                began = time.perf_counter()
                images.setdefault(rounds, []).append(student.get_outputs(rays)["rgb"].cpu())
                seconds[rounds] += time.perf_counter() - began
        slow, fast = (len(torch.cat(images[rounds])) / seconds[rounds] for rounds in seconds)
        error = (torch.cat(images[ALL_AT_ONCE]) - torch.cat(images[first_round])).abs().max()
        print(f"| {place} | {slow:,.0f} | {fast:,.0f} | {fast / slow:.2f} | {float(error):.1e} |")


if __name__ == "__main__":
    main(sys.argv[1:])
