"""One silo floods: how long messages of the four others wait for their acknowledgement, with it and without.

Rounds with and without the flood alternate in one run. A latency is the time from a message's first frame to
its acknowledgement, over mutual TLS on loopback, all parties in one process: the flooder takes its part of
the same cores. Target: the 99th percentile at most doubles. Not a test: a wall clock judges the machine too.
"""

from __future__ import annotations

import asyncio
import platform
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import structlog

from secagg.link.frames import Begin
from tests.adversary.test_flood import FLOODS, SUSPECT, Flood, under_flood
from tests.loopback.campaign import Campaign, campaign
from tests.loopback.world import Sent, Speaker

import grpc  # isort: skip - after the coordinator's tls, which sets what it reads

ROUNDS = 15


def watch(speaker: Speaker, latencies: list[float]) -> None:
    """Add the latency of every message of ``speaker`` to ``latencies``."""
    begun: dict[int, float] = {}
    acknowledge = speaker.outgoing.acknowledge

    def change(frame: Sent) -> list[Sent]:
        if isinstance(frame, Begin):
            begun[frame.number] = time.perf_counter()
        return [frame]

    def acknowledged(number: int) -> None:
        acknowledge(number)
        now = time.perf_counter()
        latencies.extend(now - begun.pop(done) for done in [n for n in begun if n <= number])

    speaker.change = change
    speaker.outgoing.acknowledge = acknowledged  # type: ignore[method-assign]  # Watched here alone.


async def one_round(rounds: Campaign, flood: Flood | None) -> list[float]:
    """Return the latencies of the others in one round."""
    latencies: list[float] = []
    driver = rounds.next_round()
    for silo in rounds.silos:
        if silo != SUSPECT:
            watch(await rounds.begin_again(silo), latencies)
    flooding: Any = nullcontext() if flood is None else under_flood(rounds, flood)
    running = asyncio.create_task(rounds.run(driver))
    async with flooding:
        rounds.check(driver, await running, SUSPECT)
    return latencies


async def measured() -> None:
    """Print one line for each flood."""
    with tempfile.TemporaryDirectory() as folder:
        async with campaign(Path(folder)) as rounds:
            await rounds.leave(SUSPECT)
            for flood in FLOODS:
                calm, flooded = [], []
                for _ in range(ROUNDS):
                    calm += await one_round(rounds, None)
                    flooded += await one_round(rounds, flood)
                print(line(flood.__name__, calm, flooded), flush=True)


def line(name: str, calm: list[float], flooded: list[float]) -> str:
    """Return medians and 99th percentiles in milliseconds, and the ratio of the latter."""
    p99 = [statistics.quantiles(values, n=100)[98] * 1000 for values in (calm, flooded)]
    median = [statistics.median(values) * 1000 for values in (calm, flooded)]
    return (
        f"  {name:18}median {median[0]:6.1f} -> {median[1]:6.1f} ms   "
        f"p99 {p99[0]:6.1f} -> {p99[1]:6.1f} ms   x {p99[1] / p99[0]:.2f}   ({len(flooded)} messages)"
    )


def main() -> None:
    """Print machine, versions and figures."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    print(f"{platform.machine()}, Python {platform.python_version()}, grpcio {grpc.__version__}")
    asyncio.run(measured())


if __name__ == "__main__":
    main()
