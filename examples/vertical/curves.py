"""How well scores tell the two kinds of records apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve


@dataclass(frozen=True, eq=False)
class Curve:
    """A receiver operating characteristic.

    Attributes:
        line: shares of the others that are flagged, and of those looked for, both ascending from 0 to 1.
        area: under it, 0 to 1.
    """

    line: tuple[NDArray[np.float64], NDArray[np.float64]]
    area: float

    @classmethod
    def of(cls, labels: NDArray[np.float64], scores: NDArray[np.float64]) -> Curve:
        """Return the curve of ``scores`` for records whose label is 1 where they are looked for."""
        others, found, _ = roc_curve(labels, scores)
        return cls((others, found), float(roc_auc_score(labels, scores)))
