"""How good a ranking of accounts is: precision and recall, recall by typology, money that was missed.

What it is: the accounts of all banks ranked by one model. Investigators read so many alerts and no more, so
what counts beside the curve is what a fixed budget of alerts finds.

What it does not do: it picks no threshold and weighs no costs.

Source: average precision as in Manning, Raghavan and Schütze 2008, "Introduction to Information Retrieval",
section 8.4: the sum over thresholds of precision times the rise of recall.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from examples.aml.generator import HONEST, World
from examples.aml.payments import MONTH
from examples.aml.typologies import TYPOLOGIES

BUDGET = 0.02
"""Share of the accounts that investigators can read, about as many as launder."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision and recall at every threshold, from the strictest on.

    Attributes:
        precision, recall: float64, shape (thresholds,); recall rises to 1.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    @classmethod
    def of(cls, labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> Curve:
        """Rank accounts by falling score; equal scores are one threshold.

        Args:
            labels: bool, shape (n,), at least one of them true.
            scores: float64, shape (n,).
        """
        order = np.argsort(-scores, kind="stable")
        last = np.append(np.diff(scores[order]) != 0, True)
        found = np.cumsum(labels[order])[last]
        return cls(found / (1 + np.flatnonzero(last)), found / found[-1])

    @property
    def average_precision(self) -> float:
        """The area under the steps, 0 to 1; a random ranking's is the share of true labels."""
        return float(np.sum(np.diff(self.recall, prepend=0.0) * self.precision))


def average_precision(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Return the average precision of a ranking, 0 to 1. Arguments as of ``Curve.of``."""
    return Curve.of(labels, scores).average_precision


@dataclass(frozen=True, eq=False)
class Findings:
    """What the alerts of one month find.

    Attributes:
        recall: typology -> share of its accounts that were alerted, 0 to 1.
        missed: euros in laundering payments of which neither account was alerted.
        laundered: euros in all laundering payments.
    """

    recall: dict[str, float]
    missed: float
    laundered: float


def findings(world: World, month: int, accounts: NDArray[np.int64], scores: NDArray[np.float64]) -> Findings:
    """Alert the BUDGET of highest scores and look them up in the truth.

    Args:
        world: the truth.
        month: of the scores.
        accounts: int64, shape (n,), all that were scored.
        scores: float64, shape (n,).
    """
    alerted = np.zeros(len(world.society), np.bool_)
    alerted[accounts[np.argsort(-scores, kind="stable")[: round(BUDGET * len(accounts))]]] = True
    scheme = world.laundering(month)
    kind = np.array([each.typology for each in world.schemes])[scheme]
    guilty = scheme != HONEST
    recall = {name: float(alerted[guilty & (kind == name)].mean()) for name in TYPOLOGIES}
    part = (world.scheme != HONEST) & (world.payments.time // MONTH == month)
    payments = world.payments.take(part)
    unseen = ~alerted[payments.sender] & ~alerted[payments.receiver]
    return Findings(recall, payments.cents[unseen].sum() / 100, payments.cents.sum() / 100)
