"""What nerfstudio discovers. An import error here would break `ns-train` for every method: keep it light."""

import sys

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.plugins.types import MethodSpecification

from pvd_nerfstudio.errors import explain_errors
from pvd_nerfstudio.input.renamed import current_options
from pvd_nerfstudio.trainer import PVDTrainerConfig
from pvd_nerfstudio.training.optimizers import AdamWOptimizerConfig, CosineSchedulerConfig

# ns-train is not ours, but what is said to our method, and what it says, is.
explain_errors()
if "pvd-distill" in sys.argv:
    sys.argv[1:] = current_options(sys.argv[1:])

pvd_distill = MethodSpecification(
    config=PVDTrainerConfig(
        method_name="pvd-distill",
        steps_per_save=1000,
        steps_per_eval_batch=500,
        steps_per_eval_image=2000,
        steps_per_eval_all_images=0,
        optimizers={
            "fields": {"optimizer": AdamWOptimizerConfig(), "scheduler": CosineSchedulerConfig()},
            "projection": {"optimizer": AdamWOptimizerConfig(lr=1e-3), "scheduler": CosineSchedulerConfig()},
        },
        viewer=ViewerConfig(num_rays_per_chunk=1 << 13),
        vis="viewer+tensorboard",
    ),
    description="Convert a trained run into another architecture (Progressive Volume Distillation).",
)
