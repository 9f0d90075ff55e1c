"""Memory for what is read: private, writable, and in huge pages where it is large."""

from __future__ import annotations

import contextlib
import mmap

import numpy as np

_HUGE = 2**21
"""Bytes of a huge page; where they have another size nothing is lost but a little speed."""


def blank(size: int) -> memoryview:
    """`size` bytes of new memory that holds zeros: what is not filled must not show what lay there before."""
    if size < 2 * _HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(size, np.uint8).data
    return fresh(size)  # the kernel's own pages, which are zero


def fresh(size: int) -> memoryview:
    """`size` bytes of new memory, not filled; MemoryError if there is not enough.

    The kernel hands out memory page by page, at the first touch of each. An array of 10 MiB from
    numpy begins anywhere, and what sticks out of whole huge pages comes in 4 KiB pages: 500 of them,
    which take as long as copying all the data. Here the first huge page begins with the first byte.
    """
    if size < 2 * _HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.empty(size, np.uint8).data  # unlike a bytearray, not filled with zeros first
    try:
        whole = mmap.mmap(-1, size + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise MemoryError(str(error)) from error
    start = -np.frombuffer(whole, np.uint8).ctypes.data % _HUGE
    with contextlib.suppress(OSError):  # a kernel built without them; it is advice
        # Not of the last bytes: a whole huge page for them would take memory that nobody asked for.
        whole.madvise(mmap.MADV_HUGEPAGE, start, size // _HUGE * _HUGE)
    return memoryview(whole)[start : start + size]
