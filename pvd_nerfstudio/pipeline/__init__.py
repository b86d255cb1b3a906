"""Teacher and student together: who knows everybody. Read `step.py` first."""

from pvd_nerfstudio.pipeline.config import DistillationPipelineConfig
from pvd_nerfstudio.pipeline.pipeline import DistillationPipeline

__all__ = ["DistillationPipeline", "DistillationPipelineConfig"]
