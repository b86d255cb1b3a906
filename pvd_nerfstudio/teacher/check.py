"""Before training: does the teacher fit the data, and do the shared samples show what it shows?"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.model_components.renderers import RGBRenderer
from torch import Tensor

from pvd_nerfstudio.data.dataset import mask_of, photographed
from pvd_nerfstudio.data.views import counted_pixels
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.text import plain, say
from pvd_nerfstudio.rendering.pixels import num_pixels, rays_at
from pvd_nerfstudio.teacher.archive import open_file
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.teacher.pixels import look
from pvd_nerfstudio.teacher.targets import SharedSamples, render_teacher

GAP = 0.2
"""dB that the shared samples may lose before it is worth a warning."""
BROKEN = 20.0
"""dB under which a teacher does not show its scene."""
FRAME = "dataparser_transforms.json"
"""Where nerfstudio says in a run what its dataparser did to the scene's coordinates."""
LARGEST_FRAME = 1 << 16
"""Bytes of it that are read; it has thirteen numbers."""
ALIKE = 35.0
"""dB between both renderings that count as the same where no ground truth can tell."""
SHOWN = {"white": "white", "black": "black", "random": "black"}
"""What nerfstudio's words for a background show in evaluation."""
PIXELS = 2048
"""Pixels of each view that are compared."""


def check_frame(teacher: FrozenTeacher, outputs: DataparserOutputs, scene_box: SceneBox) -> None:
    """Teacher and data must lie in one coordinate frame.

    Args:
        teacher: the teacher.
        outputs: the data set.
        scene_box: the data set's, and what earlier edits have made of it.

    Raises:
        InputError: the data set is scaled, turned or boxed otherwise than the teacher's was.
    """
    teacher.take_box(scene_box)
    box = scene_box.aabb.to(teacher.aabb)
    if not torch.allclose(box, teacher.aabb, atol=1e-4):
        raise InputError(
            f"The data's scene box is {_rounded(box)}, the teacher's {_rounded(teacher.aabb)}. Leave the dataparser "
            "out to take over the teacher's with its options; --data replaces its path alone."
        )
    path = teacher.run.config_path.parent / FRAME
    frame = saved_frame(path)
    if frame is None:
        say(f"{path} is missing: that the data lies in the teacher's frame is taken on trust.")
        return
    transform, scale = frame
    same = torch.allclose(transform, outputs.dataparser_transform.float().cpu(), atol=1e-4)
    if not same or not math.isclose(scale, outputs.dataparser_scale, rel_tol=1e-4):
        raise InputError(
            "The data does not lie in the teacher's frame, so rays would miss its scene.\n"
            f"Teacher ({path}): scale {scale:.6g}, transform {_rounded(transform)}\n"
            f"Data ({outputs.image_filenames[0].parent}): scale {outputs.dataparser_scale:.6g}, "
            f"transform {_rounded(outputs.dataparser_transform)}\n"
            "Use the teacher's data set and the options of its dataparser (leave the dataparser out to take them over)."
        )


def keep_frame(teacher: FrozenTeacher, outputs: DataparserOutputs) -> None:
    """Give pseudo views the teacher's frame, which the student's run then records as its own."""
    frame = saved_frame(teacher.run.config_path.parent / FRAME)
    if frame is not None:
        outputs.dataparser_transform, outputs.dataparser_scale = frame


def saved_frame(path: Path) -> tuple[Float[Tensor, "3 4"], float] | None:
    """Transform and scale that a run's data set was given; None where the file is missing.

    Raises:
        InputError: it holds something else.
    """
    if not path.exists() and not path.is_symlink():
        return None
    with open_file(path) as file:
        text = file.read(LARGEST_FRAME)
    try:
        frame = json.loads(text)
        transform, scale = torch.tensor(frame["transform"], dtype=torch.float32), float(frame["scale"])
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError, RuntimeError) as error:
        raise InputError(f"{plain(path)} does not say where the teacher's scene lies: {plain(error)}.") from error
    if transform.shape != (3, 4) or not transform.isfinite().all() or not 0 < scale < math.inf:
        raise InputError(f"{plain(path)} does not say where the teacher's scene lies: its numbers make no sense.")
    return transform, scale


@dataclass
class _View:
    """Some pixels of one view: as the teacher renders them itself, through the shared samples, and the data set's."""

    native: Tensor | None
    shared: Tensor | None
    image: Tensor | None
    volume: Tensor | None
    """What its density shows, of a teacher whose pictures are drawn."""


def check_renderings(teacher: FrozenTeacher, shared: SharedSamples, dataset: Any, renderer: RGBRenderer) -> None:
    """Print how well the teacher shows its scene, natively and through the shared samples; warn where it does not.

    Args:
        teacher: the teacher.
        shared: the samples of teacher and student.
        dataset: evaluation views, with images on disk or without.
        renderer: says what the student shows where nothing is hit.
    """
    there = photographed(dataset) or list(range(len(dataset)))
    chosen = sorted({there[0], there[len(there) // 2]})
    views = [_view(teacher, shared, dataset, index, renderer) for index in chosen]
    native, own, truth, volume = (_joined([getattr(view, name) for view in views]) for name in vars(views[0]))
    said = []
    if native is not None and own is not None:
        between = "all it shows and its scene box" if teacher.shows_views else "its own samples and the shared ones"
        said.append(f"{_psnr(own, native):.1f} dB between {between}")
    elif native is None:
        why = "its own renderer knows of no edits" if teacher.edits else "its own samples need CUDA"
        said.append(f"{why}, so only the shared ones are looked at")
    if volume is not None and own is not None:
        said.append(f"{_psnr(volume, own):.1f} dB between what it draws and what its density shows")
    if truth is None:
        said.append("no image on disk shows what it shows" if teacher.edits else "there are no images on disk")
    else:
        against = " and ".join(f"{_psnr(image, truth):.2f} dB" for image in (native, own) if image is not None)
        part = " where no edit has changed them" if teacher.edits else ""
        said.append(f"{against} against the data set's images{part}")
    say(f"Teacher on {len(views)} views: {'; '.join(said)}.")
    ours, theirs = SHOWN.get(str(renderer.background_color)), SHOWN.get(teacher.space.background)
    if ours is not None and theirs is not None and ours != theirs:
        _warn(
            f"Where nothing is hit the student shows {ours} and the teacher {theirs}, so these numbers compare two "
            "backgrounds. Leave --pipeline.model.background-color out unless you want another than the teacher's."
        )
        return
    if truth is None:
        if native is not None and own is not None and _psnr(own, native) < ALIKE:
            _warn(f"The shared samples do not show what the teacher shows. {_advice(teacher, shared)}")
        return
    best = max(_psnr(image, truth) for image in (native, own) if image is not None)
    with_own = best if native is None else _psnr(native, truth)
    if with_own < BROKEN:
        _warn(
            f"The teacher looks broken: {with_own:.1f} dB against its own training images. Look at its renderings "
            "(ns-viewer, ns-render) before you distil it: collapsed colours, a wrong background colour and data that "
            "is not its own are the usual reasons."
        )
    if own is not None and with_own - _psnr(own, truth) > GAP:
        _warn(f"The shared samples lose {with_own - _psnr(own, truth):.2f} dB. {_advice(teacher, shared)}")


def _view(teacher: FrozenTeacher, shared: SharedSamples, dataset: Any, index: int, renderer: RGBRenderer) -> _View:
    camera = dataset.cameras[index : index + 1].to(teacher.device)
    seen = counted_pixels(mask_of(dataset, index), num_pixels(camera))
    chosen = seen[torch.linspace(0, len(seen) - 1, min(PIXELS, len(seen))).long()].to(teacher.device)
    native = own = image = volume = None
    rays = rays_at(camera, chosen) if teacher.has_density else None
    through = None if rays is None else render_teacher(teacher, shared, rays, shift=0.5).over(renderer)
    if teacher.shows_views:
        shown = look(teacher, camera, shared.grid.contracted)
        native, own, volume = shown.rendering[chosen], shown.over(renderer)[chosen], through
    else:
        own = through
        if teacher.renders_natively and rays is not None:
            native = teacher.render_rays(rays)
    if index in photographed(dataset):
        image = dataset.get_image_float32(index).to(teacher.device)
        image = renderer.blend_background(image).flatten(0, 1)[chosen]
    return _View(native, own, image, volume)


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    """The pixels of all views; None where some view has none."""
    there = [part for part in parts if part is not None]
    return torch.cat(there) if len(there) == len(parts) else None


def _advice(teacher: FrozenTeacher, shared: SharedSamples) -> str:
    """Which option brings the shared samples closer to the teacher."""
    if teacher.shows_views:
        return "What lies outside its scene box, and what its depth says nothing about, is left out."
    if teacher.space.contracted:
        return (
            "Try a lower --pipeline.occupancy-threshold, then --pipeline.model.grid-resolution 192, then "
            f"--pipeline.model.render-step-size {shared.spacing.step_size / 2:.4g}."
        )
    return (
        f"Try --pipeline.model.render-step-size {shared.spacing.step_size / 2:.4g}, then a lower "
        "--pipeline.occupancy-threshold, then a larger --pipeline.model.grid-resolution."
    )


def _psnr(image: Tensor, target: Tensor) -> float:
    return float(-10 * torch.log10((image - target).square().mean().clamp_min(1e-10)))


def _rounded(matrix: Tensor) -> str:
    return str([[round(value, 4) for value in row] for row in matrix.tolist()])


def _warn(message: str) -> None:
    say(f"Warning: {message}", "bold yellow")
