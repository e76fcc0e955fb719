"""What events cost together: the least epsilon at a delta, or infinity.

Noise that nobody sampled has a closed form, which needs no other package. With sampled releases the account
is a privacy loss distribution (``pld``): its epsilon is never below the true one, and above it by less than
0.001 or 1 part in 1,000, whichever is more, if a step's loss is not tiny. At a delta below 1e-10 (1e-8 for a
million releases) it is the Rényi bound, which is looser.

Source: as named in ``gaussian``, ``pld`` and ``renyi``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from secagg.errors import ParameterError
from secagg.privacy.account import Account, Sampled, account_of
from secagg.privacy.events import Event, Unit
from secagg.privacy.gaussian import least_epsilon
from secagg.privacy.renyi import ORDERS, renyi_epsilon
from secagg.ranges import real

_RESOLVED = 100
"""A delta that is so many times its rounding is read from a distribution."""

_TRIES = 60
"""Steps towards an epsilon that pays for its own slack."""

_NUDGE = 1e-7
"""Relative; by so much each step goes further than it must, so that the steps end."""

_LEAST_MULTIPLIER, _MOST_MULTIPLIER, _LEAST_RATE, _MOST_COUNT = 0.02, 1e7, 1e-9, 10**6
"""What is reckoned with a distribution; beyond it takes more memory, time or digits than there are."""

_MOST_EPSILON, _LEAST_DELTA, _FEW_ORDERS = 600.0, 1e-12, (1.5, 2.0, 4.0, 8.0, 16.0)
"""An epsilon, at this delta, that means nothing: beyond it the bound by orders will do."""


def epsilon(events: Iterable[Event], *, delta: float, unit: Unit) -> float:
    """Return the least epsilon at which ``events`` together are (epsilon, delta)-differentially private.

    Args:
        events: what was released of one data set, in any order.
        delta: between 0 and 1.
        unit: whom it is about. Neighbouring data sets: one of it is replaced by an empty one.

    Returns:
        At least 0; ``math.inf`` where nothing bounds it: for an ``Unprotected``, for a silo of which records
        were released, or where the slack alone exceeds ``delta``.

    Raises:
        ParameterError: ``delta`` or ``unit`` is out of its range.
        MissingExtra: a release is sampled, and ``dp_accounting`` is not installed.

    Guarantees:
        - What is returned is not below the true epsilon.
        - One event more never makes it smaller, but for rounding (1e-6).
    """
    return _least(events, delta, unit, fine=True)


def coarse_epsilon(events: Iterable[Event], *, delta: float, unit: Unit) -> float:
    """Return what ``epsilon`` does, or a little more (1 part in 100), ten times as quickly.

    Raises:
        ParameterError, MissingExtra: as ``epsilon``.
    """
    return _least(events, delta, unit, fine=False)


def rdp_epsilon(
    events: Iterable[Event], *, delta: float, unit: Unit, orders: Sequence[float] = ORDERS
) -> float:
    """Return the epsilon that Rényi differential privacy proves, for a check of ``epsilon``; above it.

    Args:
        events: as of ``epsilon``.
        delta: as of ``epsilon``.
        unit: as of ``epsilon``.
        orders: each above 1.

    Raises:
        ParameterError: as ``epsilon``, or no order is given, or one is not above 1.
    """
    if not orders or not all(math.isfinite(order) and order > 1 for order in orders):
        raise ParameterError("orders must be numbers above 1, at least one of them")
    account = account_of(events, unit)
    delta = check_delta(delta)
    if account is None:
        return math.inf
    return _with_slack(lambda room: renyi_epsilon(account, room, orders), delta, account.slack)


def check_delta(delta: object) -> float:
    """Return ``delta`` as a float between 0 and 1.

    Raises:
        ParameterError: it is not.
    """
    number = real("delta", delta)
    if not 0.0 < number < 1.0:
        raise ParameterError(f"delta is {number}, must be above 0 and below 1; usual is 1e-5 or less")
    return number


def _least(events: Iterable[Event], delta: float, unit: Unit, *, fine: bool) -> float:
    account = account_of(events, unit)
    delta = check_delta(delta)
    if account is None or not math.isfinite(account.mu):
        return math.inf
    bound = _sampled_bound(account, fine) if account.sampled else _exact_bound(account)
    return _with_slack(bound, delta, account.slack)


def _exact_bound(account: Account) -> Callable[[float], float]:
    return lambda delta: least_epsilon(account.mu, delta)


def _sampled_bound(account: Account, fine: bool) -> Callable[[float], float]:
    if not all(_is_of_use(one) for one in account.sampled):
        # As if nobody had sampled: more than it costs, and easily reckoned.
        alone = (math.sqrt(one.count) / one.multiplier for one in account.sampled)
        return _exact_bound(replace(account, mu=math.hypot(account.mu, *alone)))
    if renyi_epsilon(account, _LEAST_DELTA, _FEW_ORDERS) > _MOST_EPSILON:
        return partial(renyi_epsilon, account)
    from secagg.privacy import pld  # noqa: PLC0415 - an extra, which takes a second to load

    total = pld.distribution(account, pld.FINE if fine else pld.COARSE)
    rounding = pld.rounding(account)

    def bound(delta: float) -> float:
        if delta < _RESOLVED * rounding:
            return renyi_epsilon(account, delta)
        return float(total.get_epsilon_for_delta(delta - rounding))

    return bound


def _is_of_use(one: Sampled) -> bool:
    """Whether a release is within what a distribution can be made of: terms of anybody are accounted here."""
    return (
        _LEAST_MULTIPLIER <= one.multiplier <= _MOST_MULTIPLIER
        and _LEAST_RATE <= one.rate <= 1 - _LEAST_RATE
        and one.count <= _MOST_COUNT
    )


def _with_slack(bound: Callable[[float], float], delta: float, slack: float) -> float:
    """Return the least epsilon with ``delta(epsilon) + (1 + exp(epsilon)) * slack <= delta``.

    What was drawn is within ``slack`` of what the account says, with the record and without it; the second
    counts exp(epsilon) times. Each step takes the epsilon that the slack of the last one leaves room for, so
    the steps rise, and end below any solution unless there is none.
    """
    least = 0.0
    for _ in range(_TRIES):
        room = delta - slack_at(least, slack)
        if room <= 0.0:
            return math.inf
        needed = bound(room)
        if needed <= least or slack == 0.0:
            return needed if slack == 0.0 else least
        least = needed * (1 + _NUDGE)
    return math.inf


def slack_at(epsilon: float, slack: float) -> float:
    """Return what ``slack`` adds to delta at ``epsilon``."""
    if slack == 0.0:
        return 0.0
    return slack * (1 + math.exp(epsilon)) if epsilon < 700.0 else math.inf
