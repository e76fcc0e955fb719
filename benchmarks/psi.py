"""Private set intersection: records a second, bytes a record and memory, for two equal sets in one process.

Both parties compute on all cores of this machine, one after the other; half of the identifiers are shared.
*pairs*: records of one set, for each second that the whole took. A peer measures the same work in an
environment of its own, in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import time
from pathlib import Path

import rbcl

from benchmarks import machine
from benchmarks.machine import median_cpu, show
from secagg.hazmat.cores import usable_cores
from secagg.hazmat.curve import POINT_SIZE, Exponent, hash_to_points, hash_to_ristretto255
from secagg.psi import intersect

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


def measured(size: int, cores: int) -> tuple[float, float, float]:
    """Return seconds, bytes a record of both sets, and MiB at the peak so far."""
    ids = range(size), range(size // 2, size // 2 + size)
    start = time.perf_counter()
    found = intersect(*ids, cores=cores)
    taken = time.perf_counter() - start
    if found.count != size - size // 2:
        raise SystemExit("not the intersection")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return taken, (found.bytes_a + found.bytes_b) / (2 * size), peak / 1024


def peer_seconds(script: Path, python: str, size: int) -> float:
    """Return the seconds that the peer took, as the last line that it prints says."""
    done = subprocess.run(
        [python, str(script), str(size), str(size), "RAW"], capture_output=True, text=True, check=True
    )
    return float(json.loads(done.stdout.splitlines()[-1])["total_s"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.psi", description=__doc__)
    parser.add_argument("--sizes", default="1e4,1e5", help="records of each set; default 1e4,1e5")
    parser.add_argument("--cores", type=int, default=usable_cores(), help="threads; default one a core")
    parser.add_argument("--runs", type=int, default=5, help="of single operations; default 5")
    parser.add_argument("--peer", type=Path, help="script that measures another implementation")
    parser.add_argument("--peer-python", default="python3", help="interpreter of its environment")
    asked = parser.parse_args()
    print(f"{machine.facts()}")
    show_operations(runs=asked.runs)
    rows: list[tuple[str | float, ...]] = []
    for size in (int(float(each)) for each in asked.sizes.split(",")):
        taken, wire, peak = measured(size, asked.cores)
        theirs = peer_seconds(asked.peer, asked.peer_python, size) if asked.peer else None
        rows.append(
            (
                f"{size:,}",
                taken,
                size / taken,
                TARGET,
                wire,
                peak,
                LIMIT_MEMORY,
                "" if theirs is None else theirs,
                "" if theirs is None else theirs / taken,
            )
        )
    show(
        f"Two sets of one size, half shared, {asked.cores} cores",
        ("records", "seconds", "**pairs/s**", "target", "bytes a record", "MiB", "limit", "peer, s", "ratio"),
        rows,
    )
    print(f"A point is {POINT_SIZE} bytes.")


if __name__ == "__main__":
    main()
