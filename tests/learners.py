"""Trainers for tests: small, seeded, and failing on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secagg.errors import SecaggError
from secagg.learning.model import GlobalModel
from secagg.learning.settings import TrainingPlan
from secagg.learning.trainer import Evaluation, TrainingSettings, Update
from secagg.names import RealVector, SiloId
from secagg.session import Aggregate
from secagg.terms import Terms
from secagg.weighting import decode_mean

NAMES = ("north", "south", "west", "east", "coast", "hills", "lakes", "woods")
WEIGHTS = 5

Spoil: TypeAlias = Callable[[NDArray[Any]], Any]


class Line:
    """Least squares by gradient descent on a few seeded points; the same bits for the same calls.

    Args:
        slot: which points.
        examples: how many; None for a number that differs between slots.
        spoil: what to return in place of the trained weights, or an error to raise.
        metrics: what to report beside the loss.
    """

    def __init__(
        self,
        slot: int = 0,
        *,
        examples: float | None = None,
        spoil: Spoil | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        drawn = np.random.default_rng(slot)
        self.inputs = drawn.normal(size=(20, WEIGHTS))
        self.targets = self.inputs @ np.arange(WEIGHTS) + drawn.normal(size=20)
        self.examples = 200.0 + 37 * slot if examples is None else examples
        self.spoil = spoil
        self.metrics = metrics or {}
        self.trained: list[TrainingSettings] = []
        self.given: list[RealVector] = []
        self.evaluated: list[tuple[RealVector, dict[str, float]]] = []

    def initial(self, seed: int) -> NDArray[Any]:
        return np.random.default_rng(seed).normal(size=WEIGHTS)

    def train(self, weights: RealVector, settings: TrainingSettings) -> Update:
        self.trained.append(settings)
        self.given.append(weights)
        step = 0.05 if settings.learning_rate is None else settings.learning_rate
        order = np.random.default_rng(settings.seed)
        local = np.array(weights)
        for _ in range(settings.epochs):
            for i in order.permutation(len(self.targets)):
                gradient = self.inputs[i] * (self.inputs[i] @ local - self.targets[i])
                local -= step * (gradient + settings.proximal_mu * (local - weights)) / 10
        return Update(local if self.spoil is None else self.spoil(local), self.examples)

    def evaluate(self, weights: RealVector) -> Evaluation:
        loss = float(np.mean((self.inputs @ weights - self.targets) ** 2))
        metrics = {"loss": loss} | dict(self.metrics)
        self.evaluated.append((weights, metrics))
        return Evaluation(metrics, self.examples / 2)


def lines(n: int = 4, spoiled: Mapping[SiloId, Spoil] | None = None, **named: Any) -> dict[SiloId, Line]:
    """Return ``n`` trainers with their silos' names."""
    return {name: Line(slot, spoil=(spoiled or {}).get(name), **named) for slot, name in enumerate(NAMES[:n])}


def fails(weights: NDArray[Any]) -> NDArray[Any]:
    """A trainer's own error, whose text quotes a data value."""
    raise ValueError("patient 4711")


def diverges(weights: NDArray[Any]) -> NDArray[Any]:
    """NaN in the third of the trained weights."""
    spoiled = weights.copy()
    spoiled[2] = np.nan
    return spoiled


def grows(weights: NDArray[Any]) -> NDArray[Any]:
    """One weight more than the global model has."""
    return np.append(weights, 0.0)


def refuses(error: SecaggError) -> Spoil:
    """A trainer that raises one of this library's errors."""

    def spoil(weights: NDArray[Any]) -> NDArray[Any]:
        raise error

    return spoil


def next_model(terms: Terms, model: GlobalModel, aggregate: Aggregate) -> GlobalModel:
    """Return the model of the next round, computed on whole vectors and not block by block."""
    mean = decode_mean(terms.encoding, aggregate.total, silos=len(aggregate.survivors))
    assert mean.values is not None
    return TrainingPlan.of(terms).strategy.apply(model, mean.values)
