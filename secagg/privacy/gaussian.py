"""The Gaussian mechanism in closed form: exact epsilon and delta of noise that nobody sampled.

``mu`` is the sensitivity over the standard deviation of the noise, 1 over the noise multiplier. Releases of
mu_1, mu_2, ... are together as one of ``hypot(mu_1, mu_2, ...)``, so any number of them has this closed form.

Source: Balle, Wang 2018, *Improving the Gaussian Mechanism for Differential Privacy*, theorem 8; composition
by Dong, Roth, Su 2019, *Gaussian Differential Privacy*, corollary 3.3.
"""

from __future__ import annotations

import math

_TINY = 1e-5
"""Of two tails that are closer, relatively, the derivative gives the difference with more digits."""

_FAR = 10.0
"""From here on a continued fraction of this many terms has all digits of a tail."""
_TERMS = 40

_WIDEST = 1e150
"""The square of a larger mu is beyond float64, and so is its epsilon."""

_EXACT = 1e-13
"""Relative width at which a bisection ends."""


def log_delta(epsilon: float, mu: float) -> float:
    """Return the logarithm of the least delta at ``epsilon``.

    Args:
        epsilon: at least 0.
        mu: above 0, at most 1e150.

    Guarantees:
        Exact to 1e-9, also where delta itself is below the range of float64.
    """
    low = epsilon / mu - mu / 2
    high = low + mu
    middle = epsilon / mu
    if mu < _TINY * max(1.0, middle):
        slope = max(1.0 - middle * _mills(middle), 1e-17)  # Only where delta is as good as 0 is it less.
        return _log_density(low) + math.log(mu) + math.log(slope)
    # exp(epsilon) is the density at ``low`` over that at ``high``: written so, it cannot overflow.
    if low <= 0.0:
        return math.log(0.5 * math.erfc(low / math.sqrt(2.0)) - math.exp(_log_density(low)) * _mills(high))
    return _log_density(low) + math.log(_mills(low) - _mills(high))


def least_epsilon(mu: float, delta: float) -> float:
    """Return the least epsilon at ``delta``, above 0 and below 1; infinite where float64 has none.

    Args:
        mu: at least 0.
        delta: between 0 and 1.
    """
    if mu > _WIDEST:
        return math.inf
    target = math.log(delta)
    if mu == 0.0 or log_delta(0.0, mu) <= target:
        return 0.0
    # Where delta is sought, it is below the tail of ``low``, which is below exp(-low^2 / 2).
    least, enough = 0.0, mu * (mu / 2 + math.sqrt(-2.0 * target))
    while enough - least > _EXACT * enough:
        middle = (least + enough) / 2
        least, enough = (least, middle) if log_delta(middle, mu) <= target else (middle, enough)
    return enough


def largest_mu(epsilon: float, delta: float) -> float:
    """Return the largest mu whose least epsilon at ``delta`` is at most ``epsilon``.

    Args:
        epsilon: at least 0.
        delta: between 0 and 1.
    """
    target = math.log(delta)
    allowed = 1.0
    while log_delta(epsilon, allowed) > target:
        allowed /= 2
    beyond = 2 * allowed
    while log_delta(epsilon, beyond) <= target:
        allowed, beyond = beyond, 2 * beyond
    while beyond - allowed > _EXACT * allowed:
        middle = (allowed + beyond) / 2
        allowed, beyond = (middle, beyond) if log_delta(epsilon, middle) <= target else (allowed, middle)
    return allowed


def _log_density(x: float) -> float:
    return -x * x / 2 - math.log(2 * math.pi) / 2


def _mills(x: float) -> float:
    """Return the tail of a standard normal from ``x`` >= 0 on, over its density there."""
    if x < _FAR:
        return math.sqrt(math.pi / 2) * math.exp(x * x / 2) * math.erfc(x / math.sqrt(2.0))
    rest = x
    for term in range(_TERMS, 0, -1):
        rest = x + term / rest
    return 1.0 / rest
