"""Views of a scene of which nothing but the trained run is left: cameras on a sphere around it, or on a path."""

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from nerfstudio.cameras.camera_paths import get_path_from_json
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.scene_box import SceneBox

from pvd_nerfstudio.data.views import sphere
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.help import tell_defaults
from pvd_nerfstudio.input.ranges import ANY, at_least, between, inside
from pvd_nerfstudio.input.text import plain

Box = tuple[float, float, float, float, float, float]
"""Lower corner, then upper one."""
EVALUATED = 10
"""One in so many views is for evaluation."""
LARGEST_PATH = 1 << 26
"""Bytes of a camera path that are read."""
FILLED = 0.9
"""Share of the scene box's diagonal from which on a region fills it."""


@dataclass
class OrbitDataParserConfig(DataParserConfig):
    """Cameras on a sphere, for want of a data set; it has no images."""

    ranges = {
        "radius": at_least(0),
        "views": between(1, 100_000),
        "size": between(1, 1 << 16),
        "field_of_view": inside(0, 180),
        "box": ANY,
        "region": ANY,
    }

    _target: type = field(default_factory=lambda: OrbitDataParser)
    radius: float = 0.0
    """Distance of the cameras from the middle of the region; left out: between the teacher's near and far planes,
    without a near plane the diagonal of the region, and 1 in a room or a street."""
    views: int = 100
    """Number of training views; evaluation has a tenth."""
    size: int = 200
    """Width and height of a view in pixels; also where a data set's images are gone and nothing else tells."""
    field_of_view: float = 40.0
    """Horizontal angle of view in degrees."""
    box: Box = (-1.0, -1.0, -1.0, 1.0, 1.0, 1.0)
    """Scene box: its lower corner, then its upper one."""
    whole: bool | None = None
    """Whether the views are all around, from below, too; left out: where nobody knows which way is up."""
    region: Box | None = None
    """Box that the cameras look at; left out: around what the teacher shows in the scene box."""
    camera_path: Path | None = None
    """A camera path as nerfstudio's viewer saves it: its cameras are the views in place of those on a sphere, as high
    as `size` says, and every tenth is for evaluation."""

    def look_at(self, region: Box | None, contracted: bool) -> None:
        """Put the cameras around a region, from a distance that suits it.

        A contracted scene that fills its box is a room or a street: nerfstudio's dataparsers put the cameras into the
        unit box.
        """
        self.region = region
        inside, outside = region or self.box, self.box
        size = math.dist(inside[:3], inside[3:])
        filled = size > FILLED * math.dist(outside[:3], outside[3:])
        self.radius = self.radius or (1.0 if contracted and filled else size)

    def over(self, other: "OrbitDataParserConfig") -> "OrbitDataParserConfig":
        """What this one says, and what another one says where this one is as nobody has changed it."""
        nobody, own = vars(OrbitDataParserConfig()), vars(self)
        return replace(other, **{name: value for name, value in own.items() if value != nobody[name]})

    @property
    def distance(self) -> float:
        """How far from what they look at the cameras stand."""
        return self.radius or math.dist(self.box[:3], self.box[3:])

    @property
    def is_on_path(self) -> bool:
        """Whether the cameras are those of a path; one that is gone is no reason not to open a run."""
        return self.camera_path is not None and self.camera_path.is_file()

    @property
    def words(self) -> str:
        """Which views these are."""
        if self.is_on_path:
            return f"The cameras of {plain(self.camera_path)}"
        return f"{self.views} pseudo views, at a distance of {self.distance:.2g} around what the teacher shows,"


tell_defaults(OrbitDataParserConfig, {"radius": lambda default: "by the region" if default == "0.0" else default})


class OrbitDataParser(DataParser):
    """Makes the views; the file names stand for files that do not exist."""

    config: OrbitDataParserConfig

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: dict | None) -> DataparserOutputs:
        del kwargs
        config = self.config
        aabb = torch.tensor(config.box).view(2, 3)
        middle = torch.tensor(config.region or config.box).view(2, 3).mean(dim=0)
        share = 1 if split == "train" else EVALUATED
        if config.camera_path is not None and config.is_on_path:
            cameras = cameras_of_path(config.camera_path, config.size)[::share]
        else:
            count = max(1, config.views // share)
            focal = config.size / 2 / math.tan(math.radians(config.field_of_view) / 2)
            cameras = Cameras(
                camera_to_worlds=sphere(count, config.distance, middle, bool(config.whole)),
                fx=focal,
                fy=focal,
                cx=config.size / 2,
                cy=config.size / 2,
                width=config.size,
                height=config.size,
            )
        names = [Path(f"pseudo-{split}-view-{number}") for number in range(len(cameras))]
        return DataparserOutputs(image_filenames=names, cameras=cameras, scene_box=SceneBox(aabb=aabb))


def cameras_of_path(path: Path, height: int) -> Cameras:
    """The cameras of a path that nerfstudio's viewer has saved, so many pixels high.

    Raises:
        InputError: there is no such file, or it is none of the viewer's.
    """
    problem = "there is no such file"
    if path.is_file():
        try:
            with path.open("rb") as file:
                cameras = get_path_from_json(json.loads(file.read(LARGEST_PATH)))
            if not cameras.camera_to_worlds.isfinite().all() or not (cameras.fx > 0).all():
                raise ValueError("its numbers make no sense")
            cameras.rescale_output_resolution(height / int(cameras.height[0]))
            return cameras
        except Exception as error:  # whatever is made of a file of another kind
            problem = f"{type(error).__name__}: {plain(error)}"
    raise InputError(
        f"{plain(path)} is no camera path of nerfstudio's viewer ({problem}). The viewer saves one under Render; name "
        "it with --pipeline.datamanager.orbit.camera-path, or leave that out to have cameras all around."
    )
