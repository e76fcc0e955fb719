"""What a label party that keeps to the protocol learns of columns: what ``docs/vertical-trees.md`` says.

It chose column and bin of every split, and was told to which side rows go. So it knows between which bins a
row is, ever more closely. Nothing prevents that; the document must not say less than it is.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.datasets import load_breast_cancer

from secagg.payload import Frame
from secagg.vertical import GradientBoosting
from secagg.vertical.trees import messages
from secagg.vertical.trees.cells import Binned
from secagg.vertical.trees.levels import Nodes
from tests.vertical.trees import aligned, decoded

BINS = 32


class Curious:
    """Keeps, at the label party, between which bins each row of each of the other's columns must be."""

    def __init__(self, binned: Binned) -> None:
        self.least = np.zeros_like(binned.bins)
        self.most = np.full_like(binned.bins, BINS - 1)
        self.split = np.zeros(len(binned.bins), np.bool_)
        self.sizes: list[int] = []
        """Rows of each bin of which a sum was opened, of none left out. This it does not see."""
        self._binned = binned
        self._level = -1

    def __call__(self, sender: str, receiver: str, frame: Frame) -> None:
        said = decoded(frame)
        if isinstance(said, messages.Level):
            self._level = -1 if said.nodes is None else self._level + 1
            if said.nodes is not None:
                self._nodes = Nodes.at(self._level, said.nodes.array().copy())
                for place in self._nodes.summed:
                    counts = self._binned.counts(self._nodes.rows(place))
                    self.sizes += counts[counts > 0].tolist()
        elif isinstance(said, messages.Chosen):
            self._chosen = said.splits
        elif isinstance(said, messages.Sides):
            bits = np.unpackbits(said.left.array()).astype(np.bool_)
            for place, column, bin_ in self._chosen:
                rows = self._nodes.rows(place)
                left, bits = bits[: len(rows)], bits[len(rows) :]
                self.split[column] = True
                self.most[column, rows[left]] = np.minimum(self.most[column, rows[left]], bin_)
                self.least[column, rows[~left]] = np.maximum(self.least[column, rows[~left]], bin_ + 1)


@pytest.mark.full
def test_sides_tell_the_order_of_rows_in_columns_and_bins_of_small_nodes_are_small() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    columns = {"bank": x[:, :15], "shop": x[:, 15:]}
    binned = Binned.of(columns["shop"], BINS)
    curious = Curious(binned)
    GradientBoosting(trees=20).fit(aligned(columns, y.astype(float), label="bank"), watch=curious)
    assert (curious.least <= binned.bins).all()
    assert (binned.bins <= curious.most).all()
    middle = (curious.least.astype(float) + curious.most) / 2
    found = [spearmanr(middle[at], columns["shop"][:, at]).statistic for at in np.flatnonzero(curious.split)]
    assert len(found) == 9
    assert np.mean(found) == pytest.approx(0.71, abs=0.02)
    assert (np.array(curious.sizes) < 5).mean() == pytest.approx(0.51, abs=0.02)
