"""Keep what the heap has, for the next large body."""

from __future__ import annotations

import ctypes

KEPT_BYTES = 16 * 1024 * 1024
"""Free at the heap's end before it is given back: windows of some calls with large bodies."""
MAPPED_BYTES = 4 * 1024 * 1024
"""A single piece of memory from this size on is none of the heap's."""
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def keep_heap() -> None:
    """Tell glibc's allocator; another is left as it is.

    By itself it gives the end of the heap back once twice the largest piece so far is free there. A process that
    passes on pieces of 256 KiB did that for each few of them, and had a page fault for every 4 KiB that it took again.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
    mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)
