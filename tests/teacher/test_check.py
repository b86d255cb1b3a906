"""Where a teacher says that its scene lies is read like all that comes with a run."""

import json
import os
from pathlib import Path

import pytest
import torch

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.teacher.check import FRAME, saved_frame

SOUND = {"transform": torch.eye(4)[:3].tolist(), "scale": 0.5}


def test_a_frame_is_read(tmp_path: Path) -> None:
    place = tmp_path / FRAME
    assert saved_frame(place) is None
    place.write_text(json.dumps(SOUND))
    frame = saved_frame(place)
    assert frame is not None and torch.equal(frame[0], torch.eye(4)[:3]) and frame[1] == 0.5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[" * 100000,
        "\ud800",
        json.dumps(SOUND)[:-1],
        json.dumps(SOUND | {"scale": "\x1b[31m"}),
        json.dumps(SOUND | {"scale": None}),
        json.dumps(SOUND | {"scale": 0}),
        json.dumps(SOUND | {"scale": 1e999}),
        json.dumps(SOUND | {"scale": float("nan")}),
        json.dumps(SOUND | {"transform": [[1]]}),
        json.dumps(SOUND | {"transform": "x"}),
        json.dumps(SOUND | {"transform": [[1, 2], [3]]}),
        json.dumps(SOUND | {"transform": [[float("nan")] * 4] * 3}),
        json.dumps(SOUND | {"more": "x" * 100000}),
        '{"transform": [], "scale": ' + "9" * 10000 + "}",
    ],
    ids=lambda text: text[:30].encode("unicode_escape").decode(),
)
def test_a_frame_that_makes_no_sense_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / FRAME).write_bytes(text.encode("utf8", "surrogatepass"))
    with pytest.raises(InputError, match="does not say where the teacher's scene lies") as error:
        saved_frame(tmp_path / FRAME)
    assert "\x1b" not in str(error.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FRAME)
    with pytest.raises(InputError, match="is no file"):
        saved_frame(tmp_path / FRAME)
