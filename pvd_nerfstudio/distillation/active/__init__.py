"""Active learning, three levels (PVD-AL, section 3.4): which views, which rays and which points are looked at most.

Plain torch: nothing here knows nerfstudio, so each file serves other trainings too (docs/active_learning.md). Each
level has two rules: `error`, ours, goes by a running mean of the error; `papers` has the papers' pools and shares.
"""

from typing import Literal

from torch import Tensor

Rule = Literal["error", "papers"]


def summary(errors: Tensor, ages: Tensor) -> dict[str, float]:
    """Size of a pool, mean age of its members, their mean error."""
    if not len(errors):
        return {"size": 0.0, "age": 0.0, "error": 0.0}
    return {"size": float(len(errors)), "age": float(ages.double().mean()), "error": float(errors.mean())}
