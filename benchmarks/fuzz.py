"""Opens thousands of damaged and hostile runs and data sets: none may do more than be refused.

    python -m benchmarks.fuzz --output fuzz.json --mutations 10000

Each is opened as our commands open it, as a teacher and, where it is a run of ours, to be resumed. It must end with
the student or teacher in hand, or with an `InputError`: nothing executed, nothing written, no connection, no module
from elsewhere, no wait, no memory beyond what a sound run takes.
"""

import json
import os
import resource
import select
import shutil
import signal
import sys
import sysconfig
import tempfile
import time
import traceback
import warnings
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
import tyro

from benchmarks.forked import fork, in_a_process, wait
from benchmarks.mutations import MARKER, mutate_checkpoint, mutate_config, mutate_image, mutate_poses
from benchmarks.small import quiet, small_student, small_teacher
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.pipeline.handover import load_teacher
from pvd_nerfstudio.registry import pvd_distill
from pvd_nerfstudio.teacher.check import FRAME, saved_frame
from pvd_nerfstudio.teacher.samples import point_samples
from pvd_nerfstudio.trainer_config import PVDTrainerConfig

LONGEST = 5.0
"""Seconds that a run may take to open."""
MOST_MEMORY = 2 << 30
"""Bytes that it may take beyond a sound run."""
SAY_EVERY = 250
KINDS = ("config", "config", "config", "checkpoint", "checkpoint", "checkpoint", "poses", "image", "image", "frame")
STUDENTS = ("mlp", "vm", "sparse", "hash")
EXECUTES = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "subprocess.", "pty.", "pickle.find_class")
CONNECTS = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "urllib.", "ftplib.", "smtplib.")
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "shutil.")
OTHERS = ("builtins.input", "webbrowser.", "os.kill")


@dataclass
class Sound:
    """A run that is as it should be, with its data set."""

    run: Path
    data: Path
    is_ours: bool


@dataclass
class Fuzz:
    """Open what is damaged or hostile."""

    output: Path
    """The file for the figures, JSON."""
    mutations: int = 10000
    """How many are opened."""
    seed: int = 0
    """Seed of the first; each has its own, so that one can be looked at alone with --first."""
    first: int = 0
    """Number of the first."""

    def run(self) -> None:
        """Make sound runs, damage and open them."""
        warnings.filterwarnings("ignore")
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            assert in_a_process(partial(make_sound, place)) == 0, "no sound runs could be made"
            figures = fuzz(sound_runs(place), place, range(self.first, self.first + self.mutations), self.seed)
        self.output.write_text(json.dumps(figures, indent=2), "utf8")
        print(json.dumps(figures, indent=2))
        if figures["failures"]:
            sys.exit(1)


def make_sound(place: Path) -> None:
    """A teacher and students of it, each trained for some steps."""
    teacher = small_teacher(place)
    for student in STUDENTS:
        options = "--max-num-iterations 6 --pipeline.model.hash.log2-hashmap-size 10"
        trainer = small_student(place, student, teacher, student, options).setup(local_rank=0, world_size=1)
        trainer.setup()
        trainer.train()


def sound_runs(place: Path) -> list[Sound]:
    """What `make_sound` has made."""
    found = sorted(path.parent for path in place.glob("**/config.yml"))
    return [Sound(run, place / "scene", run.name in STUDENTS) for run in found]


def fuzz(sound: list[Sound], place: Path, numbers: range, seed: int) -> dict[str, Any]:
    """Open a damaged run for each number; what came of them."""
    counts: Counter[str] = Counter()
    failures: list[str] = []
    peak, slowest, todo, again = 0.0, 0.0, list(numbers), -1
    while todo:
        reader, writer = os.pipe()
        child = fork(partial(_worker, sound, place, todo, seed, writer))
        os.close(writer)
        with os.fdopen(reader) as results:
            while todo:
                ready, _, _ = select.select([results], [], [], LONGEST if counts else 10 * LONGEST)
                if not ready:
                    os.kill(child, signal.SIGKILL)
                line = results.readline()
                if not line:
                    break
                result = json.loads(line)
                assert todo.pop(0) == result["number"]
                counts.update((f"{result['kind']}: {result['end']}",))
                peak, slowest = max(peak, result["memory"]), max(slowest, result["seconds"])
                failures += [f"{result['number']} ({result['kind']}): {problem}" for problem in result["problems"]]
                if len(todo) % SAY_EVERY == 0:
                    print(f"{len(todo)} to go; {len(failures)} failures {failures[-1:]}", file=sys.stderr)
        status = wait(child)
        if todo and again != todo[0] and status == -signal.SIGKILL:
            again = todo[0]  # the machine may have been busy: once more
        elif todo:
            what = f"no answer in {LONGEST:g} s" if status == -signal.SIGKILL else f"the process ended with {status}"
            failures.append(f"{todo.pop(0)}: {what}")
    return {
        "mutations": len(numbers),
        "seed": seed,
        "ends": dict(sorted(counts.items())),
        "slowest, s": round(slowest, 2),
        "memory beyond a sound run, MB": round(peak / 1e6),
        "failures": failures,
    }


@dataclass
class Watch:
    """Takes note of what is done to the machine, and not prevented."""

    allowed: Path
    """Where files may be written."""
    is_on: bool = False
    seen: list[str] = field(default_factory=list)

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        """What `sys.addaudithook` takes."""
        if not self.is_on:
            return
        if event.startswith((*EXECUTES, *CONNECTS, *CHANGES, *OTHERS)) and not self._allows(args):
            self.seen.append(f"{event} {str(args)[:200]}")
        if event == "ctypes.dlopen" and not Path(str(args[0])).is_relative_to(sysconfig.get_paths()["purelib"]):
            self.seen.append(f"loads {args[0]}")
        if event == "open" and isinstance(args[0], (str, bytes)):
            path, mode, flags = args
            writes = any(sign in mode for sign in "wax+") if mode else bool(flags & (os.O_WRONLY | os.O_RDWR))
            if writes and not self._allows(args[:1]):
                self.seen.append(f"writes {os.fsdecode(path)}")

    def _allows(self, args: tuple[Any, ...]) -> bool:
        paths = [Path(os.path.abspath(os.fsdecode(path))) for path in args if isinstance(path, (str, bytes, Path))]
        return bool(paths) and all(path.is_relative_to(self.allowed) or path == Path(os.devnull) for path in paths)


def _worker(sound: list[Sound], place: Path, numbers: list[int], seed: int, writer: int) -> None:
    output = place / "output"
    for one in sound:  # what a sound run imports, writes and takes is nothing to be noted
        open_run(one.run, one.data, one.is_ours, output)
    base, modules = _peak(), set(sys.modules)
    limit = base + MOST_MEMORY + (16 << 30)  # address space; before the machine is out of memory
    resource.setrlimit(resource.RLIMIT_AS, (limit + (64 << 30 if torch.cuda.is_available() else 0), -1))
    watch = Watch(output)
    sys.addaudithook(watch.hook)
    with os.fdopen(writer, "w") as results:
        for number in numbers:
            with tempfile.TemporaryDirectory(dir=place) as folder:
                result = _try(sound, Path(folder), number, seed, watch)
            new = [name for name in set(sys.modules) - modules if _is_foreign(name)]
            modules |= set(sys.modules)
            result["problems"] += [f"imports {name}" for name in new]
            result["memory"] = _peak() - base
            if result["memory"] > MOST_MEMORY:
                result["problems"].append(f"takes {result['memory'] / 1e6:,.0f} MB")
            results.write(json.dumps(result) + "\n")
            results.flush()
            if result["memory"] > MOST_MEMORY:
                return


def _try(sound: list[Sound], folder: Path, number: int, seed: int, watch: Watch) -> dict[str, Any]:
    """Damage one, open it, and say what came of it."""
    chance = Random(f"{seed} {number}")
    one, kind = chance.choice(sound), chance.choice(KINDS)
    run, data = folder / "run", folder / "data"
    shutil.copytree(one.run, run, ignore=shutil.ignore_patterns("events*"), copy_function=os.link)
    shutil.copytree(one.data, data, copy_function=os.link)
    what = mutate(run, data, kind, chance)
    problems, end = [], "opened"
    here, start = Path.cwd(), time.perf_counter()
    os.chdir(folder)
    watch.seen.clear()
    watch.is_on = True
    try:
        open_run(run, data, one.is_ours, watch.allowed)
    except InputError:
        end = "refused"
    except BaseException as error:
        end = "failed"
        where = traceback.extract_tb(error.__traceback__)[-1]
        problems.append(f"{what}: {type(error).__name__}: {str(error)[:300]} ({where.filename}:{where.lineno})")
    finally:
        watch.is_on = False
        os.chdir(here)
    seconds = time.perf_counter() - start
    problems += [f"{what}: {seen}" for seen in watch.seen]
    if list(folder.glob(f"**/{MARKER}")) or Path("/tmp", MARKER).exists():
        problems.append(f"{what}: executed")
    shutil.rmtree(watch.allowed, ignore_errors=True)
    return {"number": number, "kind": kind, "end": end, "seconds": seconds, "problems": problems}


def mutate(run: Path, data: Path, kind: str, chance: Random) -> str:
    """Damage one file of a run or its data set; its name."""
    if kind == "config":
        place = run / "config.yml"
        changed = mutate_config(place.read_text("utf8"), chance).encode("utf8", "surrogatepass")
    elif kind == "checkpoint":
        place = max(run.glob("*/*.ckpt"))
        changed = mutate_checkpoint(place.read_bytes(), chance)
    elif kind in ("poses", "frame"):
        place = data / "transforms_train.json" if kind == "poses" else run / FRAME
        changed = mutate_poses(place.read_text("utf8"), chance).encode("utf8", "surrogatepass")
    else:
        place = chance.choice(sorted(data.glob("**/*.png")))
        mutate_image(place, chance)
        return place.name
    place.unlink()  # it is the sound one's too
    place.write_bytes(changed)
    return place.name


def open_run(run: Path, data: Path, is_ours: bool, output: Path) -> None:
    """What our commands do with a run before they train: as a teacher, and to go on with it."""
    config = _config(output, teacher_checkpoint=run, data=data)
    teacher = load_teacher(config.pipeline, "cpu")
    assert teacher is not None
    saved_frame(run / FRAME)
    points = torch.rand(64, 3)
    teacher.query(point_samples(points, points + 1))
    manager = config.pipeline.datamanager.setup(device="cpu")
    rays, _ = manager.draw_pixels(16, torch.Generator())
    manager.next_eval(0)
    if teacher.renders_natively:
        teacher.render_rays(rays)
    if is_ours:
        trainer = _config(output, load_dir=run / "nerfstudio_models").setup(local_rank=0, world_size=1)
        trainer.setup()


def _config(output: Path, **options: Any) -> PVDTrainerConfig:
    base = deepcopy(pvd_distill.config)
    assert isinstance(base, PVDTrainerConfig)
    base.pipeline.model.grid_resolution = 32
    config = PVDTrainerConfig(
        method_name=base.method_name,
        pipeline=base.pipeline,
        optimizers=base.optimizers,
        machine=base.machine,
        output_dir=output,
        **options,
    )
    quiet(config, output, "fuzz")
    return config


def _is_foreign(name: str) -> bool:
    """Whether a module is from elsewhere than the interpreter, its packages and this project."""
    file = getattr(sys.modules.get(name), "__file__", None)
    paths = sysconfig.get_paths()
    known = {*(paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")), str(Path(__file__).parents[1])}
    return file is not None and not any(Path(file).is_relative_to(folder) for folder in known)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    tyro.cli(Fuzz).run()
