"""Masking: one silo and the coordinator, step by step, in CPU and wall time; bytes; memory.

``--peer`` measures a public SecAgg+ implementation in the same run. What is printed, and how to read it,
stands in ``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine, memory, peer
from benchmarks.machine import show
from benchmarks.rounds import Federation, Round, run_round

# Columns of a table, and the steps of the stopwatch that they add up.
CLIENT: Mapping[str, tuple[str, ...]] = {
    "quantise": ("quantise",),
    "keys": ("AdvertiseKeys",),
    "shares": ("ShareKeys",),
    "boxes, copy": ("MaskedInput",),
    "mask streams": ("streams",),
    "later": ("ConsistencyCheck", "Unmasking", "opened"),
}
COORDINATOR: Mapping[str, tuple[str, ...]] = {
    "keys": ("AdvertiseKeys",),
    "shares": ("ShareKeys",),
    "add uploads": ("MaskedInput",),
    "recover": ("ConsistencyCheck", "Unmasking"),
    "mask streams": ("streams",),
    "decode": ("decode",),
}
LABEL = ("parameters", "silos", "lost")
MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """The rounds of one length, number of silos and number of dropouts; seconds are medians over them."""

    length: int
    silos: int
    dropouts: int
    rounds: Sequence[Round]

    @property
    def label(self) -> tuple[str, int, int]:
        """The first cells of its row in every table."""
        return f"{self.length:.0e}", self.silos, self.dropouts

    def median(self, of: Callable[[Round], float]) -> float:
        """Return the median over the rounds."""
        return statistics.median(map(of, self.rounds))

    def best(self, of: Callable[[Round], float]) -> float:
        """Return the least over the rounds: what a core does that nobody else keeps busy."""
        return min(map(of, self.rounds))

    def client(self, *columns: str) -> float:
        """Return CPU seconds of the measured silo in ``columns`` together; all of them if none is named."""
        steps = [step for column in columns or CLIENT for step in CLIENT[column]]
        return self.median(lambda r: sum(r.client.cpu[step] for step in steps))

    def coordinator(self, *columns: str) -> float:
        """Return CPU seconds of the coordinator in ``columns`` together; all of them if none is named."""
        steps = [step for column in columns or COORDINATOR for step in COORDINATOR[column]]
        return self.median(lambda r: sum(r.coordinator.cpu[step] for step in steps))

    def opening(self) -> float:
        """Return CPU seconds of the coordinator until the sum is open, as integers."""
        return self.coordinator(*(column for column in COORDINATOR if column != "decode"))

    @property
    def streams(self) -> tuple[int, int]:
        """How many mask streams of the whole length the measured silo and the coordinator make."""
        survivors = self.silos - self.dropouts
        return self.silos, survivors + self.dropouts * survivors


def measure(length: int, silos: int, *, runs: int) -> list[Case]:
    """Measure without dropouts, with two and with a fifth of the silos lost, as far as that is allowed."""
    federation = Federation(length, silos)
    most = federation.cohort.max_dropouts
    run_round(federation, frozenset())  # The first round pays for what later ones find in place.
    return [
        Case(length, silos, lost, [run_round(federation, federation.dropouts(lost)) for _ in range(runs)])
        for lost in sorted({0, min(2, most), min(round(silos / 5), most)})
    ]


def show_parties(cases: Sequence[Case]) -> None:
    """Print what each step takes the measured silo and the coordinator."""
    show(
        "One silo, ms of CPU",
        (*LABEL, *CLIENT, "**all**", "all, best", "all, wall", "digest of the upload, beside it"),
        [
            (
                *case.label,
                *(1e3 * case.client(column) for column in CLIENT),
                1e3 * case.client(),
                1e3 * case.best(lambda r: sum(r.client.cpu.values()) - r.client.cpu["digest"]),
                1e3 * case.median(lambda r: sum(r.client.wall.values()) - r.client.wall["digest"]),
                1e3 * case.median(lambda r: r.client.cpu["digest"]),
            )
            for case in cases
        ],
    )
    show(
        "Coordinator, ms of CPU",
        (*LABEL, *COORDINATOR, "**all**", "all but decode", "that, best", "all, wall"),
        [
            (
                *case.label,
                *(1e3 * case.coordinator(column) for column in COORDINATOR),
                1e3 * case.coordinator(),
                1e3 * case.opening(),
                1e3 * case.best(lambda r: sum(r.coordinator.cpu.values()) - r.coordinator.cpu["decode"]),
                1e3 * case.median(lambda r: sum(r.coordinator.wall.values())),
            )
            for case in cases
        ],
    )


def show_bytes(cases: Sequence[Case]) -> None:
    """Print what one silo sends in a round."""
    show(
        "Upload of one silo",
        ("parameters", "silos", "vector, bytes a parameter", "beside it, bytes", "bytes a peer"),
        [
            (
                *case.label[:2],
                f"{case.rounds[0].vector_bytes / case.length:.6f}",
                case.rounds[0].other_bytes,
                case.rounds[0].other_bytes / (case.silos - 1),
            )
            for case in cases
            if case.dropouts == 0
        ],
    )


def show_limits(cases: Sequence[Case], *, runs: int) -> None:
    """Print the rates of this machine, and the mask streams beside what these rates allow."""
    keystream, cached = machine.keystream_rate(runs=runs), machine.cached_add_rate(runs=runs)
    adds = {case.length: machine.vector_add_seconds(case.length, runs=runs) for case in cases}
    show(
        "This machine, one core",
        ("what", "GB/s"),
        [
            ("AES-256-GCM as a keystream, blocks of 256 KiB", keystream / 1e9),
            ("uint32 add in the second cache", cached / 1e9),
            *(
                (f"uint32 add of {length:.0e} entries in memory", 4e-9 * length / seconds)
                for length, seconds in adds.items()
            ),
            *(
                (
                    f"first write to {length:.0e} entries of fresh memory",
                    machine.fresh_memory_rate(length, runs=runs) / 1e9,
                )
                for length in adds
            ),
        ],
    )
    rows: list[tuple[str | float, ...]] = []
    for case in cases:
        taken = case.client("mask streams"), case.coordinator("mask streams")
        for who, count, seconds in zip(("silo", "coordinator"), case.streams, taken, strict=True):
            as_adds = count * adds[case.length]
            at_rates = count * 4 * case.length * (1 / keystream + 1 / cached)
            rows.append(
                (
                    *(*case.label, who, count),
                    *(1e3 * seconds, 1e3 * as_adds, 1e3 * at_rates),
                    *(seconds / as_adds, seconds / at_rates),
                )
            )
    show(
        "Mask streams, ms of CPU, beside as many adds of a whole vector, and keystream + cached add",
        (*LABEL, "who", "streams", "taken", "adds", "keystream + add", "taken / adds", "taken / (k + a)"),
        rows,
    )


def show_memory(length: int, silos: Sequence[int]) -> None:
    """Print what the coordinator's process holds at the most, beside two vectors and 64 MiB."""
    rows = []
    for n in silos:
        federation = Federation(length, n)
        lost = min(2, federation.cohort.max_dropouts)
        found = memory.measure(federation, federation.dropouts(lost))
        vector = 4 * (federation.encoding.length + 1)
        above, allowed = (found.peak - found.idle) / MIB, 2 * vector / MIB + 64
        rows.append((f"{length:.0e}", n, lost, found.idle / MIB, vector / MIB, above, allowed))
    show(
        "Memory of the coordinator's process, MiB",
        (*LABEL, "idle", "one vector", "**peak above idle**", "target"),
        rows,
    )


def show_peer(cases: Sequence[Case], theirs: Mapping[tuple[int, int, int], peer.Figures]) -> None:
    """Print both side by side, where the peer was measured."""
    rows: list[tuple[str | float, ...]] = []
    for case in cases:
        other = theirs.get((case.length, case.silos, case.dropouts))
        if other is not None:
            silo, opened, decoded = case.client(), case.opening(), case.coordinator()
            rows.append(
                (
                    *(*case.label, silo, other.client, other.client / silo),
                    *(opened, decoded, other.server, other.server / opened, other.server / decoded),
                    other.upload,
                )
            )
    ours = ("silo", "its client", "**ratio**", "coordinator", "with decode")
    show(
        "Beside SecAgg+, seconds of CPU",
        (*LABEL, *ours, "its server", "**ratio**", "ratio with decode", "its bytes a parameter"),
        rows,
    )


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.masking", description=__doc__)
    parser.add_argument("--lengths", type=numbers, default=[10**6, 10**7], help="default 1e6,1e7")
    parser.add_argument("--silos", type=numbers, default=[5, 10, 30], help="default 5,10,30")
    parser.add_argument("--runs", type=int, default=7, help="rounds of each case; default 7")
    script = os.environ.get("SECAGG_PEER_BENCH")
    parser.add_argument(
        "--peer",
        type=Path,
        default=script,
        metavar="SCRIPT",
        help="measures SecAgg+ too; default $SECAGG_PEER_BENCH, else nothing",
    )
    parser.add_argument(
        "--peer-python",
        type=Path,
        default=sys.executable,
        metavar="PYTHON",
        help="interpreter of the environment that the script needs",
    )
    parser.add_argument("--peer-silos", type=numbers, default=[5, 10], help="default 5,10")
    return parser.parse_args()


def numbers(text: str) -> list[int]:
    """Return the integers of a list like ``1e6,1e7``."""
    return [int(float(part)) for part in text.split(",")]


def main() -> None:
    """Measure and print."""
    asked = arguments()
    print(f"{machine.facts()}. Medians of {asked.runs} rounds.")
    cases = [
        case for length in asked.lengths for n in asked.silos for case in measure(length, n, runs=asked.runs)
    ]
    show_parties(cases)
    show_bytes(cases)
    show_limits(cases, runs=asked.runs)
    show_memory(max(asked.lengths), asked.silos)
    if asked.peer is not None:
        theirs = peer.measure(asked.peer, asked.peer_python, lengths=asked.lengths, silos=asked.peer_silos)
        show_peer(cases, theirs)


if __name__ == "__main__":
    main()
