"""What the utility script asks of a data set: trainers for so many silos, and a score on held-out data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from secagg import Trainer
from secagg.names import RealVector


@dataclass(frozen=True, eq=False)
class Task:
    """One draw of a data set. The same records are there, whatever the number of silos.

    Attributes:
        records: of all silos together.
        most: records of one silo, at the most; public, as a cap of weights is.
        trainers: number of silos -> silo -> trainer, with the methods for every kind of noise.
        score: weights -> how good they are on data that no silo trains on, 0 to 1.
    """

    records: int
    most: int
    trainers: Callable[[int], Mapping[str, Trainer]]
    score: Callable[[RealVector], float]
