"""CKKS: one silo and the coordinator, step by step, in CPU time; bytes; memory. Limits stand beside.

What is printed, and how to read it, stands in ``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from benchmarks import machine
from benchmarks.machine import Stopwatch, show
from benchmarks.masking import numbers
from secagg.ckks.parameters import RINGS, SumParameters, plan
from secagg.ckks.public import CiphertextSum, check_upload, upload_words
from secagg.ckks.secret import OpenedSum, Publisher, SecretKey, encrypt, open_sum
from secagg.payload import PIECE_SIZE, Payload

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
    data, total = b"".join(chunks), CiphertextSum(parameters)
    for _ in range(silos):
        upload = payload_of(data)
        with watch.step("hash"):
            upload.digest  # noqa: B018 - computed when it is first asked for
        with watch.step("check"):
            check_upload(upload, parameters)
        with watch.step("add"):
            total.add(upload)
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


def show_speed(length: int, silos: int, *, runs: int) -> None:
    """Print what each step takes at each ring, beside the limits."""
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
                *(per("hash", statistics.median) / silos, per("check", statistics.median) / silos, added),
                parameters.chunks / (added * length / 1e6),
                per("serialise", statistics.median),
                *(per("open", statistics.median), per("open", min), OPEN_LIMIT),
                per("publish", statistics.median),
            )
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
    added_up = ("hash one", "check one", "add one", "chunks added a second", "serialise")
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


def show_memory(length: int, counts: list[int]) -> None:
    """Print what the adder's process holds at the most, beside two vectors and 64 MiB."""
    rows = []
    for silos in counts:
        idle, peak = measure_memory(length, silos)
        vector = 32 * length / MIB
        rows.append((f"{length:.0e}", silos, idle / MIB, vector, (peak - idle) / MIB, 2 * vector + 64))
    show(
        "Memory of the process that adds, MiB",
        ("parameters", "silos", "idle", "one vector", "**peak above idle**", "limit"),
        rows,
    )


def measure_memory(length: int, silos: int) -> tuple[int, int]:
    """Return the bytes resident before the first upload, and at most, in a process that adds."""
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


def spooled(parameters: SumParameters, spool: Path) -> Payload:
    """Return the upload that lies in a file."""
    return Payload("u8", upload_words(parameters), lambda: _pieces(spool))


def _pieces(spool: Path) -> Iterator[memoryview]:
    with spool.open("rb", buffering=0) as file:
        while piece := file.read(PIECE_SIZE):
            yield memoryview(piece)


def _add(parent: Connection, spool: Path, parameters: SumParameters, silos: int) -> None:
    total = CiphertextSum(parameters)
    idle = _resident("VmRSS")
    for _ in range(silos):
        upload = spooled(parameters, spool)
        check_upload(upload, parameters)
        total.add(upload)
    for _piece in total.payload().pieces():
        pass
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
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    asked = arguments()
    print(f"{machine.facts()}, tenseal {version('tenseal')}. Medians of {asked.runs} rounds.")
    show_speed(int(asked.length), asked.silos, runs=asked.runs)
    if asked.memory_length:
        show_memory(int(asked.memory_length), asked.memory_silos)


if __name__ == "__main__":
    main()
