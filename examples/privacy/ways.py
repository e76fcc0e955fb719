"""Four ways to train one task, and one run of one of them: real rounds under masks, scored on held-out data.

What it is: a federation in this process for each point of the picture. Only the noise differs, and
steps and step size, of which README.md says how they were chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from enum import StrEnum

import torch

from examples.privacy.banks import banks
from examples.privacy.heads import heads
from examples.privacy.task import Task
from secagg import FedAvg, Federation, Masking
from secagg.privacy.calibration import Privacy
from secagg.privacy.params import DistributedDP, LocalDPSGD, PrivacyMode

DELTA = 1e-5
LOCAL_STEPS = 5
"""Steps that a silo takes between two sums where it adds its noise itself, or none."""


class Way(StrEnum):
    """Where the noise is."""

    PLAIN = "no noise"
    LOCAL = "local noise"
    DISTRIBUTED = "distributed noise"
    SILO = "distributed, silo hidden"


@dataclass(frozen=True)
class Recipe:
    """How a way trains.

    Args:
        steps: of gradient descent in all; each is over all records of a silo.
        learning_rate: of a step.
        l2_clip_norm: of one record's gradient, or of one silo's update; without noise nothing is clipped.
    """

    steps: int
    learning_rate: float
    l2_clip_norm: float = 1.0


@dataclass(frozen=True)
class Study:
    """One data set of the picture.

    Attributes:
        title: of the picture.
        measure: what the score is.
        chance: score of a model that learned nothing.
        load: (seed, tuning) -> task.
        recipes: how each way trains.
    """

    title: str
    measure: str
    chance: float
    load: Callable[..., Task]
    recipes: Mapping[Way, Recipe]


STUDIES: Mapping[str, Study] = {
    "imaging": Study(
        title="Which part of the head does a scan show?",
        measure="accuracy on held-out slices",
        chance=1 / 6,
        load=heads,
        recipes={
            Way.PLAIN: Recipe(160, 0.4),
            Way.LOCAL: Recipe(40, 0.125),
            Way.DISTRIBUTED: Recipe(40, 1.0),
            Way.SILO: Recipe(10, 0.4),
        },
    ),
    "banks": Study(
        title="Which accounts launder?",
        measure="average precision in the held-out month",
        chance=0.02,
        load=banks,
        recipes={
            Way.PLAIN: Recipe(200, 0.02),
            Way.LOCAL: Recipe(100, 16.0, 0.5),
            Way.DISTRIBUTED: Recipe(100, 16.0, 0.5),
            Way.SILO: Recipe(5, 0.005),
        },
    ),
}


@dataclass(frozen=True)
class Point:
    """One run that is to be made.

    Args:
        study: key of ``STUDIES``.
        way: where the noise is.
        silos: at least 3.
        epsilon: of the whole run, at ``DELTA``; without noise it does not count.
        seed: of the data and the first weights; the noise has none.
        recipe: None for that of the study.
        tuning: measure on what is there for tuning.
        sized: arguments of the study's ``load``, for less data.
    """

    study: str
    way: Way
    silos: int
    epsilon: float
    seed: int
    _: KW_ONLY
    recipe: Recipe | None = None
    tuning: bool = False
    sized: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Scored:
    """One run that was made.

    Attributes:
        point: of the picture.
        score: on held-out data, 0 to 1.
        spent: epsilon at ``DELTA`` with the silos that took part, as the report has it; None without noise.
    """

    point: Point
    score: float
    spent: float | None


def run(point: Point) -> Scored:
    """Train one federation and measure its model."""
    torch.set_num_threads(1)  # The networks are small, and several points run at once.
    study = STUDIES[point.study]
    task = study.load(point.seed, tuning=point.tuning, **(point.sized or {}))
    recipe = point.recipe or study.recipes[point.way]
    history = federation(task, point, recipe).run(rounds_of(point.way, recipe), progress=False)
    spent = history.records[-1].report.spent
    return Scored(point, task.score(history.model), None if spent is None else spent.epsilon)


def rounds_of(way: Way, recipe: Recipe) -> int:
    """Return the sums of a run: one for each step, if the steps' own sums have the noise."""
    return recipe.steps if way is Way.DISTRIBUTED else -(-recipe.steps // LOCAL_STEPS)


def federation(task: Task, point: Point, recipe: Recipe) -> Federation:
    """Return the silos of ``point`` under masks."""
    stepwise = point.way is Way.DISTRIBUTED
    return Federation(
        silos=task.trainers(point.silos),
        scheme=Masking(),
        # Where the sum is of gradients, the step is the server's.
        strategy=FedAvg(recipe.learning_rate if stepwise else 1.0),
        privacy=_noise(task, point, recipe),
        epochs=1 if stepwise else min(LOCAL_STEPS, recipe.steps),
        learning_rate=None if stepwise else recipe.learning_rate,
        clip=64.0,  # Beyond what noise moves a weight by: nothing but the noise is to make a difference.
        weight_cap=task.most,
        least_total_weight=task.records / 2,
        metrics=(),
        seed=point.seed,
    )


def _noise(task: Task, point: Point, recipe: Recipe) -> PrivacyMode | None:
    target = Privacy(epsilon=point.epsilon, delta=DELTA, rounds=rounds_of(point.way, recipe))
    match point.way:
        case Way.PLAIN:
            return None
        case Way.LOCAL:
            # At a rate of 1 an epoch is one step over all records.
            return LocalDPSGD(target, l2_clip_norm=recipe.l2_clip_norm, sampling_rate=1.0)
        case Way.DISTRIBUTED:
            return DistributedDP(
                target,
                unit="record",
                l2_clip_norm=recipe.l2_clip_norm,
                sampling_rate=1.0,
                batch_size=task.records,
            )
        case Way.SILO:
            return DistributedDP(target, unit="silo", l2_clip_norm=recipe.l2_clip_norm)
