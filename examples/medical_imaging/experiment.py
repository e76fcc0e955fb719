"""What each hospital gets alone, and what all data in one place would give: the two yardsticks.

What it is: the same network, first weights, optimiser and number of local passes as the federated run,
for one owner of data; the score after every round. Everything is scored on one question: the held-out
blocks of all six hospitals together.

What it does not do: it averages nothing. The federated run is ``secagg.Federation``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from examples.medical_imaging.data import Hospital
from examples.medical_imaging.network import build_network, trainer_for
from secagg import TrainingSettings
from secagg.names import RealVector
from silo import TorchTrainer


@dataclass(frozen=True, eq=False)
class Course:
    """How one owner's training went.

    Attributes:
        scores: mean Dice on all held-out blocks before the first round and after each, rounds + 1 values.
        weights: the last model, float64, shape (length,).
    """

    scores: tuple[float, ...]
    weights: RealVector


def mean_score(hospitals: Mapping[str, Hospital], weights: RealVector) -> float:
    """Return the mean Dice of grey and white matter over the held-out blocks of all hospitals.

    Overlaps are summed over all blocks before dividing, so a hospital with little tissue counts for little.
    """
    return trainer_for(list(hospitals.values()), build_network()).evaluate(weights).metrics["dice"]


def train_alone(
    hospitals: Mapping[str, Hospital], name: str, start: RealVector, *, rounds: int, epochs: int, seed: int
) -> Course:
    """Train on one hospital's slices only.

    Args:
        hospitals: all, for the score.
        name: who trains.
        start: first weights, float, shape (length,); the federated run's.
        rounds: at least 1.
        epochs: passes over the slices in each round.
        seed: of the shuffling.
    """
    trainer = trainer_for(hospitals[name], build_network())
    return _train(trainer, hospitals, start, rounds, epochs, seed)


def train_pooled(
    hospitals: Mapping[str, Hospital], start: RealVector, *, rounds: int, epochs: int, seed: int
) -> Course:
    """Train on all slices in one place, which is what a federation does without. Arguments as above."""
    trainer = trainer_for(list(hospitals.values()), build_network())
    return _train(trainer, hospitals, start, rounds, epochs, seed)


def _train(
    trainer: TorchTrainer,
    hospitals: Mapping[str, Hospital],
    start: RealVector,
    rounds: int,
    epochs: int,
    seed: int,
) -> Course:
    weights = np.asarray(start, np.float64)
    scores = [mean_score(hospitals, weights)]
    for number in range(1, rounds + 1):
        settings = TrainingSettings(round=number, epochs=epochs, seed=seed * 2**20 + number)
        weights = np.asarray(trainer.train(weights, settings).weights, np.float64)
        scores.append(mean_score(hospitals, weights))
    return Course(tuple(scores), weights)
