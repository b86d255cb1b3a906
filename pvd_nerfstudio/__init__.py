"""Convert a trained nerfstudio run into another architecture by Progressive Volume Distillation."""

__version__ = "0.1.0"
