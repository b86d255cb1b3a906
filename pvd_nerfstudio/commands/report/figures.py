"""Images of a conversion: ground truth, teacher, student and error, view by view; curves; films."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from pvd_nerfstudio.commands.report.curves import Curve
from pvd_nerfstudio.pipeline.comparison import ERROR_SCALE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABEL = "mean absolute difference of the colours"


@dataclass
class ComparedView:
    """One view; images are `[height, width, 3]` in [0, 1]."""

    student: Tensor
    teacher: Tensor | None = None
    ground_truth: Tensor | None = None

    @property
    def images(self) -> dict[str, Tensor]:
        """Those that there are, by name."""
        named = {"ground truth": self.ground_truth, "teacher": self.teacher, "student": self.student}
        return {name: image for name, image in named.items() if image is not None}

    @property
    def error(self) -> Tensor | None:
        """Student against teacher, or else the ground truth, `[height, width]`; None where there is neither."""
        other = self.ground_truth if self.teacher is None else self.teacher
        return None if other is None else (self.student.float() - other.float()).abs().mean(dim=-1)


def comparison_figure(views: list[ComparedView], names: list[str]) -> "Figure":
    """One row a view, its name at the left; at the right the error with its scale."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    shown = views[0].images
    columns = [*shown, *([] if views[0].error is None else ["error"])]
    height, width = views[0].student.shape[:2]
    size = (2 * len(columns) + 1, 2 * len(views) * height / width + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(views), len(columns), squeeze=False)
    errors = None
    for row, view, name in zip(grid, views, names):
        for axis, image in zip(row, view.images.values()):
            axis.imshow(np.clip(image.float().cpu().numpy(), 0, 1), interpolation="nearest")
        if view.error is not None:
            error = view.error.cpu().numpy()
            errors = row[-1].imshow(error, cmap="inferno", vmin=0, vmax=ERROR_SCALE, interpolation="nearest")
        for axis in row:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        row[0].set_ylabel(name, fontsize=8)
    for axis, name in zip(grid[0], columns):
        axis.set_title(name, fontsize=9)
    if errors is not None:
        against = "ground truth" if "teacher" not in shown else "teacher"
        figure.colorbar(errors, ax=grid[:, -1].tolist(), shrink=0.7, label=f"{LABEL}, student and {against}")
    return figure


def save_comparison(views: list[ComparedView], path: Path, title: str) -> None:
    """Draw one row a view and write it as a PNG."""
    figure = comparison_figure(views, [""] * len(views))
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)


def curves_figure(curves: dict[str, Curve], stages: dict[str, float]) -> "Figure":
    """Loss and PSNR over the steps, one axis each, with the minutes at the top.

    Args:
        curves: names, and points; a name that begins with PSNR goes to the PSNR axis.
        stages: names, and the steps at which they begin.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    figure = Figure(figsize=(8.6, 5), layout="constrained")
    quality, loss = figure.subplots(2, 1, sharex=True)
    for name, points in curves.items():
        axis = quality if name.startswith("PSNR") else loss
        axis.plot([one.step for one in points], [one.value for one in points], label=name, linewidth=1)
    longest = max(curves.values(), key=len)
    steps, minutes = [one.step for one in longest], [one.seconds / 60 for one in longest]
    if minutes[-1] > 0:
        there, back = partial(np.interp, xp=steps, fp=minutes), partial(np.interp, xp=minutes, fp=steps)
        ticks = [tick for tick in MaxNLocator(6).tick_values(0, minutes[-1]) if minutes[0] <= tick <= minutes[-1]]
        quality.secondary_xaxis("top", functions=(there, back)).set(xlabel="minutes", xticks=ticks)
    quality.set(ylabel="PSNR (dB)")
    loss.set(ylabel="loss", yscale="log", xlabel="step", xlim=(steps[0], max(steps[-1], steps[0] + 1)))
    for axis in (quality, loss):
        for name, start in stages.items():
            axis.axvline(start, color="0.6", linestyle="--", linewidth=0.8)
            axis.annotate(name, (start, 0.98), xycoords=("data", "axes fraction"), va="top", fontsize=7, color="0.4")
        axis.grid(alpha=0.25)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    return figure


def sweep_figure(points: dict[str, tuple[float, float, float]], axis: str, teacher: float | None) -> "Figure":
    """Quality of students over their size and over their speed, each a dot with its name.

    Args:
        points: names; PSNR, megabytes and rays per second of each.
        axis: what the PSNR is against.
        teacher: its own PSNR, a line; None where that is not what is drawn.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(8.6, 3.8), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for one, column, label in zip(axes, (1, 2), ("MB", "rays per second")):
        for name, values in points.items():
            one.plot(values[column], values[0], "o", color="C0")
            one.annotate(name, (values[column], values[0]), xytext=(5, 4), textcoords="offset points", fontsize=8)
        if teacher is not None:
            one.axhline(teacher, color="0.5", linestyle="--", linewidth=0.8, label="the teacher")
            one.legend(fontsize=8)
        one.set(xlabel=label, xscale="log")
        one.margins(0.18)
        one.grid(alpha=0.25, which="both")
    axes[0].set_ylabel(f"PSNR against {axis} (dB)")
    return figure


def cameras_figure(groups: dict[str, Tensor], aabb: Tensor) -> "Figure":
    """Cameras from above and from two sides, a dot where each stands and a line where it looks.

    Args:
        groups: names, and camera-to-world matrices `[views, 3, 4]`.
        aabb: the scene box, `[2, 3]`.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.patches import Rectangle  # noqa: PLC0415

    figure = Figure(figsize=(12, 4.4), layout="constrained")
    low, high = aabb.cpu().tolist()
    axes = figure.subplots(1, 3)
    for axis, (across, up) in zip(axes, ((0, 1), (0, 2), (1, 2))):
        axis.add_patch(
            Rectangle((low[across], low[up]), high[across] - low[across], high[up] - low[up], fill=False, color="0.6")
        )
        for number, (name, poses) in enumerate(groups.items()):
            at, towards = poses[:, (across, up), 3].cpu().numpy(), -poses[:, (across, up), 2].cpu().numpy()
            axis.plot(*at.T, ".", color=f"C{number}", markersize=4, label=name)
            axis.quiver(*at.T, *towards.T, color=f"C{number}", width=0.002, headwidth=0, headlength=0, headaxislength=0)
        axis.set(xlabel="xyz"[across], ylabel="xyz"[up], aspect="equal")
        axis.autoscale_view()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(groups), fontsize=9)
    return figure


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
