"""One bank alone, ten banks federated, all data in one place: the same model, steps and question.

What it is: for one world and one model every way to train. All are scored on the held-out month of all
ten banks together, so a bank that trains alone is asked about other banks' accounts, too.

What it does not do: pooled means all rows of all banks in one place; nobody joins the banks' graphs, so a
feature is still what one bank sees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from examples.aml.features import COLUMNS, active, features
from examples.aml.generator import HELD_OUT, HONEST, LEARN, World
from examples.aml.learners import BankTrainer, LogisticRegression, Model, Perceptron, Table
from examples.aml.scores import average_precision
from examples.aml.society import BANKS
from examples.replay import CoordinatorView, Recorded, Replayed, same_sums
from secagg import FedAvg, Federation, Plain, Trainer, TrainingSettings
from secagg.names import RealVector
from secagg.scheme import Scheme

MODELS: Mapping[str, Model] = {
    "logistic regression": LogisticRegression(len(COLUMNS)),
    "perceptron": Perceptron(len(COLUMNS)),
}
ROUNDS = 20
EPOCHS = 10
"""Full-batch steps in each round."""


@dataclass(frozen=True, eq=False)
class Task:
    """What each bank learns from and is measured on: bank -> its active accounts of one month."""

    learn: Mapping[str, Table]
    held_out: Mapping[str, Table]

    @classmethod
    def of(cls, world: World) -> Task:
        """Let every bank compute its features and label its own accounts."""
        return cls(_tables(world, LEARN), _tables(world, HELD_OUT))


@dataclass(frozen=True, eq=False)
class Course:
    """How one training went.

    Attributes:
        scores: average precision on all banks' held-out accounts after each round, ROUNDS values.
        weights: the last model, float64, shape (length,).
        logits: log-odds of all held-out accounts under it, in the order of ``pooled(task.held_out)``.
    """

    scores: tuple[float, ...]
    weights: RealVector
    logits: RealVector


@dataclass(frozen=True, eq=False)
class Comparison:
    """Every way to train one model.

    Attributes:
        alone: bank -> its own training.
        federated: of all banks, under the scheme.
        pooled: on all rows in one place.
        same_sums: whether the same updates without protection open the same integers in every sum.
    """

    alone: Mapping[str, Course]
    federated: Course
    pooled: Course
    same_sums: bool

    @property
    def median(self) -> float:
        """Average precision of the median bank alone."""
        return float(np.median([course.scores[-1] for course in self.alone.values()]))

    @property
    def best_rounds_median(self) -> float:
        """The same if every bank had stopped at the round that served it best, which it cannot know."""
        return float(np.median([max(course.scores) for course in self.alone.values()]))

    @property
    def ranked(self) -> list[str]:
        """The banks by average precision alone, best first."""
        return sorted(self.alone, key=lambda bank: -self.alone[bank].scores[-1])

    @property
    def gain(self) -> float:
        """Average precision federated, above that of the median bank alone."""
        return self.federated.scores[-1] - self.median


def compare(
    task: Task,
    model: Model,
    scheme: Scheme,
    *,
    seed: int,
    rounds: int = ROUNDS,
    told: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Train one model in every way.

    Args:
        task: the banks' tables.
        model: which.
        scheme: the protection of the federated run.
        seed: of the first weights, the same for all.
        rounds: at least 1, the same for all.
        told: is told what is being trained.
    """
    trainers = {bank: BankTrainer(model, task.learn[bank], task.held_out[bank]) for bank in task.learn}
    learn, held_out = pooled(task.learn), pooled(task.held_out)
    everything = BankTrainer(model, learn, held_out)

    def scored(models: list[RealVector]) -> Course:
        every = [everything.held_out_logits(weights) for weights in models]
        scores = (average_precision(held_out.labels, logits) for logits in every)
        return Course(tuple(scores), models[-1], every[-1])

    told("all banks federated")
    models, same = train_federated(trainers, scheme, seed=seed, rounds=rounds)
    federated = scored(models)
    alone = {}
    for bank, trainer in trainers.items():
        told(f"{bank} alone")
        alone[bank] = scored(train_one(trainer, seed=seed, rounds=rounds))
    told("all data pooled")
    return Comparison(alone, federated, scored(train_one(everything, seed=seed, rounds=rounds)), same)


def train_one(trainer: BankTrainer, *, seed: int, rounds: int) -> list[RealVector]:
    """Train on one table, and return the model after each round."""
    models = [trainer.initial(seed)]
    for number in range(1, rounds + 1):
        settings = TrainingSettings(round=number, epochs=EPOCHS)
        models.append(np.asarray(trainer.train(models[-1], settings).weights, np.float64))
    return models[1:]


def train_federated(
    trainers: Mapping[str, BankTrainer], scheme: Scheme, *, seed: int, rounds: int
) -> tuple[list[RealVector], bool]:
    """Train under ``scheme``, then hand in the same updates without protection.

    Returns:
        The model after each round, and whether both runs opened the same integers in every sum.
    """
    recorded = {bank: Recorded(trainer) for bank, trainer in trainers.items()}
    watched = next(iter(recorded))
    seen, unprotected = CoordinatorView(watched), CoordinatorView(watched)
    history = federation(recorded, scheme, seed).run(rounds, progress=False, view=seen)
    models = [*(recorded[watched].bases[number] for number in range(2, rounds + 1)), history.model]
    replayed = {bank: Replayed(each) for bank, each in recorded.items()}
    again = federation(replayed, Plain(), seed).run(rounds, progress=False, view=unprotected)
    return models, same_sums(seen, unprotected) and np.array_equal(history.model, again.model)


def federation(trainers: Mapping[str, Trainer], scheme: Scheme, seed: int) -> Federation:
    """Return the banks' federation; only its protection differs between runs."""
    return Federation(
        silos=trainers,
        scheme=scheme,
        strategy=FedAvg(),
        epochs=EPOCHS,
        seed=seed,
        clip=1.0,  # Ten steps of 0.02 move no weight by more.
        weight_cap=20_000,
        metric_bound=8,
    )


def pooled(tables: Mapping[str, Table]) -> Table:
    """Return all rows of all banks."""
    return Table(
        np.concatenate([table.accounts for table in tables.values()]),
        np.concatenate([table.features for table in tables.values()]),
        np.concatenate([table.labels for table in tables.values()]),
    )


def _tables(world: World, month: int) -> dict[str, Table]:
    guilty = world.laundering(month) != HONEST
    tables = {}
    for index, bank in enumerate(BANKS):
        view = world.view(index, month)
        moves = active(view)
        accounts = view.accounts[moves]
        tables[bank.name] = Table(accounts, features(view)[moves], guilty[accounts])
    return tables
