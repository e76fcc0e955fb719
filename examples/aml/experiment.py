"""One bank alone, ten banks federated, all data in one place: the same model, steps and question.

What it is: for one world and one model every way to train. All are scored on the held-out month of all
ten banks together, so a bank that trains alone is asked about other banks' accounts, too. Federated happens
twice from one start, under a scheme and without protection; each run trains for itself.

What it does not do: pooled means all rows of all banks in one place; nobody joins the banks' graphs, so a
feature is still what one bank sees.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from examples.aml.features import COLUMNS, active, features
from examples.aml.generator import HELD_OUT, HONEST, LEARN, World
from examples.aml.learners import BankTrainer, LogisticRegression, Model, Perceptron, Table
from examples.aml.scores import average_precision
from examples.aml.society import BANKS
from examples.replay import CoordinatorView, Recorded, same_sums
from secagg import FedAvg, Federation, History, Plain, Trainer, TrainingSettings
from secagg.learning.progress import Silent
from secagg.names import RealVector
from secagg.report import RoundReport
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
class Federated:
    """One run of all banks.

    Attributes:
        history: what it left behind.
        models: after each round, as banks train from them.
        seen: every sum, as it was opened by whoever can open it.
        off: how far an entry of a mean update was at the most from the average of the unrounded updates.
        seconds: of the whole run, the making of a key included.
    """

    history: History
    models: Sequence[RealVector]
    seen: CoordinatorView
    off: float
    seconds: float

    @property
    def reports(self) -> list[RoundReport]:
        """One for each opened sum."""
        return [record.report for record in self.history.records]

    @property
    def bound(self) -> float:
        """What the encoding promises of ``off``."""
        return max(report.worst_error for report in self.reports if report.kind == "train")

    @property
    def integers(self) -> int:
        """Entries of all opened sums together."""
        return sum(each.total.size for each in self.seen.sums)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Every way to train one model.

    Attributes:
        alone: bank -> its own training.
        federated: of all banks, under the scheme.
        plain: of all banks from the same start, without protection.
        pooled: on all rows in one place.
        run, plain_run: what the two federated runs left behind; one and the same if the scheme is ``Plain``.
    """

    alone: Mapping[str, Course]
    federated: Course
    plain: Course
    pooled: Course
    run: Federated
    plain_run: Federated

    @property
    def same(self) -> bool:
        """Whether both federated runs opened the same integers and had the same models, bit for bit."""
        return same_sums(self.run.seen, self.plain_run.seen) and np.array_equal(
            self.run.models, self.plain_run.models
        )

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

    def scored(models: Sequence[RealVector]) -> Course:
        every = [everything.held_out_logits(weights) for weights in models]
        scores = (average_precision(held_out.labels, logits) for logits in every)
        return Course(tuple(scores), models[-1], every[-1])

    run = train_federated(trainers, scheme, seed=seed, rounds=rounds, told=told)
    plain_run = run
    if not isinstance(scheme, Plain):
        plain_run = train_federated(trainers, Plain(), seed=seed, rounds=rounds, told=told)
    alone = {}
    for bank, trainer in trainers.items():
        told(f"{bank} alone")
        alone[bank] = scored(train_one(trainer, seed=seed, rounds=rounds))
    told("all data pooled")
    whole = scored(train_one(everything, seed=seed, rounds=rounds))
    return Comparison(alone, scored(run.models), scored(plain_run.models), whole, run, plain_run)


def steps(scheme: Scheme, rounds: int) -> int:
    """Return how often ``compare`` tells what it does."""
    runs = 1 if isinstance(scheme, Plain) else 2
    return runs * (1 + rounds + 1) + len(BANKS) + 1


def train_one(trainer: BankTrainer, *, seed: int, rounds: int) -> list[RealVector]:
    """Train on one table, and return the model after each round."""
    models = [trainer.initial(seed)]
    for number in range(1, rounds + 1):
        settings = TrainingSettings(round=number, epochs=EPOCHS)
        models.append(np.asarray(trainer.train(models[-1], settings).weights, np.float64))
    return models[1:]


def train_federated(
    trainers: Mapping[str, BankTrainer],
    scheme: Scheme,
    *,
    seed: int,
    rounds: int,
    told: Callable[[str], None] = lambda _: None,
) -> Federated:
    """Train all banks together under ``scheme``."""
    recorded = {bank: Recorded(trainer) for bank, trainer in trainers.items()}
    watched = next(iter(recorded))
    name, seen, started = type(scheme).__name__, CoordinatorView(watched), time.perf_counter()
    told(f"all banks federated, {name}")
    history = federation(recorded, scheme, seed).run(rounds, progress=_Telling(told, name), view=seen)
    seconds = time.perf_counter() - started
    # Each round begins with the model that the one before made.
    models = [*(recorded[watched].bases[number] for number in range(2, rounds + 1)), history.model]
    return Federated(history, models, seen, _off(recorded, models), seconds)


class _Telling(Silent):
    """Passes on how far a run is."""

    def __init__(self, told: Callable[[str], None], name: str) -> None:
        self._told = told
        self._name = name

    def round_finished(self, report: RoundReport, metrics: Mapping[str, float]) -> None:
        self._told(f"all banks federated, {self._name}: {report.title}")


def _off(recorded: Mapping[str, Recorded], models: Sequence[RealVector]) -> float:
    """Return the largest distance between a model and the average of the banks' own, in float64."""
    off = 0.0
    for number, model in enumerate(models, start=1):
        updates = [each.updates[number] for each in recorded.values()]
        examples = [update.examples for update in updates]
        mean = np.average([update.weights for update in updates], axis=0, weights=examples)
        off = max(off, float(np.abs(model - mean).max()))
    return off


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
