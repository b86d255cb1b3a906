"""Pixels that no edit has changed, by where their rays pass."""

import json
from pathlib import Path

import pytest
import torch
from teachers import config_of

from pvd_nerfstudio.data.untouched import untouched
from pvd_nerfstudio.edits.file import parse


@pytest.mark.parametrize("bounded", (True, False))
def test_rays_that_pass_a_ball_are_touched_and_few_others(bounded: bool, scene: Path) -> None:
    parser = config_of("vanilla-nerf", scene).pipeline.datamanager.dataparser.setup()
    outputs = parser.get_dataparser_outputs("train")
    camera = outputs.cameras[:1]
    ball = {"kind": "sphere", "center": [0.2, 0.1, 0.3], "radius": 0.25}
    edits = parse(json.dumps({"version": 1, "edits": [{"kind": "recolor", "region": ball, "hue": 90}]}), "edits")
    mask = untouched(camera, edits, outputs.scene_box.aabb if bounded else None)
    rays = camera.generate_rays(camera_indices=0, keep_shape=True)
    to_ball = torch.tensor(ball["center"]) - rays.origins
    distance = (to_ball - (to_ball * rays.directions).sum(dim=-1, keepdim=True) * rays.directions).norm(dim=-1)
    assert mask.shape == distance.shape and not mask[distance < 0.25].any()
    if not bounded:
        assert mask[distance > 0.8].all(), "a block of pixels and its neighbours are lost around it, no more"
    assert mask.any()


def test_where_the_whole_scene_is_edited_nothing_counts(scene: Path) -> None:
    parser = config_of("vanilla-nerf", scene).pipeline.datamanager.dataparser.setup()
    outputs = parser.get_dataparser_outputs("train")
    everywhere = {"kind": "halfspace", "point": [0, 0, -100], "normal": [0, 0, 1]}
    edits = parse(json.dumps({"version": 1, "edits": [{"kind": "erase", "region": everywhere}]}), "edits")
    assert not untouched(outputs.cameras[:1], edits, outputs.scene_box.aabb).any()
