"""The data set: images that may be missing, their masks, and evaluation views with the teacher's rendering."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader
from torch import Tensor
from torch.nn.functional import pad

from pvd_nerfstudio.data.images import read_image, read_mask
from pvd_nerfstudio.data.poses import without_lost_pose
from pvd_nerfstudio.data.reviewed import check_outputs, in_single_precision
from pvd_nerfstudio.data.untouched import untouched
from pvd_nerfstudio.edits.file import Edits
from pvd_nerfstudio.edits.kinds import box_of
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.text import is_file, plain

ROUNDING = 2
"""Pixels by which an image may differ from its camera's size, which is scaled and rounded."""


class DistillationDataset(InputDataset):
    """Cameras, and images for those who ask: those on disk, or else what `render` makes of a view."""

    def __init__(self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0) -> None:
        dataparser_outputs = without_lost_pose(dataparser_outputs)
        check_outputs(dataparser_outputs)
        in_single_precision(dataparser_outputs.cameras)
        super().__init__(dataparser_outputs, scale_factor)
        self.frame_box = self.scene_box
        if not any(self.has_image):
            self._dataparser_outputs = replace(dataparser_outputs, mask_filenames=None)

    render: Callable[[int], Tensor] | None = None
    """Renders a view whose image is missing, `[height, width, 3]`."""
    frame_box: SceneBox
    """The box that the teacher was trained in."""
    is_compared = False
    """Whether what an edit has changed is masked in its images, and rendered where nothing else is left of one."""
    _edits: Edits = ()
    _is_bounded = True

    def take_edits(self, earlier: Edits, edits: Edits, bounded: bool) -> None:
        """Have the box of an edited scene; images then count where no edit has changed what they show.

        Args:
            earlier: what had been done to the teacher's own teachers.
            edits: what is done to the teacher.
            bounded: whether there is nothing outside the scene box.
        """
        self._edits, self._is_bounded = earlier + edits, bounded
        self.scene_box = SceneBox(aabb=box_of(edits, self.frame_box.aabb)) if bounded else self.frame_box

    def untouched(self, view: int) -> Bool[Tensor, "height width"] | None:
        """Which pixels of a view no edit has changed; None: all."""
        if not self._edits:
            return None
        if view not in self._untouched:
            camera = copy.deepcopy(self.cameras[view : view + 1]).to("cpu")
            box = self.scene_box.aabb if self._is_bounded else None
            self._untouched[view] = untouched(camera, self._edits, box)
        return self._untouched[view]

    @cached_property
    def _untouched(self) -> dict[int, Tensor]:
        return {}

    def counts(self, view: int) -> bool:
        """Whether a view's image is on disk and shows, at least in part, what there is to see."""
        if not self.has_image[view]:
            return False
        mask = self.mask(view) if self._edits else None
        return mask is None or bool(mask.any())

    def mask(self, view: int) -> Bool[Tensor, "height width"] | None:
        """Which pixels of a view count, by its mask on disk and by what was edited; None: all."""
        paths, untouched = self._dataparser_outputs.mask_filenames, self.untouched(view)
        if paths is None:
            return untouched
        mask = torch.from_numpy(read_mask(Path(paths[view]), self.scale_factor))
        return mask if untouched is None else mask & _fitted(untouched, mask.shape[0], mask.shape[1])

    def get_data(self, image_idx: int, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """nerfstudio's; what an edit has changed is masked."""
        data = super().get_data(image_idx, *args, **kwargs)
        if self._edits and self.is_compared and self.counts(image_idx):
            mask = self.mask(image_idx)
            assert mask is not None
            data["mask"] = _fitted(mask, *data["image"].shape[:2])[..., None]
        return data

    @cached_property
    def has_image(self) -> list[bool]:
        """Which views' images are on disk."""
        return [is_file(Path(path)) for path in self.image_filenames]

    def keep_alpha(self) -> None:
        """From now on give images with their alpha channel, not blended with a colour."""
        self._dataparser_outputs = replace(self._dataparser_outputs, alpha_color=None)

    def get_numpy_image(self, image_idx: int) -> UInt8[np.ndarray, "height width channels"]:
        """Image of a view.

        Raises:
            InputError: it cannot be read, or is not of its camera's size.
        """
        path = Path(self.image_filenames[image_idx])
        image = read_image(path, self.scale_factor)
        size = int(self.cameras.height[image_idx]), int(self.cameras.width[image_idx])
        if max(abs(ours - theirs) for ours, theirs in zip(image.shape, size)) > ROUNDING:
            raise InputError(
                f"{plain(path)} is {image.shape[1]} x {image.shape[0]} pixels, its camera {size[1]} x {size[0]}. Is it "
                "another image than the one that the pose was found for?"
            )
        return image

    def get_image_float32(self, image_idx: int) -> Tensor:
        """Image or rendering of a view.

        Raises:
            InputError: there is neither.
        """
        path = Path(self.image_filenames[image_idx])
        if is_file(path) and (self.render is None or not self.is_compared or self.counts(image_idx)):
            return super().get_image_float32(image_idx)
        if self.render is None:
            raise InputError(
                f"The image {path} is missing, and without it there is nothing to evaluate against. "
                "Put it back, or set the data set's path in config.yml."
            )
        return self.render(image_idx)


def photographed(dataset: InputDataset) -> list[int]:
    """Views of a data set whose images can be read; one that is not ours has them all, in its own way."""
    if not isinstance(dataset, DistillationDataset):
        return list(range(len(dataset)))
    return [view for view in range(len(dataset)) if dataset.counts(view)]


def mask_of(dataset: InputDataset, view: int) -> Bool[Tensor, "height width"] | None:
    """Which pixels of a view's image count; None: all."""
    if isinstance(dataset, DistillationDataset):
        return dataset.mask(view) if dataset.counts(view) else None
    paths = dataset._dataparser_outputs.mask_filenames
    return None if paths is None else torch.from_numpy(read_mask(Path(paths[view]), dataset.scale_factor))


def _fitted(mask: Bool[Tensor, "height width"], height: int, width: int) -> Bool[Tensor, "rows columns"]:
    """A mask for an image that is larger or smaller than its camera by a pixel or two."""
    fitted = mask.new_zeros(height, width)
    common = mask[:height, :width]
    fitted[: len(common), : common.shape[1]] = common
    return fitted


class ComparisonLoader(FixedIndicesEvalDataloader):
    """Evaluation views: cameras, images and, while there is a teacher, its renderings.

    Those whose images are missing are left out, so that a mean is of one kind; without any image all of them are
    compared with the teacher.
    """

    def __init__(self, dataset: InputDataset, **kwargs: Any) -> None:
        super().__init__(dataset, image_indices=tuple(photographed(dataset)) or None, **kwargs)  # type: ignore[arg-type]

    render: Callable[[Cameras], Tensor] | None = None
    """The teacher's rendering of a camera, `[height, width, 3]`."""

    def __next__(self) -> tuple[Cameras, dict]:
        return self.beside(*super().__next__())

    def beside(self, camera: Cameras, batch: dict) -> tuple[Cameras, dict]:
        """A view with the teacher's rendering in the batch; where that is its image, it is not rendered twice."""
        is_photograph = int(batch["image_idx"]) in photographed(self.input_dataset)
        if self.render is None:
            return camera, batch | {"is_photograph": is_photograph}
        teacher = self.render(camera) if is_photograph else batch["image"]
        return camera, batch | {"is_photograph": is_photograph, "teacher": teacher}


class Images:
    """The images of a data set in memory, a byte for each number, and their masks.

    Args:
        dataset: whose; what it says of the alpha channel holds.
    """

    def __init__(self, dataset: DistillationDataset) -> None:
        self._dataset = dataset

    def read(self, views: Int[Tensor, "rays"], pixels: Int[Tensor, "rays 2"]) -> Float[Tensor, "rays channels"]:
        """Pixels, on the CPU.

        Args:
            views: numbers of views.
            pixels: row and column in each.
        """
        return _picked(self._images, views, pixels) / 255

    def counted(self, views: Int[Tensor, "rays"], pixels: Int[Tensor, "rays 2"]) -> Bool[Tensor, "rays"]:
        """Which pixels are there and not masked; arguments as those of `read`."""
        counts = [self._dataset.counts(view) for view in range(len(self._dataset))]
        there = torch.tensor(counts, device=views.device)[views]
        masks = self._masks
        return there if masks is None else there & _picked(masks, views, pixels).to(views.device)

    @cached_property
    def _masks(self) -> list[Tensor] | None:
        masks = [mask_of(self._dataset, view) for view in range(len(self._dataset))]
        if all(mask is None for mask in masks):
            return None
        nothing = torch.zeros(1, 1, dtype=torch.bool)  # of a view without an image
        return [nothing if mask is None else mask for mask in masks]

    @cached_property
    def _images(self) -> list[UInt8[Tensor, "height width channels"]]:
        nothing = torch.zeros(1, 1, 3, dtype=torch.uint8)  # of a view without an image, which is not counted
        images = [
            (self._dataset.get_image_float32(view) * 255).round().byte() if is_there else nothing
            for view, is_there in enumerate(self._dataset.has_image)
        ]
        channels = max(image.shape[-1] for image in images)  # one without opacity among others is opaque
        return [pad(image, (0, channels - image.shape[-1]), value=255) for image in images]


def _picked(images: list[Tensor], views: Int[Tensor, "rays"], pixels: Int[Tensor, "rays 2"]) -> Tensor:
    """Pixels of images; where rounding has made one smaller than its camera, those at its edge."""
    views, pixels = views.cpu(), pixels.cpu()
    picked = images[0].new_empty(len(views), *images[0].shape[2:])
    for view in views.unique().tolist():
        here = (views == view).nonzero()[:, 0]
        last = torch.tensor(images[view].shape[:2]) - 1
        row, column = pixels[here].minimum(last).unbind(dim=-1)
        picked[here] = images[view][row, column]
    return picked
