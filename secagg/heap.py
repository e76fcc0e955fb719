"""The heap of a process that stays for months and holds a vector for a moment, again and again.

As it comes, the C library maps every vector of 10^7 entries anew, and gives each thread a heap. Pages that
are mapped anew are cleared first, which was a sixth of a round's CPU; each heap keeps what its thread freed.

Source: mallopt(3), malloc_trim(3). Other C libraries are left as they are.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # Of <malloc.h>.
_LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Let the threads of this process share one heap that does not shrink; call before there are any."""
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _LARGEST)


def return_freed_memory() -> None:
    """Give what is free back to the system; for a process that has nothing to do for a while."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
