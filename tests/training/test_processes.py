"""Two processes on the CPU (gloo): they stop after the same step, the first one saves, and it alone speaks."""

import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import Run, distil_config
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils import comms, writer
from torch.multiprocessing import ProcessRaisedException

from benchmarks.forked import fork, wait
from pvd_nerfstudio import processes
from pvd_nerfstudio.errors import InputError, explain_errors
from pvd_nerfstudio.pipeline import handover


def work(config: TrainerConfig, address: str, rank: int, place: Path) -> None:
    """What ns-train does in each process; the second one's grid begins with other cells."""
    dist.init_process_group("gloo", address, timedelta(minutes=2), 2, rank)
    comms.LOCAL_PROCESS_GROUP = dist.new_group([0, 1])
    writer.EVENT_WRITERS.clear()
    torch.manual_seed(rank)
    fill = handover.fill_grid

    def fill_otherwise(grid, *rest) -> None:
        fill(grid, *rest)
        if rank:
            grid.occupy(grid.occupied & (torch.rand(grid.occupied.shape) < 0.5))

    handover.fill_grid = fill_otherwise
    trainer = config.setup(local_rank=rank, world_size=2)
    trainer.setup()
    trainer.begin()
    (place / f"cells-{rank}").write_text(str(int(trainer.pipeline.student.grid.occupied.sum())))
    (place / f"quiet-{rank}").write_text(str(handover.CONSOLE.quiet))
    trainer.on_step(lambda step: (place / f"step-{rank}").write_text(str(step)))
    trainer.train()


def test_two_processes_stop_together(teacher: Run, tmp_path: Path) -> None:
    config = distil_config(
        tmp_path, "--teacher-checkpoint", str(teacher.folder), "--max-num-iterations", "100000", "--student", "sparse"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    children = [fork(partial(work, config, address, rank, tmp_path)) for rank in (0, 1)]
    deadline = time.monotonic() + 60
    while not all((tmp_path / f"step-{rank}").exists() for rank in (0, 1)) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(children[1], signal.SIGINT)
    time.sleep(0.05)
    os.kill(children[1], signal.SIGTERM)  # as nerfstudio's launcher does at once
    assert [wait(child) for child in children] == [128 + signal.SIGINT] * 2
    cells = [(tmp_path / f"cells-{rank}").read_text() for rank in (0, 1)]
    last = [int((tmp_path / f"step-{rank}").read_text()) for rank in (0, 1)]
    assert cells[0] == cells[1] and last[0] == last[1]
    assert [(tmp_path / f"quiet-{rank}").read_text() for rank in (0, 1)] == ["False", "True"]
    (saved,) = tmp_path.rglob("*.ckpt")
    assert saved.name == f"step-{last[0] + 1:09d}.ckpt", "the step that ended the run is in it, and told nobody"
    assert not list(tmp_path.rglob(".saving-*"))


def test_an_error_of_another_process_is_its_message(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """As nerfstudio's launcher raises it: with that process's traceback."""
    try:
        raise InputError("The data set is gone: name it with --data.")
    except InputError:
        told = f"\n\n-- Process 1 terminated with the following error:\n{traceback.format_exc()}"
    monkeypatch.setattr(sys, "excepthook", lambda *_: pytest.fail("a traceback"))
    explain_errors()
    sys.excepthook(ProcessRaisedException, ProcessRaisedException(told, 1, 2), None)
    assert capsys.readouterr().out.strip() == "The data set is gone: name it with --data."


def test_errors_do_not_wait_for_torch() -> None:
    code = "import sys, pvd_nerfstudio.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_one_process_agrees_with_itself() -> None:
    values = torch.tensor([True, False])
    processes.take_from_first(values)
    assert values.tolist() == [True, False] and processes.rank() == 0 and not processes.are_several()
    assert processes.any_of_them(True, torch.device("cpu"))
    assert processes.numbers_of_first([1.5], torch.device("cpu")) == [1.5]
