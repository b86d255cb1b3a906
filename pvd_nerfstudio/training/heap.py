"""What a step frees is the next step's: otherwise Linux clears every page of it anew, up to a quarter of its time."""

import ctypes
import platform

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Names of the two settings in glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Tell glibc's malloc to keep what is freed, large tensors too; nothing where there is another malloc.

    The process gives it back when it ends.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(MMAP_MAX, 0)
