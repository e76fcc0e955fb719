"""How a joint sum of columns becomes an expected label: the logistic function, or an odd polynomial for it.

A polynomial lets parties compute residuals that nobody sees. That of degree 3 falls again beyond
``reach / sqrt(3)`` or so, and trained with it a loss has a minimum only where most sums stay within.

Source: Kim, Song, Kim, Lee, Cheon 2018, "Logistic regression model training based on the approximate
homomorphic encryption" (least squares on a range; degree 3 on [-8, 8] is 0.5 + 0.15012 x - 0.001593 x^3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secagg.names import RealVector


def logistic(sums: RealVector) -> RealVector:
    """Return ``1 / (1 + exp(-sums))``."""
    small = np.exp(-np.abs(sums))  # Which cannot overflow.
    return np.where(sums >= 0, 1.0, small) / (1.0 + small)


@dataclass(frozen=True)
class Polynomial:
    """``constant + first x + third x^3``."""

    constant: float
    first: float
    third: float

    def __call__(self, sums: RealVector) -> RealVector:
        """Return the values."""
        return self.constant + sums * (self.first + self.third * sums**2)


IDENTITY = Polynomial(0.0, 1.0, 0.0)


def least_squares(degree: int, reach: float) -> Polynomial:
    """Return the polynomial of degree 1 or 3 that is nearest to the logistic function on [-reach, reach]."""
    nodes, weights = np.polynomial.legendre.leggauss(100)
    sums = reach * nodes
    powers = np.stack([sums**power for power in range(1, degree + 1, 2)])
    first, *third = np.linalg.solve(
        (powers * weights) @ powers.T, (powers * weights) @ (logistic(sums) - 0.5)
    )
    return Polynomial(0.5, float(first), float(third[0]) if third else 0.0)
