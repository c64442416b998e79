"""Memory that was freed, given back to the system.

Statistics work with arrays of tens of megabytes for a moment. What was freed the C library and Arrow keep for later, of each
thread apart, so that a kernel in which measurements are judged now and then would grow all afternoon. What Arrow's own allocator
keeps so is out of reach (98 MB were seen in a live lab after a pin): a process that lives long has it use the C library's.

Where glibc has once freed a large block, it takes later ones of that size, up to 32 MB, from its heaps, and between two of them
something small stays: a hole that only the next large block fills (115 MB of them were seen after as many pins as in an hour). A
process that lives long has it map every large block for itself, which goes back when it is freed. (A bootstrap of 18,000 requests
took a third more CPU so: a tenth of a second.)
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

import pyarrow as pa

_M_MMAP_THRESHOLD: Final = -3  # malloc.h
#: Larger blocks are mapped; smaller ones would cost more in calls of the system than they leave in holes.
LARGE_BYTES: Final = 64 * 1024


def live_long() -> None:
    """From now on Arrow takes its memory from the C library, where ``give_back`` reaches it, and that maps large blocks.

    What both hold stays as it is. For a process in which measurements are judged all afternoon.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


def give_back() -> None:
    """Have the C library and Arrow hand what is free to the system; takes milliseconds.

    glibc alone has ``malloc_trim``: elsewhere only Arrow does.
    """
    for pool in (pa.default_memory_pool, pa.mimalloc_memory_pool):  # Arrow's own code asks for that in some places all the same
        with suppress(NotImplementedError):
            pool().release_unused()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
