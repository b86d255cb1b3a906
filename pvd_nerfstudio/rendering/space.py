"""The space that a field lives in; teacher and student share one."""

from dataclasses import dataclass
from typing import Literal

Background = Literal["white", "black", "random", "last_sample"]


@dataclass(frozen=True)
class Space:
    """How rays meet a scene."""

    near: float
    """Distance at which rays start."""
    far: float
    """Distance at which rays end."""
    contracted: bool
    """Whether space outside the unit box is contracted (Mip-NeRF 360, eq. 10, in the infinity norm)."""
    background: Background
    """What shows where nothing is hit, in nerfstudio's words."""
