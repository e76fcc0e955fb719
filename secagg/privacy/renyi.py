"""Rényi privacy of Gaussian noise with Poisson sampling: quick, and looser than what is reported.

An account is checked against it, and read from it where delta is too small for anything tighter. The
divergence of one release is an integral over a line, which the trapezoidal rule gives to all digits at any
order, whole or not.

Source: Mironov, Talwar, Zhang 2019, *Rényi Differential Privacy of the Sampled Gaussian Mechanism*, theorem 4
and section 3.3; from orders to epsilon by Balle et al. 2020, *Hypothesis Testing Interpretations and Rényi
Differential Privacy*, theorem 21.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from secagg.privacy.account import Account, Sampled

ORDERS = (*(1 + x / 10 for x in range(1, 100)), *map(float, range(11, 64)), 96.0, 128.0, 256.0, 512.0)
"""By default: those of Opacus, and a few above, which small deltas ask for."""

_REACH = 12.0
"""In standard deviations: what lies beyond is below 1e-32 of the integral, which is at least 1."""


def renyi_epsilon(account: Account, delta: float, orders: Sequence[float] = ORDERS) -> float:
    """Return the least epsilon at ``delta`` that one of ``orders`` (each above 1) proves."""
    best = math.inf
    for order in orders:
        divergence = order * account.mu**2 / 2
        divergence += sum(one.count * _divergence(one, order) for one in account.sampled)
        loss = math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)
        best = min(best, divergence + loss)
    return max(0.0, best)


def _divergence(one: Sampled, order: float) -> float:
    """Return the divergence of one of the releases, at ``order``.

    Of the two directions, with the record and without, this one is the larger (theorem 5 there).
    """
    rate, deviation = one.rate, one.multiplier
    # The integrand has one peak at 0, another at ``order``. For an order that is not whole it is singular
    # pi * deviation**2 beside the line, which the step must be small beside.
    step = min(deviation / 8, deviation**2 / 2)
    x = np.arange(-_REACH * deviation, order + _REACH * deviation, step)
    exponent = (2 * x - 1) / (2 * deviation**2)
    logs = order * np.logaddexp(math.log1p(-rate), math.log(rate) + exponent) - (x / deviation) ** 2 / 2
    largest = float(np.max(logs))
    integral = float(np.sum(np.exp(logs - largest)))
    density = step / (deviation * math.sqrt(2 * math.pi))
    return max(0.0, largest + math.log(integral * density)) / (order - 1)
