"""What a bank can say of each of its accounts from its own books alone.

What it is: one row an account and month, from the payments that the bank sees, those in which one of its own
accounts sends or receives. Of an account elsewhere it knows the number, the bank, and what it pays to or gets
from this bank's own. Every column is moved and scaled by stated constants and cut to -LIMIT to LIMIT, so the
same number means the same at every bank and no statistic of anybody's data is needed.

What it does not do: it sees no label, no scheme and no holder (``View`` has none), so it cannot encode the
truth, nor that two accounts belong to one person.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from examples.aml.generator import View
from examples.aml.payments import DAY, HOUR
from examples.aml.typologies import THRESHOLD

LIMIT = 4.0
NEAR = 0.8
"""A payment is just below the threshold from this share of it on."""
PASSED_WITHIN = 48
"""Hours in which money that arrived is said to have been passed on."""
NEVER = 720.0
"""Hours, a month: stands where an account pays nothing any more."""

_SIDE = (
    # name, centre, scale: roughly where half of all accounts stand and how far the others are from it.
    ("log payments", 1.4, 0.8),
    ("log counterparties", 1.1, 0.7),
    ("counterparties per payment", 0.8, 0.3),
    ("log euros", 6.5, 2.0),
    ("log largest", 6.0, 2.0),
    ("mean log amount", 4.8, 1.6),
    ("spread of log amounts", 0.8, 0.6),
    ("log payments just below the threshold", 0.0, 0.5),
    ("share of euros just below the threshold", 0.0, 0.3),
    ("log payments of 1,000 euros and more", 0.7, 0.7),
    ("share from or to other banks", 0.7, 0.35),
    ("log banks of counterparties", 0.9, 0.5),
    ("log spread in hours", 3.0, 1.2),
    ("log busiest two days", 1.0, 0.6),
    ("log size of counterparties", 1.5, 1.5),
)
_BOTH = (
    ("log out over in", 0.0, 2.0),
    ("balance of in and out", 0.3, 0.3),
    ("log hours until passed on", 5.0, 1.5),
    ("share passed on", 0.2, 0.3),
    ("share passed on alike", 0.0, 0.3),
    ("log both payer and payee", 0.0, 0.4),
    ("log large payers times payees", 0.7, 0.9),
)
COLUMNS = tuple(
    [f"{name}, {side}" for side in ("in", "out") for name, _, _ in _SIDE] + [name for name, _, _ in _BOTH]
)
"""Names of the features, in order. Logarithms are natural, of 1 + the value; amounts in euros."""
_CENTRE, _SCALE = np.array([(centre, scale) for _, centre, scale in (*_SIDE, *_SIDE, *_BOTH)]).T


@dataclass(frozen=True, eq=False)
class _Side:
    """One end of the payments: ``own`` is the position of the bank's own account there."""

    own: NDArray[np.int64]
    other: NDArray[np.int64]
    other_bank: NDArray[np.int64]
    time: NDArray[np.int64]
    cents: NDArray[np.int64]


def features(view: View) -> NDArray[np.float64]:
    """Return the features of a bank's accounts.

    Args:
        view: what the bank sees of one month.

    Returns:
        float64, shape (len(view.accounts), len(COLUMNS)), each from -LIMIT to LIMIT; an account without a
        payment has the values of nothing at all, not NaN.
    """
    k, payments = len(view.accounts), view.payments
    arriving = _side(view, payments.receiver, payments.sender, view.sender_bank)
    leaving = _side(view, payments.sender, payments.receiver, view.receiver_bank)
    raw = np.column_stack(
        [
            *_of_one_side(arriving, k, view.bank),
            *_of_one_side(leaving, k, view.bank),
            *_of_both(arriving, leaving, k),
        ]
    )
    return np.asarray(np.clip((raw - _CENTRE) / _SCALE, -LIMIT, LIMIT))


def active(view: View) -> NDArray[np.bool_]:
    """Return which of the bank's accounts sent or received anything, shape (len(view.accounts),)."""
    return np.isin(view.accounts, np.concatenate([view.payments.sender, view.payments.receiver]))


def _side(
    view: View, own: NDArray[np.int64], other: NDArray[np.int64], other_bank: NDArray[np.int64]
) -> _Side:
    payments = view.payments
    here = np.isin(own, view.accounts)
    return _Side(
        np.searchsorted(view.accounts, own[here]),
        other[here],
        other_bank[here],
        payments.time[here],
        payments.cents[here],
    )


def _of_one_side(side: _Side, k: int, bank: int) -> list[NDArray[np.float64]]:
    """Columns of _SIDE, each of shape (k,)."""
    euros = side.cents / 100
    log = np.log1p(euros)
    n = _count(side.own, k)
    partners = _distinct(side.own, side.other, k)
    total = _count(side.own, k, euros)
    mean = _count(side.own, k, log) / np.maximum(n, 1)
    variance = _count(side.own, k, (log - mean[side.own]) ** 2) / np.maximum(n, 1)
    near = (side.cents >= NEAR * THRESHOLD) & (side.cents < THRESHOLD)
    hours = side.time / HOUR
    middle = _count(side.own, k, hours) / np.maximum(n, 1)
    spread = np.sqrt(_count(side.own, k, (hours - middle[side.own]) ** 2) / np.maximum(n, 1))
    # How big the others are, as far as this bank sees: how many payments its own accounts have with each.
    _, which, seen = np.unique(side.other, return_inverse=True, return_counts=True)
    return [
        np.log1p(n),
        np.log1p(partners),
        partners / np.maximum(n, 1),
        np.log1p(total),
        np.log1p(_largest(side.own, k, euros)),
        mean,
        np.sqrt(variance),
        np.log1p(_count(side.own, k, near)),
        _count(side.own, k, euros * near) / np.maximum(total, 1),
        np.log1p(_count(side.own, k, euros >= 1_000)),
        _count(side.own, k, side.other_bank != bank) / np.maximum(n, 1),
        np.log1p(_distinct(side.own, side.other_bank, k)),
        np.log1p(spread),
        np.log1p(_largest(side.own, k, _within(side, 2 * DAY))),
        _count(side.own, k, np.log1p(seen[which])) / np.maximum(n, 1),
    ]


def _of_both(arriving: _Side, leaving: _Side, k: int) -> list[NDArray[np.float64]]:
    """Columns of _BOTH, each of shape (k,)."""
    came, went = (_count(side.own, k, side.cents / 100) for side in (arriving, leaving))
    until, alike = _next_leaving(arriving, leaving)
    arrived = np.maximum(came, 0.01)
    quick = until <= PASSED_WITHIN
    euros = arriving.cents / 100
    large = [
        _distinct(s.own[s.cents >= 100_000], s.other[s.cents >= 100_000], k) for s in (arriving, leaving)
    ]
    return [
        np.log1p(went) - np.log1p(came),
        np.minimum(came, went) / np.maximum(np.maximum(came, went), 0.01),
        np.log1p(_count(arriving.own, k, euros * until) / arrived),
        _count(arriving.own, k, euros * quick) / arrived,
        _count(arriving.own, k, euros * (quick & alike)) / arrived,
        np.log1p(_mutual(arriving, leaving, k)),
        np.log1p(large[0] * large[1]),
    ]


def _next_leaving(arriving: _Side, leaving: _Side) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """For each arrival: hours until the account pays next, and whether it pays 85 to 100 % of it."""
    if not len(leaving.own):
        return np.full(len(arriving.own), NEVER), np.zeros(len(arriving.own), np.bool_)
    order = np.lexsort((leaving.time, leaving.own))
    # One number for (account, time), so that one search finds the next payment of the same account.
    span = 1 + max(int(side.time.max(initial=0)) for side in (arriving, leaving))
    keys = (leaving.own * span + leaving.time)[order]
    position = np.searchsorted(keys, arriving.own * span + arriving.time, side="right")
    following = order[np.minimum(position, len(order) - 1)]
    found = (position < len(order)) & (leaving.own[following] == arriving.own)
    hours = np.where(found, (leaving.time[following] - arriving.time) / HOUR, NEVER)
    ratio = leaving.cents[following] / arriving.cents
    return hours, found & (ratio >= 0.85) & (ratio <= 1.0)


def _within(side: _Side, seconds: int) -> NDArray[np.int64]:
    """For each payment: how many the same account has from this one until ``seconds`` later."""
    order = np.lexsort((side.time, side.own))
    span = 1 + int(side.time.max(initial=0)) + seconds
    keys = side.own[order] * span + side.time[order]
    counts = np.empty(len(order), np.int64)
    counts[order] = np.searchsorted(keys, keys + seconds, side="right") - np.arange(len(order))
    return counts


def _count(
    own: NDArray[np.int64], k: int, weights: NDArray[np.float64] | NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    return np.bincount(own, weights, minlength=k).astype(np.float64)


def _largest(
    own: NDArray[np.int64], k: int, values: NDArray[np.float64] | NDArray[np.int64]
) -> NDArray[np.float64]:
    largest = np.zeros(k)
    np.maximum.at(largest, own, values)
    return largest


def _pairs(own: NDArray[np.int64], other: NDArray[np.int64], base: int) -> NDArray[np.int64]:
    """Return ``own * base + other`` for every pair once; ``base`` is above every other."""
    return np.unique(own * base + other)


def _distinct(own: NDArray[np.int64], other: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """How many different others each account has."""
    base = 1 + int(other.max(initial=0))
    return _count(_pairs(own, other, base) // base, k)


def _mutual(arriving: _Side, leaving: _Side, k: int) -> NDArray[np.float64]:
    """How many others each account has that pay it and are paid by it."""
    base = 1 + max(int(side.other.max(initial=0)) for side in (arriving, leaving))
    one, two = (_pairs(side.own, side.other, base) for side in (arriving, leaving))
    return _count(np.intersect1d(one, two, assume_unique=True) // base, k)
