"""Runs many points, in processes beside each other: each is small, and none needs another."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from examples.privacy.ways import Point, Scored, run


def run_all(points: Sequence[Point], *, workers: int = 1) -> Iterator[Scored]:
    """Make every run, and return each as it is finished.

    Args:
        points: in any order.
        workers: processes; 1 for this one.
    """
    if workers == 1:
        yield from map(run, points)
        return
    # Not forked: torch and its threads do not outlive that.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(run, point) for point in points]):
            yield done.result()
