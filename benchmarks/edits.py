"""Edits that are carried from one architecture to another: what comes of them, in numbers.

Runs `pvd convert --minutes 5` as a user types it, one conversion after another, and measures what comes of them. What
is in the folder already is not converted again.

    python -m benchmarks.edits --vm ../shared/teachers/lego-vm --hash ../shared/teachers/lego-hash --folder edits
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.utils.eval_utils import eval_setup
from torch import Tensor

from pvd_nerfstudio.data.images import read_image
from pvd_nerfstudio.data.untouched import untouched
from pvd_nerfstudio.edits.file import Edits, parse
from pvd_nerfstudio.rendering.occupancy import OccupancyGrid, box_span
from pvd_nerfstudio.rendering.pixels import num_pixels, rays_at
from pvd_nerfstudio.student.model import StudentModel
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.teacher.frozen import FrozenTeacher
from pvd_nerfstudio.teacher.occupancy import fill_grid
from pvd_nerfstudio.teacher.samples import point_samples
from pvd_nerfstudio.teacher.targets import SharedSamples, render_in_sight

ARM = {"kind": "box", "center": [0.0, -0.75, 0.6], "scale": [1.2, 0.9, 0.9]}
SIDES = [{"kind": "box", "center": [x, 0.3, 0.0], "scale": [0.3, 1.3, 0.6]} for x in (-0.37, 0.37)]
WHOLE = {"kind": "box", "center": [0.0, 0.0, 0.275], "scale": [1.5, 2.5, 1.65]}
BESIDE = [1.6, 0.0, 0.0]
ERASE = {"kind": "erase", "region": {**ARM, "edge": 0.02}}
RECOLOR = {
    "kind": "recolor",
    "region": {"kind": "union", "of": SIDES},
    "color": [0.9, 0.2, 0.1],
    "strength": 0.6,
}
COPY = {"kind": "copy", "region": WHOLE, "translation": BESIDE}
MOVE = {
    "kind": "move",
    "region": WHOLE,
    "pivot": [0.0, 0.0, 0.0],
    "rotation": [0.0, 0.0, 0.7],
    "translation": [0.1, -0.05, 0.05],
}
LEGO = torch.tensor([[-0.75, -1.25, -0.55], [0.75, 1.25, 1.1]])
"""A box around what there is in the scene, and the one that its cameras look into."""
SCENE = torch.tensor([[-1.5] * 3, [1.5] * 3])
PIXELS, VIEWS = 2000, 20
PAIRS = 31
"""Of timed queries."""
Render = Callable[[RayBundle], Tensor]


@dataclass
class Benchmark:
    """Train and measure."""

    vm: Path
    """The teacher that is edited."""
    hash: Path
    """The teacher that is inserted beside it."""
    folder: Path
    """For runs, and for the table, table.json."""
    minutes: float = 5.0
    """Of each conversion."""

    def run(self) -> None:
        """All."""
        self.folder.mkdir(parents=True, exist_ok=True)
        insert = {"kind": "insert", "run": str(self.hash.absolute()), "region": WHOLE, "translation": BESIDE}
        plain = self._made("plain", self.vm, "hash")
        erased = self._made("erased", self.vm, "hash", ERASE)
        moved = self._made("moved", self.vm, "hash", MOVE)
        own = self._made("own", self.hash, "hash")
        both = self._made("both", self.vm, "hash", insert)
        hops = [self._made("first", self.vm, "mlp", ERASE)]
        hops.append(self._made("second", hops[0], "hash", RECOLOR))
        hops.append(self._made("third", hops[1], "sparse", COPY))
        table = {
            "time of a query": query_ratios(self.vm),
            "opacity of the erased": opacity_within(opened(erased), ARM),
            "outside of the edit": {name: untouched_psnr(opened(run), ERASE) for name, run in vars_of(plain, erased)},
            "moved": moved_fidelity(self.vm, plain, moved),
            "inserted": inserted_fidelity({"vm": (self.vm, plain), "hash": (self.hash, own)}, both),
            "chain": chain(self.vm, hops),
        }
        (self.folder / "table.json").write_text(json.dumps(table, indent=2), "utf8")
        print(json.dumps(table, indent=2))

    def _made(self, name: str, teacher: Path, student: str, *edits: dict[str, Any]) -> Path:
        """A conversion, with edits."""
        folder = self.folder / name
        if not folder.exists():
            path = self.folder / f"{name}.edits.json"
            path.write_text(json.dumps({"version": 1, "edits": edits}), "utf8")
            words = ["convert", str(teacher), "--to", student, "--minutes", str(self.minutes)]
            unfinished = self.folder / "unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            words += ["--output-dir", str(unfinished), *(["--edits", str(path)] if edits else [])]
            subprocess.run([sys.executable, "-m", "pvd_nerfstudio.commands.main", *words], check=True)
            unfinished.rename(folder)
        (config,) = folder.rglob("config.yml")
        return config.parent


def vars_of(plain: Path, edited: Path) -> list[tuple[str, Path]]:
    """Two runs by name."""
    return [("plain", plain), ("edited", edited)]


def edits_of(*entries: dict[str, Any]) -> Edits:
    """As the file has them."""
    return parse(json.dumps({"version": 1, "edits": entries}), "edits")


def opened(run: Path) -> Any:
    """The pipeline of a run, to be looked at."""
    pipeline = eval_setup(run / "config.yml", test_mode="test")[1]
    pipeline.eval()
    return pipeline


def views_of(pipeline: Any) -> list[Any]:
    """Single test cameras."""
    cameras = pipeline.datamanager.eval_dataset.cameras
    return [cameras[view : view + 1] for view in range(len(cameras))]


def some_rays(camera: Any) -> RayBundle:
    """Rays evenly over a view."""
    return rays_at(camera, torch.linspace(0, num_pixels(camera) - 1, PIXELS).long())


def psnr(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """Over all pixels at once."""
    return float(-10 * torch.cat([(a.clamp(0, 1) - b).square().mean(dim=-1) for a, b in pairs]).mean().log10())


def shown_by(run: Path, like: StudentModel) -> Render:
    """Renders a teacher on rays, through a grid of its own and a student's samples."""
    teacher = FrozenTeacher(find_run(run), "cpu")
    grid = OccupancyGrid(teacher.box, like.grid.resolution)
    fill_grid(grid, teacher, like.spacing, 0.02)
    samples = SharedSamples(grid, 0.0, like.far, like.spacing)

    def render(rays: RayBundle) -> Tensor:
        rgb, opacity = render_in_sight(teacher, samples, rays, 0.5)
        return (rgb + 1 - opacity).clamp(0, 1)

    return render


@torch.no_grad()
def opacity_within(pipeline: Any, box: dict[str, Any]) -> dict[str, float]:
    """Opacity of the parts of rays that lie in an upright box, of 20 views."""
    half, middle = torch.tensor(box["scale"]) / 2 - 0.01, torch.tensor(box["center"])
    found = []
    for camera in views_of(pipeline)[:VIEWS]:
        rays = some_rays(camera)
        near, far = box_span(rays.origins, rays.directions, torch.stack([middle - half, middle + half]))
        rays.nears, rays.fars = near, far
        found.append(pipeline.student(rays[(far > near)[:, 0]])["accumulation"])
    opacity = torch.cat(found)
    return {"rays": len(opacity), "mean": float(opacity.mean()), "largest": float(opacity.max())}


@torch.no_grad()
def untouched_psnr(pipeline: Any, *edits: dict[str, Any], teacher: Path | None = None) -> float:
    """PSNR against photographs of pixels that no edit has changed; of a student, or of a teacher on the same pixels."""
    student, dataset = pipeline.student, pipeline.datamanager.eval_dataset
    render = None if teacher is None else shown_by(teacher, student)
    pairs = []
    for view, camera in enumerate(views_of(pipeline)):
        chosen = untouched(camera, edits_of(*edits), SCENE).flatten().nonzero()[:, 0]
        chosen = chosen[torch.linspace(0, len(chosen) - 1, min(PIXELS, len(chosen))).long()]
        image = torch.from_numpy(read_image(Path(dataset.image_filenames[view]), 1.0) / 255).float()
        image = (image[..., :3] * image[..., 3:] + 1 - image[..., 3:]).flatten(0, 1)
        shown = student.pixels(camera, chosen) if render is None else render(rays_at(camera, chosen))
        pairs.append((shown, image[chosen]))
    return psnr(pairs)


@torch.no_grad()
def moved_fidelity(vm: Path, plain: Path, moved: Path) -> dict[str, float]:
    """The student of a moved scene, seen by cameras that have moved along, against the teacher; and the plain one."""
    (edit,) = edits_of(MOVE)
    found = {}
    for name, run in vars_of(plain, moved):
        pipeline = opened(run)
        render, pairs = shown_by(vm, pipeline.student), []
        for camera in views_of(pipeline):
            rays = some_rays(camera)
            truth = render(rays)
            if run == moved:
                rays.origins, rays.directions = edit.motion(rays.origins), rays.directions @ edit.motion.rotation.T
            pairs.append((pipeline.student(rays)["rgb"], truth))
        found[name] = psnr(pairs)
    return found


@torch.no_grad()
def inserted_fidelity(parts: dict[str, tuple[Path, Path]], both: Path) -> dict[str, float]:
    """Each half of two scenes side by side against its teacher, on rays that see it alone; and its own conversion.

    Args:
        parts: the teacher of each half, and the run of its own conversion.
        both: the run of both.
    """
    student, found = opened(both).student, {}
    for (name, (teacher, alone)), place in zip(parts.items(), (torch.zeros(3), torch.tensor(BESIDE))):
        pipeline = opened(alone)
        render, ours, theirs = shown_by(teacher, pipeline.student), [], []
        for camera in views_of(pipeline):
            rays = some_rays(camera)
            other = LEGO + (torch.tensor(BESIDE) if name == "vm" else -torch.tensor(BESIDE))
            near, far = box_span(rays.origins, rays.directions, other)
            rays = rays[(far <= near)[:, 0]]
            if not len(rays):  # one stands behind the other
                continue
            truth = render(rays)
            theirs.append((pipeline.student(rays)["rgb"], truth))
            rays.origins = rays.origins + place
            ours.append((student(rays)["rgb"], truth))
        found |= {f"{name}, beside the other": psnr(ours), f"{name}, alone": psnr(theirs)}
    return found


@torch.no_grad()
def chain(vm: Path, hops: list[Path]) -> dict[str, Any]:
    """PSNR against photographs away from all edits, of the teacher and after each hop; and every edit still there."""
    edits, pipelines = (ERASE, RECOLOR, COPY), [opened(run) for run in hops]
    last, side = pipelines[-1].student, SIDES[0]
    beside = {**side, "center": [a + b for a, b in zip(side["center"], BESIDE)]}
    return {
        "teacher": untouched_psnr(pipelines[0], *edits, teacher=vm),
        **{f"hop {i + 1}": untouched_psnr(pipeline, *edits) for i, pipeline in enumerate(pipelines)},
        "opacity of the erased": opacity_within(pipelines[-1], ARM),
        "colour of a track after hop 1": color_within(pipelines[0].student, side),
        "colour of a track after hop 3": color_within(last, side),
        "colour of its copy": color_within(last, beside),
    }


def color_within(student: StudentModel, box: dict[str, Any]) -> list[float]:
    """Mean colour of what is opaque in an upright box, seen from one side."""
    points = torch.tensor(box["center"]) + (torch.rand(20_000, 3) - 0.5) * torch.tensor(box["scale"])
    samples = point_samples(points, torch.full_like(points, -(3**-0.5)))
    density, feature = student.field.get_density(samples)
    rgb = student.field.get_outputs(samples, feature)[FieldHeadNames.RGB]
    is_opaque = (density[:, 0] * student.spacing.step_size > 0.1) & student.grid.contains(points)  # noqa: PLR2004
    return [round(value, 3) for value in rgb[is_opaque].mean(dim=0).tolist()]


def query_ratios(run: Path) -> dict[str, float]:
    """Time of a query of an edited teacher over that of the plain one, of ten regions; the median of pairs."""
    torch.manual_seed(0)
    points = torch.rand(1 << 16, 3) * 2.4 - 1.2
    samples = point_samples(points, torch.nn.functional.normalize(torch.randn_like(points), dim=-1))
    size = {"scale": [0.4, 0.4, 0.4], "edge": 0.02}
    regions = [
        {"kind": "box", "center": [0.2 * i - 1, 0.0, 0.3], "rotation": [0, 0, 0.1 * i], **size} for i in range(10)
    ]
    union = {"kind": "union", "of": regions}
    kinds = {
        "one erases ten regions": [{"kind": "erase", "region": union}],
        "ten erase and recolour": [
            {"kind": "erase", "region": region} if i % 2 else {"kind": "recolor", "region": region, "hue": 90}
            for i, region in enumerate(regions)
        ],
        "one moves ten regions": [{"kind": "move", "region": union, "translation": [0, 0.5, 0]}],
    }
    teacher, found = FrozenTeacher(find_run(run), "cpu"), {}
    for name, entries in kinds.items():
        ratios = []
        for _ in range(PAIRS):
            taken = []
            for some in ((), edits_of(*entries)):
                teacher.edit(some)
                start = time.perf_counter()
                teacher.query(samples)
                taken.append(time.perf_counter() - start)
            ratios.append(taken[1] / taken[0])
        found[name] = sorted(ratios)[PAIRS // 2]
    return found


if __name__ == "__main__":
    tyro.cli(Benchmark).run()
