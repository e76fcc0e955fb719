"""What the same models learn where all columns are in one place, and where only one party's are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from secagg.names import RealVector
from secagg.psi.identifiers import read_identifiers
from secagg.vertical import Party
from secagg.vertical.trees.gradients import first_score, probabilities
from secagg.vertical.trees.pooled import PooledTree, train_pooled
from secagg.vertical.trees.settings import Settings

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of some parties for the same records, and their labels.

    Attributes:
        columns: of each party, shape (records, columns).
        labels: shape (records,).
        rows: of the label party's own table, shape (records,).
    """

    columns: tuple[Matrix, ...]
    labels: RealVector
    rows: NDArray[np.int64]

    @property
    def together(self) -> Matrix:
        """All columns side by side."""
        return np.hstack(self.columns)

    @classmethod
    def of_shared(cls, parties: Sequence[Party]) -> Table:
        """Return the records that all have, in the order of the label party's table.

        In the clear, as nobody in the demo can: it is what the parties' work is compared with.
        """
        known = [read_identifiers(party.ids) for party in parties]
        places = [dict(zip(each.encoded, each.rows.tolist(), strict=True)) for each in known]
        shared = set(places[0]).intersection(*places[1:])
        labelled = next(at for at, party in enumerate(parties) if party.y is not None)
        order = sorted(shared, key=lambda key: places[labelled][key])
        rows = [np.array([place[key] for key in order], np.int64) for place in places]
        labels = parties[labelled].y
        if labels is None:
            raise ValueError("no party has labels")
        return cls(
            tuple(party.X[row] for party, row in zip(parties, rows, strict=True)),
            labels[rows[labelled]],
            rows[labelled],
        )

    @classmethod
    def of_one(cls, party: Party, labels: RealVector) -> Table:
        """Return one party's own table."""
        return cls((party.X,), labels, np.arange(len(labels)))


def logistic(train: Table, l2: float) -> LogisticRegression:
    """Return scikit-learn's own, trained to far below the differences that are looked at."""
    return LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10_000).fit(train.together, train.labels)


def boosted(train: Table, test: Table, settings: Settings) -> RealVector:
    """Return scores of ``test`` by trees that are grown on ``train``, in the fixed point of the protocol."""
    forest = train_pooled(train.columns, train.labels, settings)
    scores = np.full(len(test.labels), first_score(settings.loss, train.labels))
    for tree in forest.trees:
        scores += _weights(tree, test.columns)
    return probabilities(scores)


def _weights(tree: PooledTree, columns: Sequence[Matrix]) -> RealVector:
    nodes = np.ones(len(columns[0]), np.int64)
    for node, (party, column, threshold) in sorted(tree.splits.items()):
        at = np.flatnonzero(nodes == node)
        nodes[at] = 2 * node + (columns[party][at, column] > threshold)
    weights = np.zeros(max(tree.leaves) + 1)
    for leaf, weight in tree.leaves.items():
        weights[leaf] = weight
    return weights[nodes]
