"""Does it fit? Asked before anything is allocated."""

import os

import torch

from pvd_nerfstudio.errors import InputError


def check_fits(needed: int, device: torch.device | str, what: str, advice: str) -> None:
    """Refuse what is larger than the memory of the device.

    Args:
        needed: bytes.
        device: where they would be allocated.
        what: takes the memory; the subject of the message's sentence.
        advice: what the user can do.

    Raises:
        InputError: it does not fit; with both figures.
    """
    available = _memory(torch.device(device))
    if needed > available:
        raise InputError(
            f"{what} would take {needed / 1e9:.1f} GB in training, but this {torch.device(device).type.upper()} has "
            f"{available / 1e9:.1f} GB. {advice}"
        )


def _memory(device: torch.device) -> int:
    """Bytes that the device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
