"""Boosted trees over encrypted histograms: seconds, memory and bytes of one tree, at each party.

The label party and one feature party, each in a process of its own, one computing while the other waits. The
feature party's columns are random; labels depend on some of them. The trees are compared with those of pooled
training. Memory is the peak of each process's resident set.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import facts, show
from secagg.conversation import Await, Send, Side
from secagg.payload import Frame
from secagg.vertical.checkpoints import InMemory
from secagg.vertical.trees.feature import FeatureParty
from secagg.vertical.trees.label import LabelParty
from secagg.vertical.trees.pooled import train_pooled
from secagg.vertical.trees.settings import Settings, TreeTerms
from secagg.wire import size_of

TARGET = 60.0
"""Seconds of a tree with 100,000 rows, 30 columns and 32 bins, on two cores, that the design asks for."""
LIMIT_MEMORY = 2 * 1024
"""MiB of one party at the most."""
LABEL, FEATURE = "bank", "insurer"


class Figures:
    """What one party cost.

    Attributes:
        cpu, sent, peak: seconds of all threads, bytes, and MiB.
    """

    def __init__(self, cpu: float, sent: int) -> None:
        self.cpu = cpu
        self.sent = sent
        self.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def data(rows: int, columns: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the columns of both parties and the labels; the same in every run."""
    random = np.random.default_rng(0)  # Numbers to train on; keys and noise are from the OS.
    own, theirs = random.normal(size=(rows, 2)), random.normal(size=(rows, columns))
    score = own[:, 0] + theirs[:, 0] - theirs[:, 1] * theirs[:, 2] + random.normal(size=rows)
    return own, theirs, (score > 0).astype(np.float64)


def drive(side: Side[Any], pipe: Connection) -> tuple[Any, Figures]:
    """Drive one side over a pipe; return what it learned and what it cost."""
    began, sent, given = time.process_time(), 0, None
    frame: Frame
    try:
        while True:
            match side.send(given):
                case Send(_, frame):
                    header, payload = frame
                    sent += size_of(frame)
                    pipe.send_bytes(header)
                    pipe.send_bytes(b"" if payload is None else payload[:])
                    given = None
                case Await():
                    header, body = pipe.recv_bytes(), pipe.recv_bytes()
                    given = header, memoryview(body) if body else None
    except StopIteration as end:
        return end.value, Figures(time.process_time() - began, sent)


def insurer(pipe: Connection, rows: int, columns: int, terms: TreeTerms) -> None:
    """Be the feature party, and send what it cost and its part."""
    _, theirs, _ = data(rows, columns)
    ended, figures = drive(FeatureParty(FEATURE, theirs, terms, InMemory()).side(), pipe)
    pipe.send((ended.splits.columns, ended.splits.thresholds, figures))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vertical_trees", description=__doc__)
    parser.add_argument("--rows", default="1e5", help="of records, several with commas; default 1e5")
    parser.add_argument("--columns", type=int, default=30, help="of the feature party; default 30")
    parser.add_argument("--bins", type=int, default=32, help="of a column; default 32")
    parser.add_argument("--depth", default="4", help="of trees, several with commas; default 4")
    parser.add_argument("--trees", type=int, default=2, help="of a run; default 2")
    asked = parser.parse_args()
    print(facts())
    context = multiprocessing.get_context("spawn")
    rows_: list[tuple[str | float, ...]] = []
    for rows in (int(float(each)) for each in asked.rows.split(",")):
        own, theirs, labels = data(rows, asked.columns)
        for depth in map(int, asked.depth.split(",")):
            settings = Settings(trees=asked.trees, depth=depth, bins=asked.bins)
            terms = TreeTerms(
                alignment=bytes(32), parties=(LABEL, FEATURE), label_party=LABEL, settings=settings
            )
            here, there = context.Pipe()
            other = context.Process(target=insurer, args=(there, rows, asked.columns, terms))
            other.start()
            began = time.perf_counter()
            ended, mine = drive(LabelParty(LABEL, own, labels, terms, InMemory()).side(), here)
            taken = (time.perf_counter() - began) / asked.trees
            columns, thresholds, his = here.recv()
            other.join()
            pooled = train_pooled([own, theirs], labels, settings)
            parts = [(ended.splits.columns, ended.splits.thresholds), (columns, thresholds)]
            for tree, wanted in zip(ended.forest.trees, pooled.trees, strict=True):
                splits = {
                    node: (party, parts[party][0][index], parts[party][1][index])
                    for node, party, index in tree.splits
                }
                if splits != wanted.splits or dict(tree.leaves) != wanted.leaves:
                    raise SystemExit("not the trees of pooled training")
            rows_.append(
                (
                    *(f"{rows:,}", depth, taken, TARGET, mine.cpu / asked.trees, his.cpu / asked.trees),
                    *(mine.peak, his.peak, LIMIT_MEMORY),
                    *(mine.sent / asked.trees / 1e6, his.sent / asked.trees / 1e6),
                    (mine.sent + his.sent) / asked.trees / rows,
                )
            )
    show(
        f"One tree, {asked.columns} columns of {asked.bins} bins at the feature party",
        (
            *("rows", "depth", "**seconds**", "target", "label party, s of CPU", "feature party, s of CPU"),
            *("label party, MiB", "feature party, MiB", "limit", "label party sends, MB"),
            *("feature party sends, MB", "bytes a row"),
        ),
        rows_,
    )


if __name__ == "__main__":
    main()
