"""A trainer without a framework, for the compose example: logistic regression by gradient descent.

The data are made here from a seed, one set for each silo: twelve measurements of a patient and whether the
patient returned within a month.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg import Evaluation, TrainingSettings, Update
from secagg.names import RealVector

APP = "examples.compose.app:trainer"
FEATURES = 12


@dataclass(frozen=True, eq=False)
class Logistic:
    """Logistic regression; the last weight is the constant."""

    inputs: NDArray[Any]
    targets: NDArray[Any]

    def initial(self, seed: int) -> RealVector:
        """Return zeros, whatever the seed: the problem is convex."""
        return np.zeros(FEATURES + 1)

    def train(self, weights: RealVector, settings: TrainingSettings) -> Update:
        """Take a few steps down the gradient."""
        trained, rate = weights.copy(), settings.learning_rate or 0.5
        for _ in range(10 * settings.epochs):
            error = self._probabilities(trained) - self.targets
            trained -= rate * np.append(self.inputs.T @ error, error.sum()) / len(self.targets)
        return Update(trained, float(len(self.targets)))

    def evaluate(self, weights: RealVector) -> Evaluation:
        """Return accuracy and mean loss."""
        p = np.clip(self._probabilities(weights), 1e-9, 1 - 1e-9)
        loss = -np.mean(self.targets * np.log(p) + (1 - self.targets) * np.log(1 - p))
        accuracy = np.mean((p > 0.5) == (self.targets > 0.5))
        return Evaluation({"accuracy": float(accuracy), "loss": float(loss)}, float(len(self.targets)))

    def _probabilities(self, weights: RealVector) -> NDArray[Any]:
        return np.asarray(1.0 / (1.0 + np.exp(-(self.inputs @ weights[:-1] + weights[-1]))))


def trainer(*, seed: int, patients: int) -> Logistic:
    """Return the trainer of one silo.

    Args:
        seed: of its patients.
        patients: how many it has.
    """
    truth = np.random.default_rng(0).normal(size=FEATURES)
    generator = np.random.default_rng((1, seed))
    inputs = generator.normal(size=(patients, FEATURES))
    noise = generator.logistic(size=patients)
    return Logistic(inputs, (inputs @ truth + noise > 0).astype(np.float64))
