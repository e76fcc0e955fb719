"""Vertical regression: seconds and bytes of a gradient step over all rows, two parties in one process.

The label party has few columns and a feature party many; numbers are drawn. A *step* is from one point to the
next: sums of columns, encryption of a number a row, products with all columns, opening. The first one also
transforms the columns, of which as much is kept as fits a budget. Both parties compute on all cores, one
after the other; between silos they do so at once, where they can.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np

from benchmarks import machine
from benchmarks.machine import show
from secagg import wire
from secagg.conversation import together
from secagg.hazmat.cores import usable_cores
from secagg.names import SiloId
from secagg.payload import Frame
from secagg.vertical.checkpoints import InMemory
from secagg.vertical.linear.terms import Settings, Terms
from secagg.vertical.linear.training import training_side

LIMIT_SECONDS = 30
"""Of a step of 100,000 rows, 30 and 300 columns, on two cores."""
LIMIT_MEMORY = 2 * 1024
"""MiB of a party; measured are both in one process."""


SETTINGS: dict[str, Callable[[int], Settings]] = {
    "open": lambda steps: Settings(steps=steps, tolerance=1e-9),
    "poly": lambda steps: Settings(link="poly", steps=steps, tolerance=1e-9),
    "cubic": lambda steps: Settings(link="poly", degree=3, reach=8.0, steps=steps, tolerance=1e-9),
}


class Steps:
    """Times between the points that the label party tells, and bytes that each party sent meanwhile."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.sent: dict[SiloId, list[int]] = defaultdict(list)

    def watch(self, sender: SiloId, _to: SiloId, frame: Frame) -> None:
        """See ``together``."""
        if b"Point" in frame[0][:32]:
            self.wall.append(time.perf_counter())
            self.cpu.append(time.process_time())
            for sizes in self.sent.values():
                sizes.append(0)
        elif not self.sent[sender]:
            self.sent[sender].append(0)
        self.sent[sender][-1] += wire.size_of(frame)


def measured(rows: int, few: int, many: int, link: str, runs: int) -> Steps:
    """Return what ``runs`` steps after the first took."""
    drawn = np.random.default_rng(1)  # Numbers to train on; keys, masks and noise are from the OS.
    columns = {"label": drawn.normal(size=(rows, few)), "feature": drawn.normal(size=(rows, many))}
    signal = columns["label"] @ drawn.normal(size=few) + columns["feature"] @ drawn.normal(size=many)
    labels = (signal / np.sqrt(few + many) + drawn.logistic(size=rows) > 0).astype(np.float64)
    terms = Terms(
        settings=SETTINGS[link](runs + 2),
        records=bytes(32),
        rows=rows,
        parties=("label", "feature"),
        label_party="label",
    )
    steps = Steps()
    sides = {
        name: training_side(
            name,
            terms,
            [f"x{at}" for at in range(each.shape[1])],
            each,
            labels if name == "label" else None,
            InMemory(),
        )
        for name, each in columns.items()
    }
    together(sides, watch=steps.watch)
    return steps


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vertical_regression", description=__doc__)
    parser.add_argument("--rows", default="1e4,1e5", help="default 1e4,1e5")
    parser.add_argument(
        "--columns", default="30,300", help="of the label party and the other; default 30,300"
    )
    parser.add_argument("--links", default="open,poly", help="also cubic; default open,poly")
    parser.add_argument("--runs", type=int, default=5, help="steps after the first; default 5")
    asked = parser.parse_args()
    print(machine.facts())
    few, many = map(int, asked.columns.split(","))
    table: list[tuple[str | float, ...]] = []
    for link in asked.links.split(","):
        for rows in (int(float(each)) for each in asked.rows.split(",")):
            steps = measured(rows, few, many, link, asked.runs)
            wall, cpu = np.diff(steps.wall), np.diff(steps.cpu)
            sent = {name: statistics.median(sizes[-asked.runs : -1]) for name, sizes in steps.sent.items()}
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            table.append(
                (
                    link,
                    f"{rows:,}",
                    float(wall[0]),
                    float(cpu[0]),
                    statistics.median(wall[1:]),
                    LIMIT_SECONDS,
                    statistics.median(cpu[1:]),
                    sent["label"] / rows,
                    sent["feature"] / rows,
                    peak,
                    LIMIT_MEMORY,
                )
            )
    show(
        f"A step, {few} + {many} columns, {usable_cores()} cores",
        (
            *(
                "link",
                "rows",
                "first, s",
                "CPU s",
                "**step, s**",
                "limit",
                "CPU s",
                "bytes a row, label party",
            ),
            *("bytes a row, other", "MiB of both so far", "limit of one"),
        ),
        table,
    )


if __name__ == "__main__":
    main()
