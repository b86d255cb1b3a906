"""The pipeline: who knows everybody. Read `step.py` first."""

from pvd_nerfstudio.pipeline.pipeline import DistillationPipeline, DistillationPipelineConfig

__all__ = ["DistillationPipeline", "DistillationPipelineConfig"]
