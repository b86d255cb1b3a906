"""Views of a scene of which nothing but the trained run is left: cameras on a sphere around it."""

from dataclasses import dataclass, field
from math import radians, tan
from pathlib import Path

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.scene_box import SceneBox

from pvd_nerfstudio.data.views import sphere


@dataclass
class OrbitDataParserConfig(DataParserConfig):
    """Cameras around the scene box, for want of a data set; it has no photographs."""

    _target: type = field(default_factory=lambda: OrbitDataParser)
    radius: float = 0.0
    """Distance of the cameras from the middle of the scene box; 0: between the teacher's near and far planes, or
    without a near plane the diagonal of the box."""
    views: int = 100
    """Number of training views; evaluation has a tenth."""
    size: int = 200
    """Width and height of a view in pixels."""
    field_of_view: float = 40.0
    """Horizontal angle of view in degrees."""
    box: tuple[float, float, float, float, float, float] = (-1.0, -1.0, -1.0, 1.0, 1.0, 1.0)
    """Scene box: its lower corner, then its upper one."""


class OrbitDataParser(DataParser):
    """Makes the views; file names are made up, no such file exists."""

    config: OrbitDataParserConfig

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: dict | None) -> DataparserOutputs:
        del kwargs
        config = self.config
        aabb = torch.tensor(config.box).view(2, 3)
        radius = config.radius or float((aabb[1] - aabb[0]).norm())
        count = config.views if split == "train" else max(1, config.views // 10)
        focal = config.size / 2 / tan(radians(config.field_of_view) / 2)
        cameras = Cameras(
            camera_to_worlds=sphere(count, radius, aabb.mean(dim=0)),
            fx=focal,
            fy=focal,
            cx=config.size / 2,
            cy=config.size / 2,
            width=config.size,
            height=config.size,
        )
        names = [Path(f"made-up-{split}-view-{number}") for number in range(count)]
        return DataparserOutputs(image_filenames=names, cameras=cameras, scene_box=SceneBox(aabb=aabb))
