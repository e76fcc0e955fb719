"""From an attacker's scores to an epsilon that is surely there: audits and attacks on membership use it.

Thresholds are chosen on one half of the games and counted on the other, so that the bound holds whatever was
chosen. Source: Jagielski, Ullman, Oprea 2020, *Auditing Differentially Private Machine Learning*; Clopper and
Pearson 1934 for the intervals.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

FALSE_ALARM = 1e-6
"""Probability with which a bound is above the true epsilon."""


def at_most(hits: int, games: int, error: float) -> float:
    """Return what the probability of a hit is at most, but for ``error`` (Clopper and Pearson)."""
    return 1.0 if hits == games else float(beta.ppf(1 - error, hits + 1, games - hits))


def epsilon_of(true: int, false: int, games: int, delta: float, error: float) -> float:
    """Return the least epsilon with which so many true and false alarms are likely."""
    sure = 1 - at_most(games - true, games, error / 2) - delta
    return math.log(sure / at_most(false, games, error / 2)) if sure > 0 else 0.0


def lower_bound(
    present: NDArray[Any], absent: NDArray[Any], *, delta: float, error: float = FALSE_ALARM
) -> float:
    """Return a lower bound on epsilon from the scores of games with the canary and of games without it.

    Args:
        present: scores, higher where the attacker believes that the canary is there; an even number of them.
        absent: as many.
        delta: at which epsilon is meant.
        error: probability that the true epsilon is below what is returned.
    """
    half = present.size // 2
    chosen: tuple[float, float, int] = (-math.inf, 0.0, 1)
    for side in (1, -1):  # The alarm is that the canary is there, or that it is not.
        inside, outside = (present, absent) if side == 1 else (-absent, -present)
        for threshold in np.quantile(
            np.concatenate((inside[:half], outside[:half])), np.linspace(0.01, 0.99, 99)
        ):
            true, false = int(np.sum(inside[:half] > threshold)), int(np.sum(outside[:half] > threshold))
            chosen = max(chosen, (epsilon_of(true, false, half, delta, error), float(threshold), side))
    _, threshold, side = chosen
    inside, outside = (present, absent) if side == 1 else (-absent, -present)
    true, false = int(np.sum(inside[half:] > threshold)), int(np.sum(outside[half:] > threshold))
    return max(0.0, epsilon_of(true, false, present.size - half, delta, error))


def likelihood(seen: NDArray[Any], *, multiplier: float, rate: float = 1.0) -> NDArray[Any]:
    """Return the score of the best attacker there is: the logarithm of the likelihood ratio.

    Args:
        seen: of each game and step, what was released along the canary, in units of the clip norm.
        multiplier: deviation of the noise, in the same units.
        rate: with which the canary was in a step.
    """
    exponent = (seen - 0.5) / multiplier**2
    return np.asarray(
        np.logaddexp(math.log1p(-rate) if rate < 1 else -math.inf, math.log(rate) + exponent).sum(1)
    )
