"""What a party makes of its own sums of columns: vectors to hide, matrices for others' vectors, its own part.

Which they are and why is in ``secagg.vertical.linear.hidden_link``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from secagg.errors import RoundAborted
from secagg.names import RealVector
from secagg.vertical.lattice.product import Layout, Matrix, rounded_to
from secagg.vertical.linear.coordinates import Coordinates
from secagg.vertical.linear.terms import Settings

LARGEST_SUM = {1: 32, 3: 16}
"""Degree -> the largest sum of a party's columns in a row, in units of the labels."""


def vector_bits(rows: int, degree: int) -> int:
    """Return the fraction bits of hidden vectors, whose entries are below 2^6; matrices need the rest.

    With degree 3 these are rounded in every step: what vectors and what matrices lose then is about as much.
    """
    return min(24, 41 - rows.bit_length() if degree == 1 else (55 - rows.bit_length()) // 2)


class Pieces:
    """The pieces of one party.

    Args:
        settings: of the training.
        columns: of the party, which are rounded here, once for all steps.
        layout: of rows: once for degree 1, three times for degree 3.
        bits: of fraction, of hidden vectors.
        values: products of this party that another one opens in a session.

    Attributes:
        places: fraction bits of matrices.
    """

    def __init__(
        self, settings: Settings, columns: Coordinates, layout: Layout, *, bits: int, values: int
    ) -> None:
        self._polynomial = settings.polynomial
        self._degree = settings.degree
        self._columns = columns
        self._layout = layout
        self._bits = bits
        # Three matrices, none of which is larger than the columns, are less than four times as much.
        spare = 0 if self._degree == 1 else 2
        integers, self.places = columns.round(layout, bound=self.bound, values=values, spare=spare)
        self._always = Matrix(integers, layout) if self._degree == 1 else None

    @property
    def bound(self) -> int:
        """Largest magnitude of an integer of a hidden vector."""
        p, most = self._polynomial, LARGEST_SUM[self._degree]
        largest = max(2.0 + abs(p.first) * most + abs(p.third) * most**3, 3 * abs(p.third) * most**3)
        return math.ceil(math.ldexp(largest, self._bits)) + 1

    def hidden(self, sums: RealVector, target: RealVector | float) -> NDArray[np.int32]:
        """Return the vectors for the other parties, one behind the other.

        Args:
            sums: of this party's columns, shape (rows,).
            target: constant less labels, at the party that has them, else 0.

        Raises:
            RoundAborted: a sum is too large.
        """
        if not np.abs(sums).max() <= LARGEST_SUM[self._degree]:
            raise RoundAborted(
                f"a row's sum of one party's columns is beyond {LARGEST_SUM[self._degree]}: raise l2, or "
                "leave out rows that lie far from all others"
            )
        vectors, third = [self.own(sums, target)], self._polynomial.third
        most = float(LARGEST_SUM[self._degree])
        if self._degree == 3:
            vectors += [3 * third * sums**2 * most, 3 * third * sums * most**2]
        return rounded_to(np.concatenate(vectors), self._bits)

    def own(self, sums: RealVector, target: RealVector | float) -> RealVector:
        """Return what a party's own columns are multiplied with that needs nobody else."""
        return sums * (self._polynomial.first + self._polynomial.third * sums**2) + target

    def matrix(self, sums: RealVector) -> Matrix:
        """Return what the vectors of other parties are multiplied with, with ``places`` fraction bits."""
        if self._always is not None:
            return self._always
        design = self._columns.design
        # Over the largest sum, by which vectors are multiplied instead: so none is larger than the first.
        parts = (sums / LARGEST_SUM[self._degree])[:, None]
        stacked = np.empty((3, *design.shape), np.int32)
        for power in range(3):  # One after the other, because each is as large as all columns.
            stacked[power] = rounded_to(design * parts**power, self.places)
        return Matrix(stacked.reshape(-1, design.shape[1]), self._layout, cache_size=0)
