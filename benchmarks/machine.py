"""What is measured on, how it is timed and printed, and how fast this machine could be at best.

CPU seconds are those of every thread of the process: what the work costs, whoever else uses the machine.
Wall seconds are what a user waits.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
from cryptography.hazmat.backends.openssl.backend import backend
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

BLOCK_SIZE = 256 * 1024
"""Bytes that stay in a core's second cache, as the product uses them."""


class Stopwatch:
    """CPU and wall seconds, summed up under a name for each step.

    Steps nest: what an inner one takes counts for it alone, so that all steps add up to the whole.
    """

    def __init__(self) -> None:
        self.cpu: dict[str, float] = defaultdict(float)
        self.wall: dict[str, float] = defaultdict(float)
        self._open: list[str] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add what the ``with`` block takes to step ``name``."""
        wall, cpu = time.perf_counter(), time.process_time()
        self._open.append(name)
        try:
            yield
        finally:
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            self._add(self._open.pop(), cpu, wall)
            if self._open:
                self._add(self._open[-1], -cpu, -wall)

    def _add(self, name: str, cpu: float, wall: float) -> None:
        self.cpu[name] += cpu
        self.wall[name] += wall


def median_cpu(work: Callable[[], object], *, runs: int) -> float:
    """Return the median CPU seconds of ``work``, after one run that warms the caches."""
    work()
    seconds = []
    for _ in range(runs):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def facts() -> str:
    """Return processor, cores, versions and load in one line."""
    model = platform.machine()
    with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                model = line.split(":")[1].strip()
                break
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "cryptography", "secagg"))
    return (
        f"{model}, {os.cpu_count()} cores; {platform.system()} {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, {versions}, {backend.openssl_version_text()}; "
        f"load {os.getloadavg()[0]:.1f}"
    )


def keystream_rate(*, runs: int) -> float:
    """Return bytes a second and core of AES-256-GCM used as a keystream, one block after the other."""
    zeros, out, blocks = bytes(BLOCK_SIZE), bytearray(BLOCK_SIZE + 15), 160

    def work() -> None:
        encryptor = Cipher(AES(bytes(32)), GCM(bytes(12))).encryptor()
        for _ in range(blocks):
            encryptor.update_into(zeros, out)

    return blocks * BLOCK_SIZE / median_cpu(work, runs=runs)


def cached_add_rate(*, runs: int) -> float:
    """Return bytes a second and core of ``a += b`` in uint32, both in the second cache."""
    total = np.ones(BLOCK_SIZE // 4, np.uint32)
    block = total.copy()

    def work() -> None:
        for _ in range(160):
            np.add(total, block, out=total)

    return 160 * BLOCK_SIZE / median_cpu(work, runs=runs)


def vector_add_seconds(length: int, *, runs: int) -> float:
    """Return CPU seconds of ``a += b`` over whole uint32 vectors of ``length`` in main memory."""
    total = np.ones(length, np.uint32)
    other = total.copy()
    return median_cpu(lambda: np.add(total, other, out=total), runs=runs)


def fresh_memory_rate(length: int, *, runs: int) -> float:
    """Return bytes a second of writing a uint32 vector of ``length`` that was just allocated.

    The kernel hands out and clears every page of it; in a virtual machine the host may do so once more.
    """
    return 4 * length / median_cpu(lambda: np.empty(length, np.uint32).fill(1), runs=runs)


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
    """Print a Markdown table; floats with three digits."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(_text(cell) for cell in row) + " |", flush=True)


def _text(cell: str | float) -> str:
    match cell:
        case str():
            return cell
        case int():
            return f"{cell:,}"
        case _:
            return f"{cell:.0f}" if abs(cell) >= 100 else f"{cell:.3g}"
