"""Boosted trees where all columns are in one place: what the protocol must equal, number by number.

It shares with the protocol how columns are cut, gradients rounded and splits weighed, and nothing of how
trees are grown: here by recursion over rows, with histograms that are simply counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg.names import RealVector
from secagg.vertical.trees.cells import Binned
from secagg.vertical.trees.gradients import Fixed, check_labels, first_score, gradients
from secagg.vertical.trees.settings import Settings
from secagg.vertical.trees.splitting import Histogram, best_split, leaf_weight


@dataclass
class PooledTree:
    """One tree.

    Attributes:
        splits: node -> party, column, threshold.
        leaves: node -> weight.
    """

    splits: dict[int, tuple[int, int, float]] = field(default_factory=dict)
    leaves: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class PooledForest:
    """What training gives.

    Attributes:
        trees: in order.
        scores: of the rows trained on, before any link.
    """

    trees: tuple[PooledTree, ...]
    scores: RealVector = field(repr=False)


def train_pooled(
    parties: Sequence[NDArray[np.float64]], labels: RealVector, settings: Settings
) -> PooledForest:
    """Train on the columns of all parties.

    Args:
        parties: each one's columns, shape (rows, columns).
        labels: shape (rows,).
        settings: how trees are grown.

    Raises:
        InputRefused: labels that the loss does not take.
    """
    check_labels(settings.loss, labels)
    binned = [Binned.of(columns, settings.bins) for columns in parties]
    scores = np.full(len(labels), first_score(settings.loss, labels))
    trees = []
    for _ in range(settings.trees):
        fixed = Fixed.of(gradients(settings.loss, scores, labels))
        tree = PooledTree()
        scores = scores.copy()
        _grow(tree, 1, np.arange(len(labels)), binned, fixed, settings, scores)
        trees.append(tree)
    return PooledForest(tuple(trees), scores)


def _grow(
    tree: PooledTree,
    node: int,
    rows: NDArray[np.int64],
    binned: Sequence[Binned],
    fixed: Fixed,
    settings: Settings,
    scores: RealVector,
) -> None:
    """Grow the tree from ``node``, which has ``rows``, and add the weights of its leaves to their scores."""
    total = fixed.integers[:, rows].sum(axis=1)
    split = None
    if node.bit_length() <= settings.depth:
        histograms = [
            Histogram(
                one.cells,
                one.sums(list(fixed.integers), rows),
                one.cells.allowed(one.counts(rows), settings.min_child_rows),
            )
            for one in binned
        ]
        split = best_split(histograms, total, fixed, l2=settings.l2)
    if split is None:
        weight = leaf_weight(total, fixed, l2=settings.l2, learning_rate=settings.learning_rate)
        tree.leaves[node] = weight
        scores[rows] += weight
        return
    here = binned[split.party]
    threshold = float(here.cuts[split.column][split.bin])
    tree.splits[node] = split.party, here.column[split.column], threshold
    left = here.left(split.column, split.bin, rows)
    _grow(tree, 2 * node, rows[left], binned, fixed, settings, scores)
    _grow(tree, 2 * node + 1, rows[~left], binned, fixed, settings, scores)
