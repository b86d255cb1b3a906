"""One scene in other units: does a conversion take as long, and is it as faithful, whatever the scale of the poses?

    python -m benchmarks.scales --teacher outputs/stitch_toy/nerfacto/run --student hash

No stock method can be the same at every scale: where nerfacto contracts space is fixed. So the teacher is first
converted to a `vm` student, and that is scaled exactly: its cameras, its scene box, its planes, its scale.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
import yaml
from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils.eval_utils import eval_setup
from rich.console import Console
from rich.table import Table

from benchmarks.arm import quiet
from benchmarks.matrix import machine
from pvd_nerfstudio.commands.demo import train
from pvd_nerfstudio.pipeline.comparison import Comparison
from pvd_nerfstudio.teacher.building import no_lpips
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.teacher.frozen import FrozenTeacher

LENGTHS = ("near_plane", "far_plane", "scale", "render_step_size", "disparity_from")
BOXES = ("field.aabb", "grid.aabb", "grid.bounds")


@dataclass
class Scales:
    """Convert one teacher at several scales."""

    teacher: Path
    """A run whose dataparser has `scale_factor` and `scene_scale` (nerfstudio-data)."""
    student: str = "hash"
    """Architecture."""
    factors: tuple[float, ...] = (0.01, 0.1, 1.0, 20.0, 1000.0)
    """What the poses are multiplied with."""
    steps: int = 400
    """Of each conversion, the first one to `vm` included."""
    options: str = "--pipeline.distillation.rays-per-step 512 --pipeline.model.train-step-factor 2.5"
    """Further options for `ns-train`."""
    output: Path = Path("benchmark-scales")
    """Folder for the results; what is there already is not made again."""

    def run(self) -> None:
        """Convert, measure, print."""
        self.output.mkdir(parents=True, exist_ok=True)
        one = self.output / "vm"
        if not one.exists():
            self._convert(self.teacher, "vm", one)
        one = next(one.rglob("config.yml"))
        results = {}
        for factor in self.factors:
            file = self.output / f"{self.student}-{factor:g}.json"
            if not file.is_file():
                teacher = scaled(one, factor, self.output / f"vm-{factor:g}")
                result = self._measure(teacher, self.output / f"{self.student}-{factor:g}")
                file.write_text(json.dumps(result), "utf8")
            results[factor] = json.loads(file.read_text("utf8"))
        table = Table(
            "scale", "PSNR to the teacher", "seconds", title=f"{self.student}, {self.steps} steps. {machine()}"
        )
        for factor, result in results.items():
            table.add_row(f"{factor:g}", f"{result['psnr']:.2f}", f"{result['seconds']:.0f}")
        Console(soft_wrap=True).print(table)

    def _convert(self, teacher: Path, student: str, folder: Path) -> tuple[Path, float]:
        words = ["pvd-distill", "--teacher-checkpoint", str(teacher), "--student", student]
        words += ["--max-num-iterations", str(self.steps), *self.options.split()]
        config: TrainerConfig = tyro.cli(AnnotatedBaseConfigUnion, args=words)
        quiet(config, folder, seed=0)
        with no_lpips():
            return train(config, lambda share: None)

    def _measure(self, teacher: Path, folder: Path) -> dict[str, float]:
        run, seconds = self._convert(teacher, self.student, folder)
        _, pipeline, _, _ = eval_setup(run / "config.yml")
        frozen = FrozenTeacher(find_run(teacher), pipeline.device)
        errors = Comparison(frozen, pipeline.model).errors(pipeline.datamanager.eval_dataset.cameras)
        return {"seconds": seconds, "psnr": float((-10 * torch.log10(errors)).mean())}


def scaled(folder: Path, factor: float, place: Path) -> Path:
    """A run in other units: a copy that shows the same.

    Args:
        folder: that of a run of ours.
        factor: what lengths are multiplied with.
        place: for the copy.
    """
    run = find_run(folder)
    config: Any = run.config
    for name in LENGTHS:
        value = getattr(config.pipeline.model, name)
        setattr(config.pipeline.model, name, None if value is None else factor * value)
    parser = config.pipeline.datamanager.dataparser
    parser.scale_factor, parser.scene_scale = factor * parser.scale_factor, factor * parser.scene_scale
    state = torch.load(run.checkpoint_path, map_location="cpu", weights_only=False)
    for name in BOXES:
        state["pipeline"][f"_model.{name}"] *= factor
    checkpoints = place / "nerfstudio_models"
    checkpoints.mkdir(parents=True, exist_ok=True)
    torch.save(state, checkpoints / run.checkpoint_path.name)
    (place / "config.yml").write_text(yaml.dump(config), "utf8")
    return place


if __name__ == "__main__":
    tyro.cli(Scales).run()
