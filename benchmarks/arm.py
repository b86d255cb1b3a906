"""One arm of a comparison over time: a training by the clock, in a process of its own.

    python -m benchmarks.arm --arm scratch --teacher ../shared/teachers/lego-hash --student mlp --steps 500 --output a.json

`benchmarks.time_to_quality` and `benchmarks.stock` start it.
"""

import copy
import json
import os
import shlex
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion, all_methods
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from torch import Generator, Tensor

from benchmarks.teacher import DEVICE
from benchmarks.timed import Timed
from pvd_nerfstudio.distillation.bank import BankPart, RayTargets
from pvd_nerfstudio.distillation.stages import LossWeights, Stage
from pvd_nerfstudio.parts import PartSource
from pvd_nerfstudio.pipeline import DistillationPipeline
from pvd_nerfstudio.teacher.checkpoint import find_run
from pvd_nerfstudio.teacher.frozen import FrozenTeacher, no_lpips
from pvd_nerfstudio.teacher.pixels import concatenate_and_draw

Arm = Literal["scratch", "pvd", "none", "poses", "rays", "points", "all", "vanilla-nerf", "tensorf", "nerfacto"]
LEVELS = ("poses", "rays", "points")
ACTIVE = {"none": (), "all": LEVELS} | {level: (level,) for level in LEVELS}
LITERAL = (
    "--pipeline.distillation.preset pvd --pipeline.distillation.rays-per-step 1024 "
    "--pipeline.distillation.rays-per-part 1024 --pipeline.distillation.points-per-step 8192 "
    "--pipeline.distillation.points-per-part 8192"
)
"""The papers' method; as many rays and points a step as ours, for theirs (4,096 and all samples) are too slow here."""
