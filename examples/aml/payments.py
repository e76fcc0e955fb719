"""Columns of payments, and one month of honest ones.

What it is: everyday spending, salaries, trade between businesses, transfers to an own account at another
bank, agents who collect from many and pass it on, and large purchases, some of them priced just below the
reporting threshold. The last three look like laundering and are not.

What it does not do: it keeps no balances. An account may pay more than it received, as with an overdraft.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from examples.aml.society import Society

HOUR, DAY = 3_600, 86_400
MONTH = 30 * DAY
"""Seconds."""


@dataclass(frozen=True, eq=False)
class Payments:
    """What a bank's books show of payments; nothing here says which of them launder.

    Attributes:
        time: int64, shape (n,), seconds since the beginning.
        sender, receiver: int64, shape (n,), accounts, never the same.
        cents: int64, shape (n,), amounts, at least 1.
    """

    time: NDArray[np.int64]
    sender: NDArray[np.int64]
    receiver: NDArray[np.int64]
    cents: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.time)

    def take(self, index: NDArray[np.bool_] | NDArray[np.int64]) -> Payments:
        """Return the payments at ``index``, a mask or positions."""
        return Payments(self.time[index], self.sender[index], self.receiver[index], self.cents[index])

    def to_bytes(self) -> bytes:
        """Return all columns, one after the other, as little-endian 64-bit integers."""
        columns = (self.time, self.sender, self.receiver, self.cents)
        return b"".join(column.astype("<i8").tobytes() for column in columns)


def joined(parts: Sequence[Payments]) -> Payments:
    """Return one after the other."""
    return Payments(
        np.concatenate([part.time for part in parts]),
        np.concatenate([part.sender for part in parts]),
        np.concatenate([part.receiver for part in parts]),
        np.concatenate([part.cents for part in parts]),
    )


def ordinary_month(society: Society, random: np.random.Generator) -> Payments:
    """Return one month's honest payments, time 0 to MONTH, in no order."""
    parts = (
        _everyday(society, random),
        _salaries_and_savings(society, random),
        _trade(society, random),
        _agents(society, random),
        _large_purchases(society, random),
    )
    drawn = joined(parts)
    return drawn.take(drawn.sender != drawn.receiver)


def _everyday(society: Society, random: np.random.Generator) -> Payments:
    """About two and a half payments an account: seven of ten in shops, the others among acquaintances."""
    n = 5 * len(society) // 2
    sender = _pick(society.activity, n, random)
    shop = _pick(np.where(society.business, society.popularity, 0.0), n, random)
    column = (random.random(n) * society.circle.shape[1]).astype(np.int64)
    receiver = np.where(random.random(n) < 0.7, shop, society.circle[sender, column])
    return _payments(random.random(n) * MONTH, sender, receiver, _log_normal(60, 1.3, n, random), society)


def _salaries_and_savings(society: Society, random: np.random.Generator) -> Payments:
    """Every household is paid around day 26; those with more accounts move a part of it within three days."""
    first = np.flatnonzero(np.diff(society.person, prepend=-1))
    household = first[~society.business[first]]
    n = len(household)
    employer = _pick(np.where(society.business, society.popularity, 0.0), n, random)
    paid = (25 + 2 * random.random(n)) * DAY
    salary = _log_normal(2_600, 0.4, n, random)
    following = np.minimum(household + 1, len(society) - 1)
    saves = (society.person[following] == society.person[household]) & (following != household)
    later = paid + (0.1 + 2.9 * random.random(n)) * DAY
    part = salary * (0.1 + 0.5 * random.random(n))
    return joined(
        (
            _payments(paid, employer, household, salary, society, scaled_by=household),
            _payments(later[saves], household[saves], following[saves], part[saves], society),
        )
    )


def _trade(society: Society, random: np.random.Generator) -> Payments:
    """Businesses pay businesses, six times each on average."""
    n = 6 * int(society.business.sum())
    sender = _pick(np.where(society.business, society.activity, 0.0), n, random)
    receiver = _pick(np.where(society.business, society.popularity, 0.0), n, random)
    return _payments(random.random(n) * MONTH, sender, receiver, _log_normal(1_500, 1.2, n, random), society)


def _agents(society: Society, random: np.random.Generator) -> Payments:
    """Landlords, clubs, travel groups: one account in sixty collects from many and pays most of it on."""
    agents = np.flatnonzero(random.random(len(society)) < 1 / 60)
    k = len(agents)
    begins, typical = random.random(k) * 20 * DAY, _log_normal(500, 0.9, k, random)
    payers = 4 + (random.random(k) * 12).astype(np.int64)
    of = np.repeat(np.arange(k), payers)
    n = len(of)
    amounts = typical[of] * (0.7 + 0.6 * random.random(n))
    collected = _payments(
        begins[of] + random.random(n) * 5 * DAY,
        (random.random(n) * len(society)).astype(np.int64),
        agents[of],
        amounts,
        society,
        scaled_by=agents[of],
    )
    ways = 1 + (random.random(k) * 4).astype(np.int64)
    by = np.repeat(np.arange(k), ways)
    m = len(by)
    share = (0.7 + 0.3 * random.random(k)) / ways
    passed_on = _payments(
        begins[by] + (5 + 4 * random.random(m)) * DAY,
        agents[by],
        (random.random(m) * len(society)).astype(np.int64),
        np.bincount(of, amounts, minlength=k)[by] * share[by],
        society,
    )
    return joined((collected, passed_on))


def _large_purchases(society: Society, random: np.random.Generator) -> Payments:
    """A car, a kitchen: 3,000 to 15,000 euros from one account in 25, a third just under the threshold."""
    n = len(society) // 25
    sender = (random.random(n) * len(society)).astype(np.int64)
    receiver = _pick(society.popularity, n, random)
    priced_below = 8_000 + 1_999 * random.random(n)
    euros = np.where(random.random(n) < 1 / 3, priced_below, 3_000 + 12_000 * random.random(n))
    return Payments(_whole(random.random(n) * MONTH), sender, receiver, _whole(100 * euros))


def _pick(weights: NDArray[np.float64], n: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Draw n positions in proportion to ``weights``."""
    reach = np.cumsum(weights)
    return np.asarray(np.searchsorted(reach, random.random(n) * reach[-1], side="right"), np.int64)


def _log_normal(median: float, sigma: float, n: int, random: np.random.Generator) -> NDArray[np.float64]:
    return np.asarray(median * np.exp(sigma * random.standard_normal(n)))


def _payments(
    time: NDArray[np.float64],
    sender: NDArray[np.int64],
    receiver: NDArray[np.int64],
    euros: NDArray[np.float64],
    society: Society,
    *,
    scaled_by: NDArray[np.int64] | None = None,
) -> Payments:
    """Round to seconds and cents, with amounts on the scale of the payer (or of ``scaled_by``)."""
    scale = society.scale[sender if scaled_by is None else scaled_by]
    return Payments(_whole(time), sender, receiver, np.maximum(_whole(100 * euros * scale), 1))


def _whole(values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.asarray(np.floor(values), np.int64)
