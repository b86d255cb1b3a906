"""What a table depends on: the defaults that its command did not name, as eight letters.

`docs/benchmarks.md` has them beside each table; a test fails when they are no longer what the table was made with.
"""

import hashlib
import json
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pvd_nerfstudio.distillation.active.levels import ActiveLearningConfig
from pvd_nerfstudio.distillation.stages import DistillationConfig
from pvd_nerfstudio.registry import pvd_distill
from pvd_nerfstudio.student.model import StudentModelConfig
from pvd_nerfstudio.student.registry import STUDENTS


def defaults(student: str) -> dict[str, Any]:
    """Numbers of the method, of the student's sizes and of its optimisers when nobody names any."""
    sizes = STUDENTS[student]()
    model, active = asdict(StudentModelConfig()), ActiveLearningConfig()
    rates = {"fields": sizes.learning_rate, "matrices": sizes.matrix_learning_rate}
    # Of these two the registry's own are filled in where a caller trains with them.
    filled = {"lr": None, "max_steps": None}
    optimizers = {
        name: {part: vars(config) | filled | {"rate": rates.get(name)} for part, config in group.items()}
        for name, group in pvd_distill.config.optimizers.items()
    }
    return {
        "method": asdict(DistillationConfig().resolved(sizes.preferred)),
        "active": asdict(active) if active.on else None,  # numbers of levels that are off change nothing
        "model": {name: value for name, value in model.items() if name not in STUDENTS},
        "sizes": asdict(sizes) | {"iterations": sizes.iterations},
        "optimizers": optimizers,
    }


def digest(student: str) -> str:
    """Those of a student, as eight letters."""
    text = json.dumps(defaults(student), sort_keys=True, default=lambda value: getattr(value, "__name__", str(value)))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def made_with(student: str) -> str:
    """What a table says of the code that it was made with."""
    return f"commit {commit()}, defaults of `{student}`: `{digest(student)}`"


def commit() -> str:
    """The commit that is measured, with a star where files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        asked = [*git, "rev-parse", "--short", "HEAD"]
        number = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return number.strip() + "*" * bool(changed)
