"""A party's columns in coordinates in which its own part of the loss is round.

With R R' = c X'X + l2 I for the party's columns X, it works with X R'^-1 and coefficients R' w. Descent needs
few steps then, however columns are scaled and correlated within one party, and every entry is of a size that
is known before: fixed point loses nothing. Nobody else knows R.

Columns are rounded to integers over a power of two, once: logits, gradients and products are all of the same
rounded columns, so that no step has a rounding error of its own.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from secagg.errors import InputRefused
from secagg.names import RealVector, SiloId
from secagg.vertical.lattice.product import Layout, rounded_to, scale_bits

PRECISION_BITS = 12
"""Bits that integers keep below a typical entry, 1 / sqrt(c rows). Rounding then changes the gradient of the
typical row by 2^-12, and the solution by a number of the size of 2^-12 over the root of all rows."""


class Coordinates:
    """Columns of one party.

    Args:
        name: of the party, for texts.
        columns: finite, shape (rows, columns).
        intercept: whether a column of ones, which is not penalised, is added as the last.
        l2: above 0.
        curvature: c, the weight of a row in a typical loss.

    Attributes:
        design: the columns in these coordinates, float64, shape (rows, coordinates).

    Raises:
        InputRefused: columns are multiples of each other, and l2 is too small to tell them apart.
    """

    def __init__(
        self, name: SiloId, columns: NDArray[np.float64], *, intercept: bool, l2: float, curvature: float
    ) -> None:
        if intercept:
            columns = np.hstack((columns, np.ones((len(columns), 1))))
        penalty = np.full(columns.shape[1], l2)
        if intercept:
            penalty[-1] = 0.0
        # Columns come to one size first, or the squares of large ones drown the penalty of small ones.
        self._sizes = np.sqrt(curvature * np.einsum("ij,ij->j", columns, columns) + penalty)
        scaled, penalty = columns / self._sizes, penalty / self._sizes**2
        try:
            root = np.linalg.cholesky(curvature * scaled.T @ scaled + np.diag(penalty))
        except np.linalg.LinAlgError:
            raise InputRefused(
                "bound",
                f"{name}: with l2 of {l2:g} columns are multiples of each other: raise it or drop some",
            ) from None
        self._inverse = np.linalg.inv(root).T
        self._penalty = (self._inverse.T * penalty) @ self._inverse
        self._curvature = curvature
        self.design = scaled @ self._inverse

    def round(
        self, layout: Layout, *, bound: int, values: int, spare: int = 0
    ) -> tuple[NDArray[np.int32], int]:
        """Round ``design`` to integers over a power of two; return them and the exponent.

        Args:
            layout: see ``scale_bits``, as of the others.
            bound: see there.
            values: see there.
            spare: bits fewer than are safe.

        Raises:
            ParameterError: so many rows leave too few bits.
        """
        least = PRECISION_BITS + math.ceil(math.log2(self._curvature * len(self.design)) / 2)
        bits = scale_bits(self.design, layout, bound=bound, values=values, least=least + spare) - spare
        integers = rounded_to(self.design, bits)
        np.ldexp(integers, -bits, out=self.design)
        return integers, bits

    def penalty(self, point: RealVector) -> RealVector:
        """Return the gradient of the penalty at a point of these coordinates."""
        gradient: RealVector = self._penalty @ point
        return gradient

    def coefficients(self, point: RealVector) -> RealVector:
        """Return the coefficients of the columns as they were given, the intercept last if there is one."""
        found: RealVector = self._inverse @ point / self._sizes
        return found
