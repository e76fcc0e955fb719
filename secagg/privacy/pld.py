"""Privacy loss distributions, by the library that only the extra brings; no other module imports it.

Every step is discretised so that no epsilon comes out too small ("connect the dots"), and both directions,
with the record and without, are composed on their own; the worse one counts.

Source: Doroshenko et al. 2022, *Connect the Dots: Tighter Discrete Approximations of Privacy Loss
Distributions*; that a record replaced by an empty one gives the same pair of distributions as one that is
added or removed: Zhu, Dong, Wang 2022, *Optimal Accounting of Differential Privacy via Characteristic
Function*.
"""

from __future__ import annotations

import math
from functools import lru_cache

from secagg.errors import MissingExtra
from secagg.privacy.account import Account
from secagg.privacy.renyi import renyi_epsilon

try:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution, from_gaussian_mechanism
except ModuleNotFoundError as missing:
    raise MissingExtra("dp", "dp_accounting") from missing

_ROUNDING = 1e-16
"""Of the Fourier transforms, in delta and for each release; measured against the closed form."""

_LEAST_ROUNDING = 1e-12
"""For all releases. It also covers the tails that are cut off, 1e-15 each time."""

FINE = 100_000
"""Points of the loss of one step; four times as many for all steps together."""

COARSE = 10_000
"""For a first look: never smaller, ten times as quick."""

_ALL_STEPS = 4

_ORDERS = (1.5, 2.0, 3.0, 5.0, 8.0, 16.0, 32.0, 64.0)


def distribution(account: Account, points: int) -> PrivacyLossDistribution:
    """Return the distribution of the loss of all releases of ``account``.

    Args:
        account: with at least one sampled release.
        points: ``FINE`` or ``COARSE``.

    Guarantees:
        No epsilon that is read from it is below the true one, if ``rounding`` is taken off its delta.
        More releases, less noise or a higher rate never make one smaller, but for rounding.
    """
    interval = _interval(account, points)
    composed = [_step(one.multiplier, one.rate, interval).self_compose(one.count) for one in account.sampled]
    if account.mu > 0:
        composed.append(from_gaussian_mechanism(1 / account.mu, value_discretization_interval=interval))
    total, *others = composed
    for other in others:
        total = total.compose(other)
    return total


def rounding(account: Account) -> float:
    """Return by how much a delta that is read from ``distribution`` may be wrong."""
    return max(_LEAST_ROUNDING, _ROUNDING * sum(one.count for one in account.sampled))


def _interval(account: Account, points: int) -> float:
    """Return the width of a point: a power of 2, so that wider grids are parts of narrower ones.

    Then a wider grid never gives a smaller epsilon, and the width only grows with what is accounted.
    """
    widest = max(
        *(_largest_loss(one.multiplier, one.rate) for one in account.sampled),
        _largest_loss(1 / account.mu, 1.0) if account.mu > 0 else 0.0,
    )
    total = renyi_epsilon(account, 1e-15, _ORDERS)
    return 2.0 ** math.ceil(math.log2(max(widest, 2 * total / _ALL_STEPS) / points))


def _largest_loss(multiplier: float, rate: float) -> float:
    """Return the loss of one step at ten standard deviations, about where its distribution is cut off."""
    exponent = 10 / multiplier + 1 / (2 * multiplier**2)
    # log(1 - rate + rate * exp(exponent)), which would overflow.
    return exponent + math.log(rate + (1 - rate) * math.exp(-exponent))


@lru_cache(maxsize=16)
def _step(multiplier: float, rate: float, interval: float) -> PrivacyLossDistribution:
    return from_gaussian_mechanism(multiplier, sampling_prob=rate, value_discretization_interval=interval)
