"""A logistic regression in one party's hands: its own columns, and sums along directions of the others'.

Newton's method on a strictly convex loss; with few coefficients, many rows and no network.

Source: Hastie, Tibshirani, Friedman 2009, *The Elements of Statistical Learning*, section 4.4.1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secagg.errors import RoundAborted
from secagg.names import RealVector
from secagg.vertical.linear.links import logistic

_MOST_ITERATIONS = 200
_CLOSE, _CLOSE_FOR_A_ROW = 1e-10, 1e-13
"""Of the squared Newton decrement: twice what the loss can still fall. Below it the loss is too rough to be
compared, and Newton's own steps converge quadratically."""
_LAST_STEPS = 2
_SHORTEST = 2.0**-40
_LEAST_CURVATURE = 1e-300
_NONE = "no minimum of the loss was found: raise l2, or bring columns to one size"


def minimise(
    features: NDArray[np.float64], penalty: NDArray[np.float64], labels: RealVector, start: RealVector
) -> RealVector:
    """Return the coefficients with the least loss.

    The loss is ``sum(log(1 + exp(z)) - y z) + c' P c / 2`` with ``z = c @ features``.

    Args:
        features: shape (coefficients, rows); one for each row of coefficients.
        penalty: P, positive semi-definite.
        labels: 0 or 1, shape (rows,).
        start: where to begin, shape (coefficients,).

    Raises:
        RoundAborted: no minimum was found.
    """
    at, loss, last_steps = start, _loss(features, penalty, labels, start), 0
    close = _CLOSE + _CLOSE_FOR_A_ROW * len(labels)
    for _ in range(_MOST_ITERATIONS):
        expected = logistic(at @ features)
        gradient = features @ (expected - labels) + penalty @ at
        hessian = (features * (expected * (1 - expected))) @ features.T + penalty
        # Directions differ in length by many orders: in units of their own curvature they do not.
        units = 1 / np.sqrt(np.maximum(np.diag(hessian), _LEAST_CURVATURE))
        try:
            step = units * np.linalg.lstsq(hessian * np.outer(units, units), units * gradient, rcond=None)[0]
        except np.linalg.LinAlgError:
            raise RoundAborted(_NONE) from None
        decrement = float(step @ gradient)
        if decrement < -close:  # The loss is not convex, which no honest penalty makes it.
            raise RoundAborted(_NONE)
        if decrement < close:
            at, last_steps = at - step, last_steps + 1
            if last_steps == _LAST_STEPS:
                return at
            continue
        fraction = 1.0
        while (
            there := _loss(features, penalty, labels, at - fraction * step)
        ) > loss - fraction * decrement / 4:
            fraction /= 2
            if fraction < _SHORTEST:
                raise RoundAborted(_NONE)
        at, loss = at - fraction * step, there
    raise RoundAborted(_NONE)


def _loss(
    features: NDArray[np.float64], penalty: NDArray[np.float64], labels: RealVector, at: RealVector
) -> float:
    sums = at @ features
    return float(np.logaddexp(0.0, sums).sum() - labels @ sums + at @ penalty @ at / 2)
