"""A party's columns as its bottom model takes them: centred, of one scale, without far outliers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from secagg.errors import InputRefused
from secagg.names import RealVector
from secagg.vertical.split.ports import RealMatrix

FAR = 5.0
"""Standard deviations from the mean at which a value is cut."""

MOST = 1e100
"""Of a value that is trained on: squares of such are still finite."""


@dataclass(frozen=True, eq=False)
class Scaling:
    """Means and standard deviations of the records that were trained on; the party's own secret.

    Attributes:
        mean, deviation: shape (columns,); a column that is constant has deviation 1.
    """

    mean: RealVector = field(repr=False)
    deviation: RealVector = field(repr=False)

    @classmethod
    def of(cls, columns: RealMatrix) -> Scaling:
        """Return that of ``columns``, shape (rows, columns).

        Raises:
            InputRefused: a value is beyond 1e100.
        """
        if (np.abs(columns) > MOST).any():
            raise InputRefused("bound", f"a column has a value beyond {MOST:g}; scale it")
        # The mean of equal numbers is not always equal to them, and their deviation then is tiny and not 0.
        varies = columns.min(axis=0) < columns.max(axis=0)
        mean, deviation = columns.mean(axis=0), columns.std(axis=0)
        return cls(np.where(varies, mean, columns[0]), np.where(varies & (deviation > 0), deviation, 1.0))

    def __call__(self, columns: RealMatrix) -> RealMatrix:
        """Return ``columns`` scaled.

        Raises:
            InputRefused: there are others than were trained on.
        """
        if columns.shape[1] != self.mean.size:
            raise InputRefused(
                "shape", f"{columns.shape[1]} columns where {self.mean.size} were trained on; give the same"
            )
        with np.errstate(over="ignore"):  # What is infinite is cut.
            return np.clip((columns - self.mean) / self.deviation, -FAR, FAR)
