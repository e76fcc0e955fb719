"""Where a node is split best, and what a leaf weighs, from sums of gradients and Hessians.

Source: Chen, Guestrin, "XGBoost", KDD 2016, equations 5 and 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secagg.vertical.trees.cells import Cells
from secagg.vertical.trees.gradients import Fixed


@dataclass(frozen=True, eq=False)
class Histogram:
    """What one party's columns say of a node.

    Attributes:
        cells: of the columns.
        sums: int64, shape (2, cells): gradients and Hessians.
        allowed: after which cells the node may be split.
    """

    cells: Cells
    sums: NDArray[np.int64]
    allowed: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Split:
    """Where a node is split.

    Attributes:
        party: which one's column, by its place.
        column: which of those that vary.
        bin: the last that goes left.
        left: sums of the rows that go left, shape (2,).
    """

    party: int
    column: int
    bin: int
    left: NDArray[np.int64]


def best_split(
    histograms: Sequence[Histogram], total: NDArray[np.int64], fixed: Fixed, *, l2: float
) -> Split | None:
    """Return the split of the largest gain; the first of several, in the order of parties, columns and bins.

    Args:
        histograms: of each party.
        total: sums of all rows of the node, shape (2,).
        fixed: what the sums are of.
        l2: added to Hessians.

    Returns:
        None if no split is allowed, or none gains anything.
    """
    best, found = 0.0, None
    for party, histogram in enumerate(histograms):
        if not histogram.allowed.any():
            continue
        left = histogram.cells.up_to(histogram.sums)
        gain = np.where(histogram.allowed, _gains(left, total, fixed, l2), -np.inf)
        at = int(np.argmax(gain))
        if gain[at] > best:
            column = int(histogram.cells.columns[at])
            best = float(gain[at])
            found = Split(party, column, at - int(histogram.cells.starts[column]), left[:, at])
    return found


def leaf_weight(total: NDArray[np.int64], fixed: Fixed, *, l2: float, learning_rate: float) -> float:
    """Return what a leaf adds to the scores of its rows, whose sums are ``total``, shape (2,)."""
    gradient, hessian = fixed.reals(total)
    return float(-gradient / (hessian + l2) * learning_rate)


def _gains(left: NDArray[np.int64], total: NDArray[np.int64], fixed: Fixed, l2: float) -> NDArray[np.float64]:
    """Return twice how much the loss falls, for each split whose left sums are ``left``."""

    def score(sums: NDArray[np.int64]) -> NDArray[np.float64]:
        gradient, hessian = fixed.reals(sums)
        return gradient * gradient / (hessian + l2)

    return score(left) + score(total[:, None] - left) - score(total)
