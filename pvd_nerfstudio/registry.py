"""What nerfstudio discovers: light, and an error in it leaves the other methods alone."""

import sys
from typing import Any

from nerfstudio.plugins.types import MethodSpecification


def _specification() -> Any:
    from nerfstudio.configs.base_config import ViewerConfig  # noqa: PLC0415

    from pvd_nerfstudio.errors import explain_errors  # noqa: PLC0415
    from pvd_nerfstudio.input.renamed import current_options  # noqa: PLC0415
    from pvd_nerfstudio.trainer_config import LEFT_OPEN, PVDTrainerConfig  # noqa: PLC0415
    from pvd_nerfstudio.training.optimizers import (  # noqa: PLC0415
        AdamWOptimizerConfig,
        MuonOptimizerConfig,
        RootSchedulerConfig,
    )

    # ns-train is not ours, but what is said to our method, and what it says, is.
    explain_errors()
    if "pvd-distill" in sys.argv:
        sys.argv[1:] = current_options(sys.argv[1:])
    return MethodSpecification(
        config=PVDTrainerConfig(
            method_name="pvd-distill",
            steps_per_save=LEFT_OPEN,
            steps_per_eval_batch=LEFT_OPEN,
            steps_per_eval_image=LEFT_OPEN,
            steps_per_eval_all_images=0,
            mixed_precision=True,
            optimizers={
                "matrices": {"optimizer": MuonOptimizerConfig(), "scheduler": RootSchedulerConfig()},
                "fields": {"optimizer": AdamWOptimizerConfig(), "scheduler": RootSchedulerConfig()},
                "projection": {"optimizer": AdamWOptimizerConfig(lr=1e-3), "scheduler": RootSchedulerConfig()},
            },
            viewer=ViewerConfig(num_rays_per_chunk=1 << 13),
            vis="viewer+tensorboard",
        ),
        description="Convert a trained run into another architecture (Progressive Volume Distillation).",
    )


def _guarded() -> Any:
    """The method, or one that says why it cannot be used: nerfstudio would end every `ns-train` for it."""
    try:
        return _specification()
    except Exception as error:  # whatever is broken in an environment
        from nerfstudio.engine.trainer import TrainerConfig  # noqa: PLC0415

        reason = f"pvd-distill cannot be used here: {type(error).__name__}: {error}"
        if "pvd-distill" in sys.argv:
            sys.exit(reason)
        print(reason, file=sys.stderr)
        return MethodSpecification(config=TrainerConfig(method_name="pvd-distill"), description=reason)


pvd_distill = _guarded()
