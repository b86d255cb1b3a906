"""Which pixels of a photograph still show what an edited scene does: those whose rays meet the scene and no edit.

Geometry alone decides, so that a student's photographs can be compared without its teacher. It is on the safe side: a
ray that passes a box around an edited place counts as edited, also where that is hidden or was empty. Along rays one
looks for those edits alone that have no such box: of half-spaces and complements.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor
from torch.nn import functional

from pvd_nerfstudio.edits.kinds import Edit, any_changes
from pvd_nerfstudio.rendering.occupancy import box_span
from pvd_nerfstudio.rendering.pixels import rays_at
from pvd_nerfstudio.rendering.space import Spacing

BLOCK, MOST_RAYS = 4, 10_000
"""Pixels along the side of a square that one ray stands for; more where a view would need more rays than that."""
STEPS = 512
"""Places along a ray that are looked at."""
THROUGH_ALL = Spacing(2 / STEPS, bend=1.0)
"""How these lie where space is unbounded."""
RAYS_AT_ONCE = 1 << 10


@torch.no_grad()
def untouched(camera: Cameras, edits: Sequence[Edit], box: Float[Tensor, "2 3"] | None) -> Bool[Tensor, "height width"]:
    """Pixels of one camera, `[1]` in shape, that show the scene and that no edit has changed.

    Args:
        camera: the camera.
        edits: what was edited.
        box: outside which there is nothing, before and after; None: all of space counts.
    """
    height, width = int(camera.height), int(camera.width)
    block = max(BLOCK, math.ceil(math.sqrt(height * width / MOST_RAYS)))
    rows, columns = (torch.arange(block // 2, side + block // 2, block).clamp_max(side - 1) for side in (height, width))
    pixels = (rows[:, None] * width + columns).flatten()
    rays = rays_at(camera, pixels)
    parts = zip(rays.origins.split(RAYS_AT_ONCE), rays.directions.split(RAYS_AT_ONCE))
    touched = torch.cat([_is_of_no_use(*part, edits, box) for part in parts]).view(1, len(rows), len(columns)).float()
    touched = functional.max_pool2d(touched, 3, stride=1, padding=1)  # what lies between two rays
    whole = touched.repeat_interleave(block, dim=1).repeat_interleave(block, dim=2)
    return whole[0, :height, :width] == 0


def _is_of_no_use(
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    edits: Sequence[Edit],
    box: Float[Tensor, "2 3"] | None,
) -> Bool[Tensor, "rays"]:
    """Which rays pass a place that an edit has changed, or miss the scene: that all agree there says nothing."""
    is_of_no_use = torch.zeros_like(origins[:, 0], dtype=torch.bool)
    unknown = []
    for edit in edits:
        known = [place.to(origins) for place in edit.places if place.isfinite().all()]
        for place in known:
            enters, leaves = box_span(origins, directions, place)
            is_of_no_use |= (leaves >= enters.clamp_min(0))[:, 0]
        if len(known) < len(edit.places):
            unknown.append(edit)
    if box is None:
        distance = THROUGH_ALL.distance(torch.arange(STEPS, device=origins.device)).expand(len(origins), -1)
    else:
        enters, leaves = box_span(origins, directions, box.to(origins))
        is_of_no_use |= (leaves <= enters.clamp_min(0))[:, 0]
        distance = torch.lerp(enters.clamp_min(0), leaves, torch.linspace(0, 1, STEPS, device=origins.device))
    if unknown:
        places = origins[:, None] + distance[..., None] * directions[:, None]
        is_of_no_use |= any_changes(unknown, places.flatten(0, 1)).view(len(origins), -1).any(dim=-1)
    return is_of_no_use
