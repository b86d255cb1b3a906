"""Images and training take turns."""

import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from helpers import open_old_run

from pvd_nerfstudio.rendering.turns import MOMENT, Turns, portions


def test_nobody_is_overtaken() -> None:
    """Of an ordinary lock the greedy one would have nearly all turns."""
    turns, order = Turns(), []

    def patient() -> None:
        for _ in range(3):
            with turns:
                order.append("patient")
                time.sleep(0.01)

    other = threading.Thread(target=patient)
    with turns:
        other.start()
        time.sleep(0.1)
    for _ in range(3):
        with turns:
            order.append("greedy")
            time.sleep(0.01)
    other.join()
    assert order == ["patient", "greedy"] * 3


def test_who_is_interrupted_while_it_waits_holds_nobody_up() -> None:
    turns = Turns()

    def interrupt(frame: object, event: str, arg: object) -> object:
        raise KeyboardInterrupt

    def waiting() -> None:
        sys.settrace(interrupt)  # as the viewer does; strikes in the queue
        with pytest.raises(KeyboardInterrupt), turns:
            pass
        sys.settrace(None)

    with turns:
        other = threading.Thread(target=waiting)
        other.start()
        other.join()
    with turns:
        pass
    assert not turns._queue


def test_an_exception_while_others_have_their_turn_holds_nobody_up() -> None:
    """Ctrl-C in the main thread, whose image has given way."""
    turns, inside = Turns(), []

    def waiting() -> None:
        with turns:
            inside.append(1)
            time.sleep(0.3)
            inside.append(2)

    def interrupt(*_: object) -> object:
        raise KeyboardInterrupt

    other = threading.Thread(target=waiting)

    def image() -> None:
        with turns:
            other.start()
            time.sleep(0.1)
            turns._changed.wait_for = interrupt  # strikes while it waits for its turn to come back
            turns.give_way(nullcontext)

    with pytest.raises(KeyboardInterrupt):
        image()
    del turns._changed.wait_for
    with turns:
        assert inside == [1, 2]  # nobody was overtaken
    other.join()
    assert not turns._queue


def test_what_an_exception_left_in_the_queue_does_no_harm() -> None:
    turns = Turns()
    turns._queue.append(threading.get_ident())
    with turns:
        pass
    assert not turns._queue


def test_portions_are_a_moments_work_and_all_of_it() -> None:
    seen, breaks = [], []
    for part in portions(4000, 2000, lambda: breaks.append(time.sleep(0.05))):
        seen.append(len(range(4000)[part]))
        time.sleep(seen[-1] * MOMENT / 500)
    assert sum(seen) == 4000 and len(breaks) == len(seen)
    assert all(350 < size <= 500 for size in seen[1:-1])
    assert len(list(portions(4000, 2000, lambda: None))) == 3  # 1,024, and then as many as memory allows


def test_training_goes_on_while_an_image_is_made(scene: Path) -> None:
    _, pipeline, _ = open_old_run("mlp", scene)
    model, turns, steps = pipeline.student, Turns(), []
    model.config.eval_num_rays_per_chunk = 200
    camera = pipeline.datamanager.train_dataset.cameras[:1]
    model.eval()
    alone = model.get_outputs_for_camera(camera)["rgb"]
    model.turns, images = turns, []

    def draw() -> None:
        with turns:
            images.append(model.eval().get_outputs_for_camera(camera)["rgb"])

    with turns:
        viewer = threading.Thread(target=draw)
        viewer.start()
        time.sleep(0.1)
    while not images:
        with turns:
            model.train()
            steps.append(len(images))
    viewer.join()
    assert steps.count(0) >= 1600 / 200 - 1
    torch.testing.assert_close(images[0], alone)
