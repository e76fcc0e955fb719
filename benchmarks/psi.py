"""Private set intersection: records a second, bytes a record and memory; then campaigns and sums.

Two equal sets, half of which are shared, are intersected by both parties in a process of its own, on all
cores. ``--peer`` is a command that does the same work with another implementation, in the same run. What is
printed, and how to read it, stands in ``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence

import rbcl

from benchmarks import machine, peer
from benchmarks.machine import median_cpu, show
from secagg.hazmat.cores import usable_cores
from secagg.hazmat.curve import Exponent, hash_to_points, hash_to_ristretto255
from secagg.psi import Campaign, intersect, intersection_sum

TARGET = 7_000
"""Pairs a second on two cores that the design asks for."""
LIMIT_MEMORY = 2 * 1024
"""MiB of one party at the most; measured are both in one process."""
FEW = 2_000


def show_operations(*, runs: int) -> None:
    """Print what one hash and one power take, and a power by libsodium."""
    messages = [number.to_bytes(8, "big") for number in range(FEW)]
    exponent, points = Exponent.generate(), hash_to_points(messages, b"benchmark")
    elements = list(hash_to_ristretto255(messages, b"benchmark"))
    scalar = bytes([1]) + os.urandom(30) + bytes(1)
    rows = [
        ("hash to a point", lambda: hash_to_points(messages, b"benchmark")),
        ("power, X25519", lambda: exponent.powers(points)),
        (
            "power, ristretto255",
            lambda: [rbcl.crypto_scalarmult_ristretto255(scalar, element) for element in elements],
        ),
    ]
    show(
        "One core, microseconds",
        ("operation", "us"),
        [(name, 1e6 * median_cpu(work, runs=runs) / FEW) for name, work in rows],
    )


def intersect_once(size: int, cores: int) -> None:
    """Intersect two sets and print what it took, as a peer does."""
    start = time.perf_counter()
    found = intersect(range(size), range(size // 2, size // 2 + size), cores=cores)
    taken = time.perf_counter() - start
    wire = (found.bytes_a + found.bytes_b) / 1e6
    print(
        json.dumps(
            {
                "lib": "**ours**",
                "total_s": taken,
                "wire_MB": wire,
                "inter": found.count,
                "want": size - size // 2,
            }
        )
    )


def show_intersections(sizes: Sequence[int], commands: Sequence[str], *, cores: int) -> None:
    """Print ours beside each peer."""
    own = shlex.join([sys.executable, "-m", "benchmarks.psi", "--only", "{size}", "--cores", str(cores)])
    rows: list[tuple[str | float, ...]] = []
    for size in sizes:
        least = 0.0
        for command in (own, *commands):
            found = peer.measure_intersection(command, size=size)
            least = least or found.seconds
            rows.append(
                (
                    f"{size:,}",
                    found.name,
                    found.seconds,
                    size / found.seconds,
                    found.cpu,
                    found.wire / (2 * size),
                    found.peak,
                    least / found.seconds,
                )
            )
    show(
        f"Two sets of one size, half shared, {cores} cores",
        ("records", "whose", "seconds", "**pairs/s**", "CPU s", "bytes a record", "MiB", "times ours"),
        rows,
    )
    print(f"\nWanted: {TARGET:,} pairs/s on two cores, {LIMIT_MEMORY:,} MiB a party.")


def show_campaign(query: int, size: int, *, cores: int) -> None:
    """Print what a small query costs against a set that is cached, and against one that is not."""
    held, asked = range(size), range(size - query // 2, size - query // 2 + query)
    rows: list[tuple[str | float, ...]] = []

    def add(name: str, seconds: float, wire: int) -> None:
        rows.append((name, seconds, wire / 1e6))

    clock = _Clock()
    with Campaign(
        held, expires=int(time.time()) + 86_400, budget=10 * query + 640, clock=time.time
    ) as campaign:
        add("the sender's tags, once", clock.taken(), 0)
        for name in ("first query, with the tags", "every other query"):
            found = campaign.intersect(asked)
            if found.count != query // 2:
                raise SystemExit("not the intersection")
            add(name, clock.taken(), found.bytes_a + found.bytes_b)
    once = intersect(asked, held, reveal="receiver", cores=cores)
    add("without a campaign", clock.taken(), once.bytes_a + once.bytes_b)
    show(
        f"A query of {query:,} against {size:,}, {cores} cores",
        ("", "seconds", "MB"),
        rows,
    )


def show_sums(sizes: Sequence[int], *, cores: int) -> None:
    """Print what a sum costs, with one value a record."""
    rows: list[tuple[str | float, ...]] = []
    for size in sizes:
        clock = _Clock()
        held = range(size // 2, size // 2 + size)
        found = intersection_sum(range(size), held, [number % 10_000 for number in held], cores=cores)
        if found.sums != (sum(number % 10_000 for number in range(size // 2, size)),):
            raise SystemExit("not the sum")
        seconds = clock.taken()
        rows.append((f"{size:,}", seconds, size / seconds, (found.bytes_a + found.bytes_b) / (2 * size)))
    show(
        f"Sums over two sets of one size, a key of 3072 bits and its table with it, {cores} cores",
        ("records", "seconds", "pairs/s", "bytes a record"),
        rows,
    )


class _Clock:
    """Seconds since it was asked last."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def taken(self) -> float:
        last, self._last = self._last, time.perf_counter()
        return self._last - last


def numbers(text: str) -> list[int]:
    """Return the integers of a list like ``1e4,1e5``."""
    return [int(float(part)) for part in text.split(",") if part]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.psi", description=__doc__)
    parser.add_argument("--sizes", type=numbers, default=[10**4, 10**5], help="records; default 1e4,1e5")
    parser.add_argument("--cores", type=int, default=usable_cores(), help="threads; default one a core")
    parser.add_argument("--runs", type=int, default=5, help="of single operations; default 5")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="COMMAND",
        help="intersects two sets of {size} records with another implementation; may come several times",
    )
    parser.add_argument(
        "--campaign", type=numbers, default=[10**3, 10**5], help="records of query and set; default 1e3,1e5"
    )
    parser.add_argument("--sums", type=numbers, default=[10**3], help="records of a sum; default 1e3")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        intersect_once(asked.only, asked.cores)
        return
    print(f"{machine.facts()}")
    show_operations(runs=asked.runs)
    show_intersections(asked.sizes, asked.peer, cores=asked.cores)
    show_campaign(*asked.campaign, cores=asked.cores)
    show_sums(asked.sums, cores=asked.cores)


if __name__ == "__main__":
    main()
