"""Labels as a training takes them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from secagg.errors import InputRefused
from secagg.names import RealVector
from secagg.vertical.linear.messages import MOST_EXPONENT
from secagg.vertical.linear.terms import Model


@dataclass(frozen=True)
class Scale:
    """Labels are taken as ``(label - centre) / 2**exponent``; other parties know the exponent alone.

    Neither changes what is trained: the intercept is not penalised, and coefficients scale with labels.
    """

    exponent: int = 0
    centre: float = 0.0

    @classmethod
    def of(cls, model: Model, labels: RealVector) -> Scale:
        """Return the scale with which labels lie between -1 and 1; classes stay 0 and 1.

        Raises:
            InputRefused: labels of a logistic model are not 0 and 1, both of them, or numbers too large or
                too small to be told in units of a power of two.
        """
        if model == "logistic":
            if not np.array_equal(np.unique(labels), (0.0, 1.0)):
                raise InputRefused("bound", "labels of a logistic regression are 0 and 1, and both are there")
            return cls()
        centre = float(labels.mean())
        mantissa, exponent = math.frexp(float(np.abs(labels - centre).max()))
        if not math.isfinite(centre) or abs(exponent) > MOST_EXPONENT:
            raise InputRefused(
                "bound", f"labels are told in units of 2^-{MOST_EXPONENT} to 2^{MOST_EXPONENT}"
            )
        return cls(exponent if mantissa else 0, centre)

    def scaled(self, labels: RealVector) -> RealVector:
        """Return labels in these units."""
        return np.ldexp(labels - self.centre, -self.exponent)

    def back(self, coefficients: RealVector) -> RealVector:
        """Return coefficients for labels as they were."""
        return np.ldexp(coefficients, self.exponent)
