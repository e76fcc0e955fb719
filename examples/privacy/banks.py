"""The tabular task: which accounts launder? Logistic regression in NumPy, and its two private methods.

What it is: a small world of ``examples.aml``, its features and its logistic regression. A record is one
account of one bank in the first month; the score is average precision over all banks' accounts of the second.
With fewer than ten silos, banks have merged: what they can see of a payment stays as it was.

What it does not do: an epsilon here hides one row. The same person may have accounts at two banks, and a
payment is in the features of both its ends; a bank that must hide persons would count them.

Source: Abadi et al. 2016, *Deep Learning with Differential Privacy*, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from examples.aml.experiment import Task as World
from examples.aml.experiment import pooled
from examples.aml.features import COLUMNS
from examples.aml.generator import generate
from examples.aml.learners import BankTrainer, LogisticRegression, Table
from examples.aml.scores import average_precision
from examples.aml.society import BANKS
from examples.privacy.task import Task
from secagg import Evaluation, TrainingSettings, Update
from secagg.names import RandomSource, RealVector
from secagg.privacy.noising import StepNoise
from secagg.privacy.sampling import PoissonSampler
from secagg.terms import LocalNoise

PEOPLE, SCHEMES = 3_000, 1
"""Of the world: 4 thousand accounts at ten banks, of which 2 in 100 launder, from 2 to 32 at a bank."""
MODEL = LogisticRegression(len(COLUMNS))


@lru_cache(maxsize=2)
def banks(seed: int, *, tuning: bool = False, people: int = PEOPLE) -> Task:
    """Make a world.

    Args:
        seed: of it, at least 0.
        tuning: make another one, which no figure is about.
        people: in it, at least 1,000.
    """
    world = World.of(generate(seed + 1_000 * tuning, people=people, schemes=SCHEMES))
    everything, held_out = pooled(world.learn), pooled(world.held_out)
    inputs = MODEL.inputs(held_out.features)

    def trainers(silos: int) -> Mapping[str, RegressionTrainer]:
        groups = [[bank.name for bank in BANKS[first::silos]] for first in range(silos)]
        return {
            "-".join(names): RegressionTrainer(pooled({name: world.learn[name] for name in names}))
            for names in groups
        }

    def score(weights: RealVector) -> float:
        return average_precision(held_out.labels, MODEL.logits(weights, inputs))

    return Task(len(everything.labels), len(everything.labels), trainers, score)


class RegressionTrainer:
    """Logistic regression at one silo, with and without differential privacy.

    Args:
        table: its accounts.
    """

    def __init__(self, table: Table) -> None:
        self._plain = BankTrainer(MODEL, table, table)
        self._inputs, self._labels = MODEL.inputs(table.features), table.labels
        self._lengths = np.sqrt((self._inputs**2).sum(axis=1) + 1)  # of (inputs, 1), as the bias sees it

    def initial(self, seed: int) -> RealVector:
        """Return the model's first weights."""
        return MODEL.initial(seed)

    def train(self, weights: RealVector, settings: TrainingSettings) -> Update:
        """Take ``settings.epochs`` full-batch steps of Adam, as ``examples.aml`` does."""
        return self._plain.train(weights, settings)

    def evaluate(self, weights: RealVector) -> Evaluation:
        """Measure the mean log loss on the own table."""
        return self._plain.evaluate(weights)

    def train_privately(
        self,
        weights: RealVector,
        settings: TrainingSettings,
        *,
        noise: LocalNoise,
        sampler: PoissonSampler,
        random: RandomSource,
    ) -> Update:
        """Take ``noise.steps`` steps of DP-SGD; arguments as of ``secagg.learning.trainer``."""
        local, rate = np.array(weights), settings.learning_rate or 1.0
        expected = noise.sampling_rate * len(self._labels)
        for _ in range(noise.steps):
            total = self._clipped(local, sampler, noise.l2_clip_norm)
            local -= rate / expected * StepNoise(noise, total.size, random=random).add(total)
        return Update(local, float(len(self._labels)))

    def gradient_sum(
        self, weights: RealVector, settings: TrainingSettings, *, sampler: PoissonSampler, l2_clip_norm: float
    ) -> RealVector:
        """Return the sum of clipped gradients of one sample, shape (length,)."""
        del settings
        return self._clipped(weights, sampler, l2_clip_norm)

    def _clipped(self, weights: RealVector, sampler: PoissonSampler, bound: float) -> RealVector:
        rows = sampler.draw(len(self._labels))
        inputs = self._inputs[rows]
        # The gradient of one record is (probability - label) * (inputs, 1), so its length is a product.
        slopes = 0.5 * (1 + np.tanh(MODEL.logits(weights, inputs) / 2)) - self._labels[rows]
        lengths = np.abs(slopes) * self._lengths[rows]
        slopes *= np.minimum(1.0, bound / np.maximum(lengths, np.finfo(float).tiny))
        return np.append(slopes @ inputs, slopes.sum())
