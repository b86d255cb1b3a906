"""A trained nerfstudio run on disk, read safely and frozen."""
