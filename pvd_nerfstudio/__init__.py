"""Convert a trained nerfstudio run into another architecture by Progressive Volume Distillation."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pvd_nerfstudio.api import Student, distill

__all__ = ["Student", "distill"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """What is imported late: nerfstudio takes seconds, and imports this package for `ns-train --help`."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pvd_nerfstudio import api  # noqa: PLC0415

    return getattr(api, name)
