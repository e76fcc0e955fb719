"""Vectors of a long-running process come out of memory that it has, and go back when it has nothing to do."""

from __future__ import annotations

import platform
import subprocess
import sys
from textwrap import dedent

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are"
)

MEGABYTES = 64


def measured(first: str, then: str = "") -> tuple[int, int]:
    """Return page faults of the second of two vectors, and the MiB that are held when both are freed."""
    script = f"""
    import resource
    from threading import Thread
    import numpy as np
    from secagg.heap import keep_freed_memory, return_freed_memory

    def use() -> None:
        np.ones({MEGABYTES} << 20, np.uint8)

    def in_a_thread() -> None:
        thread = Thread(target=use)
        thread.start()
        thread.join()

    def faults() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    {first}
    in_a_thread()
    before = faults()
    in_a_thread()
    print(faults() - before)
    {then}
    held = next(line for line in open("/proc/self/status") if line.startswith("VmRSS"))
    print(int(held.split()[1]) // 1024)
    """
    done = subprocess.run(
        [sys.executable, "-c", dedent(script)], capture_output=True, text=True, check=True, timeout=60
    )
    faults, held = done.stdout.split()
    return int(faults), int(held)


def test_a_vector_takes_the_place_of_the_one_before() -> None:
    as_it_comes, _ = measured("")
    kept, _ = measured("keep_freed_memory()")
    # Huge pages, where there are some, are few: 2 MiB each.
    assert as_it_comes >= MEGABYTES // 2
    assert kept < as_it_comes // 4


def test_what_is_free_is_given_back() -> None:
    _, kept = measured("keep_freed_memory()")
    _, returned = measured("keep_freed_memory()", "return_freed_memory()")
    assert kept >= returned + MEGABYTES - 8
