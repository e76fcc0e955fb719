"""Logistic regression and a small neural network in NumPy, and the trainer that a bank runs.

What it is: two models over one flat vector of weights, and ``BankTrainer``, the two-method protocol of
``secagg.learning.trainer`` over a bank's own table. One local epoch is one full-batch step of Adam, whose
moments start fresh in every round. So a small bank alone takes as many steps as a large one, and its score
says what its data are worth and not how long it trained.

What it does not do: it needs no PyTorch, and nothing of another bank but the weights.

Source: Kingma and Ba 2015 (Adam); Glorot and Bengio 2010 (first weights).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secagg import Evaluation, TrainingSettings, Update
from secagg.names import RealVector

RealMatrix: TypeAlias = NDArray[np.float64]

DECAY = 1e-4
"""Strength of the pull of all weights towards zero, added to the loss as DECAY / 2 * |w|^2."""
STEP = 0.02


@dataclass(frozen=True, eq=False)
class Table:
    """Accounts of one month.

    Attributes:
        accounts: int64, shape (n,), their numbers.
        features: float64, shape (n, columns).
        labels: bool, shape (n,), whether the account took part in laundering.
    """

    accounts: NDArray[np.int64]
    features: NDArray[np.float64]
    labels: NDArray[np.bool_]


class Model(Protocol):
    """A classifier of accounts whose weights are one flat vector, float64, shape (length,)."""

    def initial(self, seed: int) -> RealVector:
        """Return first weights. Same seed, same weights."""
        ...

    def inputs(self, features: RealMatrix) -> RealMatrix:
        """Return what the model computes with, shape (n, inputs); done once for a table."""
        ...

    def logits(self, weights: RealVector, inputs: RealMatrix) -> RealVector:
        """Return the log-odds of laundering, shape (n,)."""
        ...

    def gradient(self, weights: RealVector, inputs: RealMatrix, labels: NDArray[np.bool_]) -> RealVector:
        """Return the gradient of the mean log loss, shape (length,)."""
        ...


@dataclass(frozen=True)
class LogisticRegression:
    """Logistic regression on piecewise linear columns, as a scorecard has them: x, (x - knot)+ for each knot.

    Args:
        columns: of the features, at least 1.
        knots: where a column may bend, in the units of the scaled features.
    """

    columns: int
    knots: tuple[float, ...] = (0.0, 2.0)

    def initial(self, seed: int) -> RealVector:
        """Return zeros: the loss has one minimum, wherever the search begins."""
        return np.zeros(self.columns * (1 + len(self.knots)) + 1)

    def inputs(self, features: RealMatrix) -> RealMatrix:
        """Return the columns and, for each knot, what exceeds it."""
        return np.hstack([features, *(np.maximum(features - knot, 0) for knot in self.knots)])

    def logits(self, weights: RealVector, inputs: RealMatrix) -> RealVector:
        """Return the log-odds, shape (n,)."""
        return np.asarray(inputs @ weights[:-1] + weights[-1])

    def gradient(self, weights: RealVector, inputs: RealMatrix, labels: NDArray[np.bool_]) -> RealVector:
        """Return the gradient of the mean log loss, shape (length,)."""
        slope = _slope(self.logits(weights, inputs), labels)
        return np.append(slope @ inputs, slope.sum())


@dataclass(frozen=True)
class Perceptron:
    """One hidden layer of tanh units.

    Args:
        columns: of the features, at least 1.
        hidden: units, at least 1.
    """

    columns: int
    hidden: int = 16

    def initial(self, seed: int) -> RealVector:
        """Return weights of variance 2 / (inputs + outputs) and biases of zero."""
        random = np.random.default_rng(seed)  # First weights are public and the same at all banks.
        first = random.normal(
            scale=(2 / (self.columns + self.hidden)) ** 0.5, size=self.columns * self.hidden
        )
        second = random.normal(scale=(2 / (self.hidden + 1)) ** 0.5, size=self.hidden)
        return np.concatenate([first, np.zeros(self.hidden), second, [0.0]])

    def inputs(self, features: RealMatrix) -> RealMatrix:
        """Return the features as they are."""
        return features

    def logits(self, weights: RealVector, inputs: RealMatrix) -> RealVector:
        """Return the log-odds, shape (n,)."""
        return self._forward(weights, inputs)[1]

    def gradient(self, weights: RealVector, inputs: RealMatrix, labels: NDArray[np.bool_]) -> RealVector:
        """Return the gradient of the mean log loss by back-propagation, shape (length,)."""
        units, logits = self._forward(weights, inputs)
        slope = _slope(logits, labels)
        back = np.outer(slope, weights[-1 - self.hidden : -1]) * (1 - units**2)
        return np.concatenate([(inputs.T @ back).ravel(), back.sum(axis=0), slope @ units, [slope.sum()]])

    def _forward(self, weights: RealVector, inputs: RealMatrix) -> tuple[RealMatrix, RealVector]:
        """Return the hidden units' values, shape (n, hidden), and the log-odds, shape (n,)."""
        cut = self.columns * self.hidden
        first = weights[:cut].reshape(self.columns, self.hidden)
        bias, second = weights[cut : cut + self.hidden], weights[cut + self.hidden : -1]
        units = np.tanh(inputs @ first + bias)
        return units, np.asarray(units @ second + weights[-1])


class BankTrainer:
    """Local learning at one bank.

    Args:
        model: the same at every bank.
        learn: accounts of the month to learn from.
        held_out: accounts of the month to be measured on.
    """

    def __init__(self, model: Model, learn: Table, held_out: Table) -> None:
        self._model = model
        self._learn, self._labels = model.inputs(learn.features), learn.labels
        self._held_out, self._held_out_labels = model.inputs(held_out.features), held_out.labels

    def initial(self, seed: int) -> RealVector:
        """Return the model's first weights."""
        return self._model.initial(seed)

    def train(self, weights: RealVector, settings: TrainingSettings) -> Update:
        """Take ``settings.epochs`` full-batch steps of Adam from ``weights``."""
        local = np.array(weights)
        step = STEP if settings.learning_rate is None else settings.learning_rate
        mean, square = np.zeros_like(local), np.zeros_like(local)
        for t in range(1, settings.epochs + 1):
            gradient = self._model.gradient(local, self._learn, self._labels)
            gradient += DECAY * local + settings.proximal_mu * (local - weights)
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient**2 - square)
            local -= step * (mean / (1 - 0.9**t)) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
        return Update(local, float(len(self._labels)))

    def evaluate(self, weights: RealVector) -> Evaluation:
        """Measure the mean log loss on the held-out month."""
        logits = self.held_out_logits(weights)
        # log(1 + exp(-z)) for those that launder, log(1 + exp(z)) for the others, without overflow.
        loss = np.logaddexp(0, np.where(self._held_out_labels, -logits, logits))
        return Evaluation({"loss": float(loss.mean())}, float(len(logits)))

    def held_out_logits(self, weights: RealVector) -> RealVector:
        """Return the log-odds of every held-out account, shape (n,)."""
        return self._model.logits(weights, self._held_out)


def _slope(logits: RealVector, labels: NDArray[np.bool_]) -> RealVector:
    """Return the gradient of the mean log loss with respect to the logits: (probability - label) / n."""
    # The textbook's 1 / (1 + exp(-z)) overflows for large -z.
    return np.asarray((0.5 * (1 + np.tanh(logits / 2)) - labels) / len(labels))
