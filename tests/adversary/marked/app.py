"""A trainer whose data, results and errors are recognised wherever they turn up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg import Evaluation, TrainingSettings, Update
from secagg.names import RealVector

APP = "tests.adversary.marked.app:trainer"
WEIGHTS = 270_000
"""So many that an upload goes to disk at the coordinator."""
EXAMPLES = 64


def data_of(seed: int) -> NDArray[Any]:
    """Return a silo's data."""
    return np.random.default_rng((1, seed)).normal(size=EXAMPLES)


def step_of(seed: int) -> NDArray[Any]:
    """Return what a silo's training adds to the model."""
    return np.random.default_rng((2, seed)).uniform(-4.0, 4.0, WEIGHTS)


@dataclass(eq=False)
class Marked:
    """Trains by adding what its seed says; fails in one call, with data in the text."""

    seed: int
    patient: str
    fails: int
    trained: int = field(default=0)

    def train(self, weights: RealVector, settings: TrainingSettings) -> Update:
        self.trained += 1
        if self.trained == self.fails:
            raise ValueError(f"{self.patient} measured {data_of(self.seed)[0]!r}")
        return Update(weights + step_of(self.seed)[: weights.size], float(EXAMPLES))

    def evaluate(self, weights: RealVector) -> Evaluation:
        return Evaluation({"loss": float(np.mean(data_of(self.seed) ** 2))}, float(EXAMPLES))


def trainer(*, seed: int, patient: str, fails: int) -> Marked:
    """Return the trainer; ``fails``: in which call of ``train``, 0 in none."""
    return Marked(seed, patient, fails)
