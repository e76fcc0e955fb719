"""CKKS: one silo and the coordinator, step by step, in CPU time; bytes; memory. Limits stand beside.

``--peer`` measures a public implementation in the same run. What is printed, and how to read it,
stands in ``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from benchmarks import machine, peer
from benchmarks.machine import Stopwatch, show
from benchmarks.masking import numbers
from coordinator.on_disk import OnDisk
from secagg import wire
from secagg.ckks.parameters import RINGS, SumParameters, plan
from secagg.ckks.public import CiphertextSum, check_upload, upload_words
from secagg.ckks.secret import OpenedSum, Publisher, SecretKey, encrypt, open_sum
from secagg.link.line import Outgoing
from secagg.messages import AggregateAnnounced
from secagg.payload import Payload

ROUND = hashlib.sha256(b"benchmark").digest()
MIB = 1 << 20
# Per 1e6 parameters.
ENCRYPT_LIMIT, OPEN_LIMIT, BYTES_LIMIT = 0.45, 0.15, 17


@dataclass(frozen=True)
class Run:
    """One silo's upload, added as often as there are silos, opened and published."""

    watch: Stopwatch
    sent: int
    opened: OpenedSum
    error: float


def payload_of(data: bytes) -> Payload:
    """Return the payload of an upload or a sum in memory."""
    return Payload.over("u8", len(data) // 8, memoryview(data))


def run(parameters: SumParameters, key: SecretKey, silos: int) -> Run:
    """Let one silo encrypt, and the coordinator add that as everybody's; open and publish the sum."""
    watch = Stopwatch()
    # Data to measure with, the same in every run.
    vector = np.random.default_rng(0).normal(0, 0.05, parameters.length).astype(np.float32)
    with watch.step("encrypt"):
        chunks = list(encrypt(key, parameters, vector, round_id=ROUND))
    data = payload_of(b"".join(chunks))
    total = CiphertextSum(parameters)
    for _ in range(silos):
        with watch.step("check"):
            check_upload(data, parameters)
        with watch.step("add"):
            total.add(data)
    with watch.step("serialise"):
        summed = payload_of(b"".join(total.payload().pieces()))
    with watch.step("open"):
        opened = open_sum(key, parameters, summed, silos=silos, round_id=ROUND)
    with watch.step("publish"):
        Publisher(parameters, key_id=key.key_id).publish(opened)
    error = float(np.abs(opened.values - silos * vector.astype(np.float64)).max())
    if not error <= opened.worst_error:
        raise RuntimeError("the sum is not within its bound")
    return Run(watch, sum(map(len, chunks)), opened, error)


def show_speed(length: int, silos: int, *, runs: int) -> dict[int, peer.CkksFigures]:
    """Print what each step takes at each ring, beside the limits; return what peers are compared with."""
    figures: dict[int, peer.CkksFigures] = {}
    rows: list[tuple[str | float, ...]] = []
    errors: list[tuple[str | float, ...]] = []
    for degree in RINGS:
        parameters = plan(length, bound=1.0, cohort=silos, degree=degree)
        key = SecretKey.generate(degree)
        run(parameters, key, silos)
        made = [run(parameters, key, silos) for _ in range(runs)]

        def per(step: str, of: Callable[[list[float]], float], many: list[Run] = made) -> float:
            return of([one.watch.cpu[step] for one in many]) * 1e6 / length

        added = per("add", statistics.median) / silos
        rows.append(
            (
                f"{degree}",
                *(per("encrypt", statistics.median), per("encrypt", min), ENCRYPT_LIMIT),
                *(f"{made[0].sent / length:.3f}", BYTES_LIMIT),
                *(per("check", statistics.median) / silos, added),
                parameters.chunks / (added * length / 1e6),
                per("serialise", statistics.median),
                *(per("open", statistics.median), per("open", min), OPEN_LIMIT),
                per("publish", statistics.median),
            )
        )
        figures[degree] = peer.CkksFigures(
            f"secagg, N={degree} 2^{parameters.scale_bits}",
            "symmetric",
            per("encrypt", statistics.median),
            per("check", statistics.median) / silos + added,
            per("open", statistics.median),
            made[0].sent / length,
            max(one.error for one in made),
        )
        errors.append(
            (
                f"{degree}",
                *(f"2^{parameters.scale_bits}", parameters.ring.modulus_bits),
                parameters.ring.most_modulus_bits,
                *(f"{max(one.error for one in made):.1e}", f"{parameters.error_bound():.1e}"),
                *(f"{parameters.publishing_sigma:.1e}", f"{parameters.publishing_grid:.1e}"),
            )
        )
    encrypted = ("encrypt", "encrypt, best", "limit", "bytes a parameter", "limit")
    added_up = ("check one", "add one", "chunks added a second", "serialise")
    show(
        f"{length:.0e} parameters, {silos} silos: seconds of CPU per 1e6 parameters",
        ("N", *encrypted, *added_up, "open", "open, best", "limit", "publish"),
        rows,
    )
    show(
        "Errors of an entry of the sum, for a bound of 1; one release of a key",
        ("N", "scale", "bits of modulus", "limit", "largest seen", "proven", "sigma published", "grid"),
        errors,
    )
    return figures


def show_peers(
    ours: Mapping[int, peer.CkksFigures], theirs: Mapping[int, Sequence[peer.CkksFigures]]
) -> None:
    """Print each setting of the peer beside ours of the same ring, and how many times ours it takes."""
    rows: list[tuple[str | float, ...]] = []
    for degree, own in ours.items():
        rows.extend(
            (
                *(one.setup, one.keys, one.encrypt, one.encrypt / own.encrypt),
                *(one.add, one.add / own.add, one.open, one.open / own.open),
                *(f"{one.upload:.2f}", one.upload / own.upload, f"{one.error:.1e}"),
            )
            for one in (own, *theirs[degree])
        )
    show(
        "Beside public implementations: seconds of CPU per 1e6 parameters, and how many times ours",
        (
            *("parameters", "keys", "encrypt, serialise", "**ratio**", "read, add one", "**ratio**"),
            *("read, decrypt", "**ratio**", "bytes a parameter", "**ratio**", "largest error"),
        ),
        rows,
    )


def show_memory(length: int, counts: list[int]) -> None:
    """Print what the coordinator's process holds at the most, beside two vectors and 64 MiB."""
    rows = []
    for silos in counts:
        idle, peak = measure_memory(length, silos)
        vector = 32 * length / MIB
        rows.append((f"{length:.0e}", silos, idle / MIB, vector, (peak - idle) / MIB, 2 * vector + 64))
    show(
        "Memory of the process that adds and sends, MiB",
        ("parameters", "silos", "idle", "one vector", "**peak above idle**", "limit"),
        rows,
    )


def measure_memory(length: int, silos: int) -> tuple[int, int]:
    """Return the bytes resident before the first upload, and at most, in a process that adds and sends."""
    parameters = plan(length, bound=1.0, cohort=silos)
    key = SecretKey.generate(parameters.degree)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        spool = Path(folder) / "upload"
        with spool.open("wb") as file:
            for chunk in encrypt(key, parameters, np.zeros(length, np.float32), round_id=ROUND):
                file.write(chunk)
        process = context.Process(target=_add, args=(there, spool, parameters, silos))
        process.start()
        there.close()
        idle, peak = here.recv()
        process.join()
    return idle, peak


def _add(parent: Connection, spool: Path, parameters: SumParameters, silos: int) -> None:
    """Add the upload in a file as everybody's and send the sum to everybody, as the service does both."""
    total = CiphertextSum(parameters)
    idle = _resident("VmRSS")
    for _ in range(silos):
        upload = Payload.over("u8", upload_words(parameters), OnDisk.of(spool))
        check_upload(upload, parameters)
        total.add(upload)
    frame = wire.encode(AggregateAnnounced(ROUND, (), total.payload()))
    lines = [Outgoing() for _ in range(silos)]
    for line in lines:
        line.put(frame)
    while lines:  # Silos take it side by side.
        lines = [line for line in lines if line.take() is not None]
    parent.send((idle, _resident("VmHWM")))


def _resident(name: str) -> int:
    """Return a size of this process in bytes, by its name in the kernel's status file."""
    with Path("/proc/self/status").open(encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ckks", description=__doc__)
    parser.add_argument("--length", type=float, default=1e6, help="parameters; default 1e6")
    parser.add_argument("--silos", type=int, default=5, help="default 5")
    parser.add_argument("--runs", type=int, default=7, help="rounds of each ring; default 7")
    parser.add_argument("--memory-length", type=float, default=1e7, help="default 1e7; 0 for none")
    parser.add_argument("--memory-silos", type=numbers, default=[3, 6], help="default 3,6")
    parser.add_argument("--peer", type=Path, metavar="SCRIPT", help="measures TenSEAL's own vectors too")
    parser.add_argument(
        "--peer-python",
        type=Path,
        default=sys.executable,
        metavar="PYTHON",
        help="interpreter of the environment that the script needs",
    )
    parser.add_argument("--filters", type=Path, metavar="SCRIPT", help="measures a framework's filters too")
    parser.add_argument(
        "--filters-python",
        type=Path,
        default=sys.executable,
        metavar="PYTHON",
        help="interpreter of the environment that this one needs",
    )
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    asked = arguments()
    print(f"{machine.facts()}, tenseal {version('tenseal')}. Medians of {asked.runs} rounds.")
    ours = show_speed(int(asked.length), asked.silos, runs=asked.runs)
    length = int(asked.length)
    theirs = {degree: list[peer.CkksFigures]() for degree in RINGS}
    if asked.peer is not None:
        theirs |= peer.measure_ckks(asked.peer, asked.peer_python, length=length)
    if asked.filters is not None:
        theirs[8192].append(peer.measure_filters(asked.filters, asked.filters_python, length=length))
    if any(theirs.values()):
        show_peers(ours, theirs)
    if asked.memory_length:
        show_memory(int(asked.memory_length), asked.memory_silos)


if __name__ == "__main__":
    main()
