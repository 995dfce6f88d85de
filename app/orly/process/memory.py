"""What the C library does with memory that was given back."""

import ctypes
from typing import Final

__all__ = ["KEPT_BYTES", "LARGE_BYTES", "keep_freed_memory"]

LARGE_BYTES: Final = 4 * 1024 * 1024
"""Blocks below this come from the heap, not from a mapping of their own."""

KEPT_BYTES: Final = 16 * 1024 * 1024
"""What stays at the top of the heap for the next block."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


def keep_freed_memory() -> bool:
    """Have freed blocks of some hundred kilobytes used again, for a process that sends or receives large messages.

    By default glibc (malloc.h, mallopt) gives such a block back to the kernel and takes it anew for the next message,
    and every page of it is a fault: a quarter of the cost of an answer of 500 events, when measured.

    Returns:
        False where the C library has no such setting.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES) and mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES))
