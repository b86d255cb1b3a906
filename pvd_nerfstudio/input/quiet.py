"""Warnings of the packages below this one, about their own code: who converts a run can do nothing about them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

OTHERS = r"(nerfstudio|torch|torchvision|torchmetrics|nerfacc|jaxtyping)(\.|$)"
"""Modules whose deprecations are not ours. Our own are always shown."""
HARMLESS = (
    "Converting a tensor with requires_grad=True to a scalar",
    "Using a non-tuple sequence for multidimensional indexing is deprecated",
    "torch.cuda.amp.GradScaler is enabled",
    "This DataLoader will create",
)
"""How other warnings of theirs begin; what torch says of a GPU or its driver is none of these."""


def ignore_others() -> None:
    """From now on they are not shown in this process."""
    for category in (DeprecationWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category, module=OTHERS)
    for message in HARMLESS:
        warnings.filterwarnings("ignore", message=message, module=OTHERS)


@contextmanager
def without_others() -> Iterator[None]:
    """They are not shown meanwhile."""
    with warnings.catch_warnings():
        ignore_others()
        yield
