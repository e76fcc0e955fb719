"""A trainer that does next to nothing, so that a round shows what the protocol and the transport cost."""

from __future__ import annotations

import numpy as np

from secagg import Evaluation, TrainingSettings, Update
from secagg.names import RealVector

APP = "benchmarks.trivial:trainer"


class Trivial:
    """Adds a constant to every weight."""

    def __init__(self, slot: int) -> None:
        self._step = np.float32(0.01 * (slot + 1))

    def train(self, weights: RealVector, settings: TrainingSettings) -> Update:
        """Return the weights, each a little larger."""
        local = weights.astype(np.float32)
        local += self._step
        return Update(local, 100.0)

    def evaluate(self, weights: RealVector) -> Evaluation:
        """Measure nothing."""
        return Evaluation()


def trainer(*, slot: int) -> Trivial:
    """Return the trainer of one silo."""
    return Trivial(slot)
