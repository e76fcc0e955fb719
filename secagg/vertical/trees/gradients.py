"""Gradients and Hessians of a loss, as integers whose sums cannot wrap.

Source: Chen, Guestrin, "XGBoost", KDD 2016, section 2.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg.errors import InputRefused
from secagg.names import RealVector
from secagg.vertical.trees.lattice import SUM_BITS
from secagg.vertical.trees.settings import Loss

MOST_LABEL = 1e100
"""Squares of sums of such numbers are still finite."""
_TOTAL_BITS = SUM_BITS - 2
"""Magnitudes of all rows together are below 2^28 before they are rounded, which adds less than 2^28."""


@dataclass(frozen=True, eq=False)
class Fixed:
    """Gradients and Hessians in fixed point.

    Attributes:
        integers: int64, shape (2, rows).
        fraction_bits: of both; the label party's alone.
    """

    integers: NDArray[np.int64] = field(repr=False)
    fraction_bits: tuple[int, int]

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Fixed:
        """Round values, shape (2, rows), to the finest step with which no sum of any rows can wrap."""
        bits = tuple(_TOTAL_BITS - math.frexp(math.fsum(np.abs(row)))[1] for row in values)
        integers = np.stack([np.rint(np.ldexp(row, step)) for row, step in zip(values, bits, strict=True)])
        return cls(integers.astype(np.int64), (bits[0], bits[1]))

    def reals(self, sums: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return sums, shape (2, ...), as gradients and as Hessians."""
        gradient, hessian = self.fraction_bits
        return np.ldexp(sums[0].astype(float), -gradient), np.ldexp(sums[1].astype(float), -hessian)


def check_labels(loss: Loss, labels: RealVector) -> None:
    """Refuse labels that the loss does not take.

    Raises:
        InputRefused: none; others than 0 and 1, or only one of them; a number beyond 1e100.
    """
    if not len(labels):
        raise InputRefused("shape", "no record is shared: there is nothing to train on")
    if loss == "logistic" and not np.array_equal(np.unique(labels), [0, 1]):
        raise InputRefused("bound", "the logistic loss takes labels 0 and 1, and both must be there")
    if (np.abs(labels) > MOST_LABEL).any():
        raise InputRefused("bound", f"a label is beyond {MOST_LABEL}")


def first_score(loss: Loss, labels: RealVector) -> float:
    """Return the score that all rows begin with: the log odds of the labels, or their mean."""
    mean = math.fsum(labels) / len(labels)
    return math.log(mean / (1 - mean)) if loss == "logistic" else mean


def probabilities(scores: RealVector) -> RealVector:
    """Return the logistic function of ``scores``."""
    return np.exp(-np.logaddexp(0.0, -scores))


def gradients(loss: Loss, scores: RealVector, labels: RealVector) -> NDArray[np.float64]:
    """Return first and second derivatives of the loss by the score, shape (2, rows)."""
    if loss == "logistic":
        probability = probabilities(scores)
        return np.stack([probability - labels, probability * (1 - probability)])
    return np.stack([scores - labels, np.ones_like(labels)])
