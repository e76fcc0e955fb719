"""One whole round over mutual TLS: a coordinator and silos as processes, trivial training, journals synced.

python -m benchmarks.round                 5 silos, 10^7 parameters: seconds of a round, by phase
python -m benchmarks.round --memory        coordinator's memory above idle, 10 and 30 silos, 10^7
python -m benchmarks.round --growth        3 silos, 10^5 to 10^8 parameters
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.machine import facts, show
from benchmarks.trivial import APP
from coordinator.client import Coordinator
from examples.processes import Processes
from secagg import Federation
from secagg.learning.progress import Silent
from secagg.policy import Policy
from secagg.report import RoundReport

MIB = 1024 * 1024
LIMIT_SECONDS = 1.5
LIMIT_MEMORY = 64


class Stopwatch(Silent):
    """Notes when each round ended, and its report."""

    def __init__(self) -> None:
        self.moments: list[float] = []
        self.reports: list[RoundReport] = []

    def run_started(self, silos: Sequence[str], phases: Sequence[str], *, rounds: int) -> None:
        """Note the beginning."""
        self.moments.append(time.perf_counter())

    def round_finished(self, report: RoundReport, metrics: Mapping[str, float]) -> None:
        """Note the end of a round."""
        self.moments.append(time.perf_counter())
        self.reports.append(report)

    @property
    def seconds(self) -> list[float]:
        """Seconds of each round but the first, in which silos load their app and fetch the base."""
        return [after - before for before, after in zip(self.moments[1:], self.moments[2:], strict=False)]


def measure(length: int, silos: int, rounds: int) -> tuple[Stopwatch, float, float]:
    """Run rounds and return their times, and the coordinator's memory when idle and at its peak, in MiB."""
    typer.echo(f"{silos} silos, {length:,} parameters, {rounds} rounds ...", err=True)
    names = [f"silo-{slot:02}" for slot in range(silos)]
    with tempfile.TemporaryDirectory(dir=".") as folder:
        processes = Processes(
            Path(folder) / "federation",
            names,
            app=APP,
            policy=Policy(min_silos=silos, min_weight_cap=1000.0),
            arguments={name: {"slot": slot} for slot, name in enumerate(names)},
        )
        with processes:
            coordinator = Coordinator(f"grpcs://{processes.address}", credentials=processes.credentials)
            pid = processes.running["coordinator"].pid
            federation = Federation(
                silos=coordinator,
                app=APP,
                initial=np.zeros(length),
                metrics=(),
                precision=1e-3,
                weight_cap=1000,
                least_total_weight=100,
                seed=0,
            )
            coordinator.runs()  # It serves: what it holds now is what it holds when idle.
            idle = memory(pid, "VmRSS")
            watch = Stopwatch()
            federation.run(rounds, progress=watch)
            return watch, idle, memory(pid, "VmHWM")


def memory(pid: int, field: str) -> float:
    """Return a field of a process's memory in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(field)


def main(
    *,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds; the first is not counted.")] = 8,
    of_memory: Annotated[bool, typer.Option("--memory", help="The coordinator's memory.")] = False,
    of_growth: Annotated[bool, typer.Option("--growth", help="How cost grows with the model.")] = False,
) -> None:
    """Measure whole rounds over mutual TLS."""
    print(facts())
    length = 10_000_000
    if of_memory:
        rows: list[list[str | float]] = []
        for silos in (10, 30):
            _, idle, peak = measure(length, silos, 3)
            rows.append([silos, idle, peak - idle, 2 * 4 * length / MIB + LIMIT_MEMORY])
        show(
            "The coordinator's memory in MiB, 10^7 parameters", ["silos", "idle", "peak above", "limit"], rows
        )
        return
    if of_growth:
        rows = []
        for length in (10**5, 10**6, 10**7, 10**8):
            watch, idle, peak = measure(length, 3, 3)
            most = 2 * 4 * length / MIB + LIMIT_MEMORY
            rows.append([f"{length:,}", statistics.median(watch.seconds), peak - idle, most])
        show(
            "Growth, 3 silos",
            ["parameters", "seconds a round", "coordinator, MiB above idle", "limit"],
            rows,
        )
        return
    watch, _, _ = measure(length, 5, rounds)
    seconds, last = watch.seconds, watch.reports[1:]
    show(
        f"A round of 5 silos, 10^7 parameters, {len(seconds)} rounds",
        ["median s", "best", "worst", "limit"],
        [[statistics.median(seconds), min(seconds), max(seconds), LIMIT_SECONDS]],
    )
    phases: list[list[str | float]] = [
        [phase, statistics.median(report.seconds.get(phase, 0.0) for report in last)]
        for phase in last[-1].seconds
    ]
    show("By phase", ["phase", "median s"], phases)


if __name__ == "__main__":
    typer.run(main)
