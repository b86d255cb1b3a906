"""How much is computed at a time."""

import torch

ON_GPU = 8
"""Times as much: what keeps the caches of a CPU happy leaves a GPU idle."""


def at_once(on_cpu: int, device: torch.device) -> int:
    """How many points or rays one call should have on a device."""
    return on_cpu * ON_GPU if device.type == "cuda" else on_cpu
