"""Columns cut into bins, and the cells of their histograms one after the other.

A column is cut at some of its own values, at quantiles where it has more values than bins: a row is in the
first bin whose cut is not below its value. What never varies has no cut, and is left out.

Source: Chen, Guestrin, "XGBoost", KDD 2016, section 3.2 (candidate splits at quantiles).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg.names import RealVector

MOST_BINS = 256


@dataclass(frozen=True)
class Cells:
    """Histograms of several columns as one vector of cells.

    Attributes:
        bins: of each column, 2 to 256.
    """

    bins: tuple[int, ...]

    @property
    def count(self) -> int:
        """Cells of all columns."""
        return sum(self.bins)

    @property
    def starts(self) -> NDArray[np.int64]:
        """First cell of each column."""
        return np.cumsum(self.widths) - self.widths

    @property
    def widths(self) -> NDArray[np.int64]:
        """Cells of each column."""
        return np.array(self.bins, np.int64)

    @property
    def lasts(self) -> NDArray[np.int64]:
        """Last cell of each column."""
        return np.cumsum(self.widths) - 1

    @property
    def columns(self) -> NDArray[np.int64]:
        """Column of each cell."""
        return np.repeat(np.arange(len(self.bins)), self.widths)

    def up_to(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return for each cell the sum of its column's cells up to it; along the last axis, exactly."""
        total = np.cumsum(cells, axis=-1)
        before = (total - cells)[..., self.starts]
        return total - np.repeat(before, self.widths, axis=-1)

    def allowed(self, counts: NDArray[np.int64], least: int) -> NDArray[np.bool_]:
        """Return after which cells a node may be split.

        Args:
            counts: rows of the node in each cell, shape (..., count).
            least: rows that both sides must have, at least 1.
        """
        left = self.up_to(counts)
        right = np.repeat(left[..., self.lasts], self.widths, axis=-1) - left
        # A column's last cell is no split: nothing is right of it, and least is at least 1.
        found: NDArray[np.bool_] = (left >= least) & (right >= least)
        return found


@dataclass(frozen=True, eq=False)
class Binned:
    """One party's columns in bins.

    Attributes:
        bins: uint8, shape (columns, rows): columns that vary.
        cuts: of each, ascending: the values at which it is cut.
        column: which of the party's columns each is.
        cells: of their histograms.
    """

    bins: NDArray[np.uint8] = field(repr=False)
    cuts: tuple[RealVector, ...] = field(repr=False)
    column: tuple[int, ...]
    cells: Cells

    @classmethod
    def of(cls, columns: NDArray[np.float64], most: int) -> Binned:
        """Cut columns, shape (rows, columns), into at most ``most`` bins each."""
        cuts = {at: found for at in range(columns.shape[1]) if len(found := cuts_of(columns[:, at], most))}
        bins = np.empty((len(cuts), len(columns)), np.uint8)
        for row, (at, found) in enumerate(cuts.items()):
            bins[row] = np.searchsorted(found, columns[:, at], side="left")
        return cls(
            bins, tuple(cuts.values()), tuple(cuts), Cells(tuple(len(cut) + 1 for cut in cuts.values()))
        )

    def of_rows(self, rows: NDArray[np.int64]) -> Binned:
        """Return the same columns of some rows only."""
        return Binned(self.bins[:, rows], self.cuts, self.column, self.cells)

    def sums(self, weights: Sequence[NDArray[np.int64]], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the histograms of ``rows``, shape (len(weights), cells), of weights of all rows.

        They are exact while no sum is beyond 2^53.
        """
        found = np.zeros((len(weights), self.cells.count), np.int64)
        for column, (start, bins) in enumerate(zip(self.cells.starts, self.cells.bins, strict=True)):
            at = self.bins[column, rows]
            for which, weight in enumerate(weights):
                found[which, start : start + bins] = np.bincount(at, weight[rows], minlength=bins)
        return found

    def counts(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many of ``rows`` are in each cell."""
        found = [
            np.bincount(self.bins[column, rows], minlength=bins)
            for column, bins in enumerate(self.cells.bins)
        ]
        return np.concatenate([np.empty(0, np.int64), *found])

    def left(self, column: int, bin_: int, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of ``rows`` go left where ``column`` is split after ``bin_``."""
        found: NDArray[np.bool_] = self.bins[column, rows] <= bin_
        return found


def cuts_of(values: RealVector, most: int) -> RealVector:
    """Return where a column is cut: fewer than ``most`` of its values, ascending, never the largest."""
    different = np.unique(values)
    if len(different) > most:
        at = np.arange(1, most) * len(values) // most
        different = np.unique([*np.partition(values, at - 1)[at - 1], different[-1]])
    return different[:-1]
