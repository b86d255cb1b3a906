"""The picture of a conversion: photograph, teacher, student and error, view by view."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

ERROR_SCALE = 0.3
"""Error (mean absolute difference of the colours) at the bright end of the colour map."""


@dataclass
class ComparedView:
    """One view; pictures are `[height, width, 3]` in [0, 1]."""

    photograph: Tensor
    teacher: Tensor
    student: Tensor

    @property
    def error(self) -> Tensor:
        """Student against teacher, mean absolute difference of the colours, `[height, width]`."""
        return (self.student - self.teacher).abs().mean(dim=-1)


def save_comparison(views: list[ComparedView], path: Path, title: str) -> None:
    """Draw one row a view and write it as a PNG."""
    from matplotlib import pyplot as plt  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure: Figure = plt.figure(figsize=(8.6, 2.1 * len(views) + 0.5), layout="constrained")
    grid = figure.subplots(len(views), 4, squeeze=False)
    image = None
    for row, view in zip(grid, views):
        for axis, picture in zip(row, (view.photograph, view.teacher, view.student)):
            axis.imshow(np.clip(picture.cpu().numpy(), 0, 1), interpolation="nearest")
        image = row[3].imshow(view.error.cpu().numpy(), cmap="magma", vmin=0, vmax=ERROR_SCALE, interpolation="nearest")
        for axis in row:
            axis.set_axis_off()
    for axis, name in zip(grid[0], ("photograph", "teacher", "student", "student against teacher")):
        axis.set_title(name, fontsize=9)
    if image is not None:
        figure.colorbar(image, ax=grid[:, 3].tolist(), shrink=0.7, label="mean absolute error")
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def save_film(frames: list[Tensor], path: Path, frames_per_second: int = 15) -> None:
    """Write frames `[height, width, 3]` in [0, 1] as an mp4. Needs no ffmpeg program: PyAV carries the encoder."""
    import av  # noqa: PLC0415

    height, width = (side // 2 * 2 for side in frames[0].shape[:2])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=frames_per_second)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            pixels = (frame[:height, :width].clamp(0, 1) * 255).byte().cpu().numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode())
