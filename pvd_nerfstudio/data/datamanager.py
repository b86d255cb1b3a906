"""The data manager: cameras for the rays that the teacher is queried with, images for evaluation alone."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from jaxtyping import Bool, Float, Int
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.configs.dataparser_configs import all_dataparsers
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.pixel_samplers import PixelSampler
from nerfstudio.data.scene_box import SceneBox
from torch import Generator, Tensor

from pvd_nerfstudio.data import views
from pvd_nerfstudio.data.dataset import ComparisonLoader, DistillationDataset, Images, photographed
from pvd_nerfstudio.data.orbit import Box, OrbitDataParserConfig
from pvd_nerfstudio.data.poses import Found, find
from pvd_nerfstudio.data.pseudo import PseudoViews
from pvd_nerfstudio.data.reviewed import is_reviewed, reading
from pvd_nerfstudio.edits.file import parse_saved
from pvd_nerfstudio.edits.kinds import Copy, Insert, Move
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.help import hide
from pvd_nerfstudio.input.ranges import ANY, COUNT, SHARE, above, at_least
from pvd_nerfstudio.input.renamed import Renamed
from pvd_nerfstudio.input.text import plain, say
from pvd_nerfstudio.rendering.pixels import num_pixels, rays_at


@dataclass
class TeacherDataParserConfig(DataParserConfig):
    """The data set that the teacher was trained on; `--data` replaces its path."""


DataParserUnion = tyro.conf.OmitSubcommandPrefixes[
    tyro.extras.subcommand_type_from_defaults(
        {"teacher-data": TeacherDataParserConfig(), **all_dataparsers},
        prefix_names=False,
    )
]
"""nerfstudio's dataparsers, and before them the teacher's own."""


@dataclass
class DistillationDataManagerConfig(Renamed, VanillaDataManagerConfig):
    """Where views come from."""

    old_names = {"pseudo_views_per_part": "pseudo_views_per_chunk"}
    ranges = {
        "pseudo_view_margin": at_least(0),
        "pseudo_view_share": SHARE,
        "pseudo_views_per_chunk": COUNT,
        "frame_box": ANY,
        "train_num_rays_per_batch": COUNT,
        "train_num_images_to_sample_from": at_least(1, also=-1),
        "train_num_times_to_repeat_images": at_least(0, also=-1),
        "eval_num_rays_per_batch": COUNT,
        "eval_num_images_to_sample_from": at_least(1, also=-1),
        "eval_num_times_to_repeat_images": at_least(0, also=-1),
        "eval_image_indices": at_least(0),
        "camera_res_scale_factor": above(0),
        "patch_size": COUNT,
        "pixel_sampler.num_rays_per_batch": COUNT,
        "pixel_sampler.fisheye_crop_radius": above(0),
        "pixel_sampler.max_num_iterations": COUNT,
    }
    named_by_user = False
    """Whether the dataparser was named on the command line; no field, so that no file can say so."""

    _target: type = field(default_factory=lambda: DistillationDataManager)
    dataparser: DataParserUnion = field(default_factory=TeacherDataParserConfig)
    """The data set; left out: the teacher's."""
    orbit: OrbitDataParserConfig = field(default_factory=OrbitDataParserConfig)
    """Views that stand in when the data set cannot be read."""
    pseudo_views: Literal["auto", "around", "front", "path"] = "auto"
    """Pseudo views: around an object, in front of a scene, along the cameras' path; auto: what suits the cameras."""
    pseudo_view_margin: float = 0.1
    """How far they may leave the space in which the cameras stood, as a share of its extent."""
    pseudo_view_share: float = 0.5
    """Share of the rays that come from pseudo views around the scene, not from the training cameras."""
    pseudo_views_per_chunk: int = 96
    """Pseudo views in each chunk of the bank."""
    earlier_edits: tyro.conf.Suppress[str] = ""
    """What had been done to the volumes of the teacher's own teachers, as JSON."""
    edits: tyro.conf.Suppress[str] = ""
    """What is done to the teacher's volume, as JSON; --edits sets it."""
    frame_box: tyro.conf.Suppress[Box | None] = None
    """The teacher's scene box where those have made it another than the data set's."""
    bounded: tyro.conf.Suppress[bool] = True
    """Whether there is nothing outside the scene box, which edits may enlarge then."""
    enlarge_box: bool = True
    """Whether edits that bring matter out of the scene box enlarge it; otherwise they are refused."""


hide(
    DistillationDataManagerConfig,  # training reads the bank, and these are about batches of pixels
    "pixel_sampler",
    "patch_size",
    "masks_on_gpu",
    "images_on_gpu",
    "train_num_rays_per_batch",
    "train_num_images_to_sample_from",
    "train_num_times_to_repeat_images",
    "eval_num_images_to_sample_from",
    "eval_num_times_to_repeat_images",
    "eval_image_indices",
)

EYES = 256
"""Training cameras of which one is the nearest to a point."""
SHOWN = 3
"""Names of missing images that are said."""


class DistillationDataManager(VanillaDataManager[DistillationDataset]):
    """A `VanillaDataManager` that reads no image before somebody asks for one, and lives without any."""

    config: DistillationDataManagerConfig
    train_dataset: DistillationDataset
    eval_dataset: DistillationDataset

    def __init__(self, config: DistillationDataManagerConfig, *args: Any, **kwargs: Any) -> None:
        if config.data is not None:
            config.dataparser.data = Path(config.data)
        # What is not reviewed has not come from a file, for those who read one have refused it, but from another tool.
        is_foreign = not config.named_by_user and not is_reviewed(config.dataparser)
        trusted, found = config.named_by_user or is_foreign, Found(config.dataparser, None)
        if not is_foreign:
            with reading(config.dataparser, trusted):
                found = find(config.dataparser, config.orbit.size)
        if isinstance(config.dataparser, OrbitDataParserConfig):  # a teacher that has no data set
            config.orbit = config.dataparser
        self.stands_in, self.keeps_alpha = found.dataparser in (None, config.orbit), True
        self._place, self._problem = config.dataparser.data, found.problem
        with reading(config.dataparser, trusted):
            try:
                config = replace(config, dataparser=config.orbit if self.stands_in else found.again, data=None)
                super().__init__(config, *args, **kwargs)
            except InputError:
                raise
            except Exception as error:  # a dataparser may fail in any way, for evaluation views alone, too
                raise InputError(
                    f"The data set {plain(self._place)} cannot be read: {type(error).__name__}: {plain(error)}. Put it "
                    "right, or name another place with --data."
                ) from error

    def create_train_dataset(self) -> DistillationDataset:
        """nerfstudio's, of the edited scene."""
        return self._edited(super().create_train_dataset())

    def create_eval_dataset(self) -> DistillationDataset:
        """nerfstudio's, of the edited scene; what an edit has changed is masked."""
        dataset = self._edited(super().create_eval_dataset())
        dataset.is_compared = True
        return dataset

    def _edited(self, dataset: DistillationDataset) -> DistillationDataset:
        config = self.config
        if not isinstance(dataset, DistillationDataset):  # another tool's
            return dataset
        if config.frame_box is not None:
            dataset.frame_box = SceneBox(aabb=torch.tensor(config.frame_box).view(2, 3))
        before = dataset.frame_box.aabb
        dataset.take_edits(parse_saved(config.earlier_edits), parse_saved(config.edits), config.bounded)
        if not config.enlarge_box and not torch.equal(dataset.scene_box.aabb, before):
            raise InputError(
                f"--edits bring matter out of the scene box {before.tolist()}: around all is "
                f"{dataset.scene_box.aabb.tolist()}. Leave --pipeline.datamanager.enlarge-box out to have a larger box."
            )
        return dataset

    def say_what_is_missing(self) -> None:
        """Print what of the data set cannot be read, and what is used in its place."""
        if self.stands_in and self._problem is None:
            say(f"{self.config.orbit.words} are the cameras (--pipeline.datamanager.orbit.*).")
        elif self.stands_in:
            say(
                f"The data set {self._place} cannot be read ({self._problem}). {self.config.orbit.words} "
                "stand in for its cameras (--pipeline.datamanager.orbit.*). Of an object that was seen from "
                "all around (lego) nothing was lost; expect much less of a room, or of a scene seen from one side.",
                "yellow",
            )
        elif self._problem is not None:
            say(f"Images of {self._place} are gone ({self._problem}). Its poses are used.", "yellow")
        for dataset, use in ((self.train_dataset, "training"), (self.eval_dataset, "evaluation")):
            self._say_missing(dataset, use)

    def _say_missing(self, dataset: DistillationDataset, use: str) -> None:
        missing = [path for path, there in zip(dataset.image_filenames, dataset.has_image) if not there]
        if missing and not self.stands_in:
            more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
            names = ", ".join(plain(path) for path in missing[:SHOWN])
            what = "are left out" if len(missing) < len(dataset) else "are the teacher's to show"
            say(f"Of {len(dataset)} {use} images {len(missing)} are missing and {what}: {names}{more}.", "yellow")
        if not len(dataset):
            say(f"The data set has no {use} view: there is nothing to evaluate on.", "yellow")

    def say_where_views_are(self) -> None:
        """Print which pseudo views suit the cameras."""
        say(
            f"Pseudo views: {self.pseudo_views.words} (--pipeline.datamanager.pseudo-views), "
            f"{self.config.pseudo_view_margin:.0%} beyond the cameras' space at most."
        )

    def setup_train(self) -> None:
        """Only the cameras are needed; the pixel sampler carries the batch size that nerfstudio's exporter sets."""
        self.train_cameras = self.train_dataset.cameras.to(self.device)
        self.train_pixel_sampler = PixelSampler(
            self.config.pixel_sampler, num_rays_per_batch=self.config.train_num_rays_per_batch
        )
        chosen = None if self.config.pseudo_views == "auto" else self.config.pseudo_views
        edits = parse_saved(self.config.edits)
        self._motions = [edit.motion for edit in edits if isinstance(edit, (Copy, Insert, Move))]
        self.pseudo_views = PseudoViews(self.train_cameras, chosen, self.config.pseudo_view_margin, self._motions)
        self._generator = Generator(device=self.train_cameras.device).manual_seed(0)
        # The viewer pins an image to each training camera: a grey one where that is missing.
        size = int(self.train_cameras.height[0]), int(self.train_cameras.width[0]), 3
        self.train_dataset.render = lambda _: torch.full(size, 0.5)

    def setup_eval(self) -> None:
        """Loaders that read an image when its turn comes."""
        self.fixed_indices_eval_dataloader = ComparisonLoader(self.eval_dataset, device=self.device)
        self.eval_dataloader = ComparisonLoader(self.eval_dataset, device=self.device)

    @property
    def frame_box(self) -> SceneBox:
        """The box that the teacher was trained in; other tools' data sets know of no other than their own."""
        return getattr(self.train_dataset, "frame_box", self.train_dataset.scene_box)

    @cached_property
    def eyes(self) -> Float[Tensor, "eyes 3"]:
        """Where some training cameras stand, and where they would if they had moved along with what edits bring."""
        poses = self.train_cameras.camera_to_worlds
        some = poses[torch.linspace(0, len(poses) - 1, min(len(poses), EYES)).long()]
        return torch.cat([some, *(motion.carried(some) for motion in self._motions)])[:, :, 3]

    @property
    def are_edited(self) -> bool:
        """Whether images on disk show another scene than what is learned, here or there."""
        return bool(self.config.edits or self.config.earlier_edits)

    @property
    def has_images(self) -> bool:
        """Whether there are training images."""
        return bool(photographed(self.train_dataset))

    @property
    def has_eval_images(self) -> bool:
        """Whether there are evaluation images."""
        return bool(photographed(self.eval_dataset))

    def compare_with(self, render: Callable[[Cameras], Tensor]) -> None:
        """From now on evaluation views come with the teacher's renderings, which also stand in for missing images.

        Args:
            render: the teacher's rendering of a camera, `[height, width, 3]`.
        """
        if not self.eval_dataset:
            return
        self.eval_dataloader.render = self.fixed_indices_eval_dataloader.render = render
        cameras = self.eval_dataset.cameras
        self.eval_dataset.render = lambda view: render(cameras[view : view + 1]).cpu()

    def draw_rays(self, count: int, generator: Generator) -> RayBundle:
        """Rays of training cameras and pseudo ones."""
        none = self.train_cameras.camera_to_worlds[:0]
        return self.viewpoints(none, generator).rays(count, generator)

    def viewpoints(self, hard: Float[Tensor, "views 3 4"], generator: Generator) -> views.Viewpoints:
        """Cameras for one chunk of the bank: the training ones, pseudo ones and, in place of some of these, hard ones.

        Args:
            hard: poses that are to be among them.
            generator: of the pseudo ones.
        """
        share, count = self.config.pseudo_view_share, self.config.pseudo_views_per_chunk
        pseudo = self.pseudo_views(count, generator)
        poses = torch.cat([hard, pseudo.camera_to_worlds[len(hard) :]])
        return views.Viewpoints([(views.like(pseudo, poses), share), (self.train_cameras, 1 - share)])

    def draw_views(self, count: int, generator: Generator) -> list[Cameras]:
        """Single cameras, random training ones and pseudo ones."""
        return [camera for camera, _ in self.draw_numbered_views(count, generator)]

    def draw_numbered_views(self, count: int, generator: Generator) -> list[tuple[Cameras, int | None]]:
        """The same with the number of the training camera; None for a pseudo one."""
        device = generator.device
        is_pseudo = torch.rand(count, generator=generator, device=device) < self.config.pseudo_view_share
        chosen = torch.randint(len(self.train_cameras), (count,), generator=generator, device=device)
        pseudo = self.pseudo_views(count, generator)
        pairs = zip(is_pseudo.tolist(), chosen.tolist())
        return [
            (pseudo[i : i + 1], None) if invented else (self.train_cameras[real : real + 1], real)
            for i, (invented, real) in enumerate(pairs)
        ]

    def draw_photographed_views(self, count: int, generator: Generator) -> list[tuple[Cameras, int | None]]:
        """Training cameras alone, of those whose images are there."""
        there = photographed(self.train_dataset)
        chosen = torch.randint(len(there), (count,), generator=generator, device=generator.device).tolist()
        return [(self.train_cameras[there[i] : there[i] + 1], there[i]) for i in chosen]

    def draw_pixels(self, count: int, generator: Generator) -> tuple[RayBundle, Tensor]:
        """Rays through random pixels of the training images that count, and the pixels, `[rays, 3 or 4]`."""
        chosen, pixels = views.random_pixels(self.train_cameras, count, generator)
        seen = self.seen(chosen, pixels).nonzero()[:, 0]
        if not len(seen):
            raise InputError("Masks and missing files leave hardly a pixel of the training images to learn from.")
        again = seen[torch.arange(count, device=seen.device) % len(seen)]
        chosen, pixels = chosen[again], pixels[again]
        rays = self.train_cameras.generate_rays(camera_indices=chosen[:, None], coords=pixels + 0.5)
        return rays, self.read_pixels(chosen, pixels)

    def read_pixels(
        self, cameras: Int[Tensor, "rays"], pixels: Int[Tensor, "rays 2"]
    ) -> Float[Tensor, "rays channels"]:
        """Pixels of training images, with their alpha channel where they have one and `keeps_alpha`.

        Args:
            cameras: numbers of training cameras.
            pixels: row and column in each.
        """
        return self._images.read(cameras, pixels).to(self.train_cameras.device)

    def seen(self, cameras: Int[Tensor, "rays"], pixels: Int[Tensor, "rays 2"]) -> Bool[Tensor, "rays"]:
        """Which pixels of training images are there and not masked; arguments as those of `read_pixels`."""
        return self._images.counted(cameras, pixels)

    @cached_property
    def _images(self) -> Images:
        if self.keeps_alpha:
            self.train_dataset.keep_alpha()
        return Images(self.train_dataset)

    def next_train(self, step: int) -> tuple[RayBundle, dict]:
        """Random rays of the training cameras, without pixels: what nerfstudio's exporters march along."""
        self.train_count += 1
        assert self.train_pixel_sampler is not None
        return views.rays_of(self.train_cameras, self.train_pixel_sampler.num_rays_per_batch, self._generator), {}

    def next_eval(self, step: int) -> tuple[RayBundle, dict]:
        """Random pixels of one evaluation view."""
        self.eval_count += 1
        camera, batch = self._eval_view(step)
        count = self.config.eval_num_rays_per_batch
        seen = views.counted_pixels(batch.get("mask"), num_pixels(camera))
        chosen = seen[torch.randint(len(seen), (count,), generator=Generator().manual_seed(step))]
        return rays_at(camera, chosen), {"image": batch["image"].flatten(0, 1)[chosen]}

    def next_eval_image(self, step: int) -> tuple[Cameras, dict]:
        """An evaluation view, random but the same for the same step."""
        return self.eval_dataloader.beside(*self._eval_view(step))

    def _eval_view(self, step: int) -> tuple[Cameras, dict]:
        views = self.eval_dataloader.image_indices
        if not views:
            raise InputError("The data set has no evaluation view.")
        chosen = torch.randint(len(views), (1,), generator=Generator().manual_seed(step))
        return self.eval_dataloader.get_camera(views[int(chosen)])
