"""What a data set gave away: every release in one list for all jobs, charged before it happens.

A ledger belongs to one silo and one data set. It adds up epsilon over a rolling period and refuses what would
exceed the silo's budget. It has no file and no clock of its own: ``keep`` writes, ``clock`` tells the time.

Source: privacy odometers and filters, Rogers et al. 2016, for a budget over releases that are chosen as one
goes; the accounts are of ``secagg.privacy.accountant``.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain as every
from typing import TypeAlias

from secagg.errors import ParameterError, PrivacyBudgetExhausted
from secagg.privacy import accountant
from secagg.privacy.entries import Entry, charged, encode_entry, link, read
from secagg.privacy.events import Event, Release, Unit, Unprotected, grouped_releases
from secagg.ranges import positive, whole

DAY = 24 * 3600
MOST_DAYS = 36_500
_ACCOUNTS = 64
"""Results of the accountant that are remembered."""

Account: TypeAlias = Callable[..., float]


@dataclass(frozen=True)
class Budget:
    """What a silo may spend of one data set.

    Attributes:
        epsilon: in any ``period_days`` days, for each unit on its own, above 0.
        delta: at which epsilon is reckoned, between 0 and 1.
        period_days: length of the rolling period, 1 to 36500.

    Raises:
        ParameterError: a value is outside its range.
    """

    epsilon: float = 8.0
    delta: float = 1e-5
    period_days: int = 365

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", positive("epsilon", self.epsilon))
        object.__setattr__(self, "delta", positive("delta", self.delta))
        object.__setattr__(self, "period_days", whole("period_days", self.period_days, least=1))
        if self.delta >= 1.0:
            raise ParameterError(f"delta is {self.delta}, must be below 1")
        if self.period_days > MOST_DAYS:
            raise ParameterError(f"period_days is {self.period_days}, must be at most {MOST_DAYS}")

    @property
    def period(self) -> int:
        """The length of the period in seconds."""
        return self.period_days * DAY


class Ledger:
    """One data set's list, in memory; for one thread at a time.

    Args:
        data_set: its name at the silo.
        genesis: the chain before the first line, as of ``entries.genesis``.
        lines: (line, chain) pairs that were kept before.
        budget: None refuses nothing and records everything.
        keep: writes a line and its chain; they are on disk when it returns.
        clock: unix seconds.

    Raises:
        LedgerDamaged: the lines are not those that were written.

    Guarantees:
        ``charge`` returns after ``keep`` did, never before; what is refused, or was not kept, is not there.
        What is charged never takes the account of its unit beyond the budget within any period.
        A clock that goes back frees nothing: no entry is earlier than the one before, nor is the present.
    """

    def __init__(
        self,
        data_set: str,
        *,
        genesis: bytes,
        lines: Iterable[tuple[bytes, bytes]] = (),
        budget: Budget | None,
        keep: Callable[[bytes, bytes], None],
        clock: Callable[[], int],
    ) -> None:
        self.data_set = data_set
        self.budget = budget
        self._keep = keep
        self._clock = clock
        self._entries: list[Entry] = []
        self._times: list[int] = []
        self._released: list[list[Release]] = []  # By entry; made once, for there are thousands.
        self._known: dict[tuple[Account, Unit, tuple[Release, ...]], float] = {}
        self._chains = [genesis]
        self._trainings: set[bytes] = set()
        for entry, chain in read(genesis, lines):
            self._take(entry, chain)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Everything that was charged, oldest first."""
        return tuple(self._entries)

    @property
    def head(self) -> tuple[int, bytes]:
        """How many entries there are, and the chain (32 bytes) after the last."""
        return len(self._entries), self._chains[-1]

    def charged(self, training: bytes) -> bool:
        """Whether the vector of these terms, by their digest, was charged."""
        return training in self._trainings

    @property
    def chains(self) -> tuple[bytes, ...]:
        """The chain (32 bytes) after each entry."""
        return tuple(self._chains[1:])

    @property
    def unprotected(self) -> int:
        """Sums in the whole ledger that had no differential privacy: no epsilon covers them."""
        events = (event for entry in self._entries for event in entry.events)
        return sum(event.count for event in events if isinstance(event, Unprotected))

    def check(self, events: Sequence[Event]) -> None:
        """Refuse what the budget has no room for; nothing is written.

        An event without differential privacy is never refused here: whether one may happen is policy.

        Raises:
            PrivacyBudgetExhausted: saying when enough is free again.
        """
        self._check(events, self._now())

    def _check(self, events: Sequence[Event], now: int) -> None:
        if self.budget is None:
            return
        new = _releases(events)
        for unit in sorted({event.unit for event in new}):
            if self._exceeds(self.budget, unit, [*self._at(now), *new]):
                raise PrivacyBudgetExhausted(self._refusal(self.budget, unit, new, now))

    def charge(
        self,
        *,
        federation: str,
        job: str,
        round: int,
        release: int,
        training: bytes,
        events: Sequence[Event],
    ) -> Entry:
        """Charge a round with what it is about to release; only then may anything of it leave.

        Args:
            federation: as the terms of the round say, like ``job``, ``round`` and ``release``.
            job: one call of ``run``.
            round: from 1.
            release: from 1.
            training: digest of the terms, 32 bytes.
            events: what will be released, at least one.

        Raises:
            PrivacyBudgetExhausted: as of ``check``.
            ParameterError: an argument is out of its range, or there is no event.
            StateFault: ``keep`` could not write; whatever it raises passes through.
        """
        now = self._now()  # Once: what was free when it was looked for is free when it is taken.
        self._check(events, now)
        entry = Entry(
            number=len(self._entries) + 1,
            time=now,
            federation=federation,
            job=job,
            round=round,
            release=release,
            training=training,
            charged=charged(events),
        )
        line = encode_entry(entry)
        chain = link(self._chains[-1], line)
        self._keep(line, chain)
        self._take(entry, chain)
        return entry

    def spent(self, unit: Unit, at: int | None = None) -> float:
        """Return epsilon of the period that ends at ``at``; for None now, and at delta of the budget.

        Sums without differential privacy are not in it, see ``unprotected``. The account of a silo knows
        releases of unit silo alone: noise that hides a record hides no silo.
        """
        return self._epsilon(unit, self._at(self._now() if at is None else at))

    def left(self, unit: Unit) -> float:
        """Return how far ``spent`` is below the budget, at least 0; infinite without a budget."""
        return math.inf if self.budget is None else max(0.0, self.budget.epsilon - self.spent(unit))

    def alone(self, unit: Unit, entries: Iterable[Entry]) -> float:
        """Return epsilon of ``entries`` as if there were no others."""
        return self._epsilon(unit, _releases(event for entry in entries for event in entry.events))

    def _take(self, entry: Entry, chain: bytes) -> None:
        self._entries.append(entry)
        self._times.append(entry.time)
        self._released.append(_releases(entry.events))
        self._chains.append(chain)
        self._trainings.add(entry.training)

    def _now(self) -> int:
        return max(self._clock(), self._times[-1] if self._times else 0)

    def _at(self, at: int) -> list[Release]:
        """Return what was released in the period that ends at ``at``; without a budget in all time."""
        start = 0 if self.budget is None else bisect_right(self._times, at - self.budget.period)
        return [*every.from_iterable(self._released[start : bisect_right(self._times, at)])]

    def _exceeds(self, budget: Budget, unit: Unit, releases: Sequence[Release]) -> bool:
        # The quick account is never below the other one, which is asked only where the quick one is too much.
        return all(
            self._epsilon(unit, releases, account) > budget.epsilon
            for account in (accountant.coarse_epsilon, accountant.epsilon)
        )

    def _epsilon(
        self, unit: Unit, releases: Iterable[Release], account: Account = accountant.epsilon
    ) -> float:
        grouped = grouped_releases(event for event in releases if unit == "record" or event.unit == "silo")
        if not grouped:
            return 0.0
        known = self._known.get((account, unit, grouped))
        if known is None:
            delta = (self.budget or Budget()).delta
            known = account(grouped, delta=delta, unit=unit)
            if len(self._known) == _ACCOUNTS:
                del self._known[next(iter(self._known))]
            self._known[account, unit, grouped] = known
        return known

    def _refusal(self, budget: Budget, unit: Unit, new: Sequence[Release], now: int) -> str:
        would = self._epsilon(unit, [*self._at(now), *new])
        bare = self.unprotected
        beside = f"; sums without differential privacy, which it does not cover: {bare}" if bare else ""
        text = (
            f"unit {unit}: with this release epsilon would be {would:.4g} within {budget.period_days} days; "
            f"the budget is {budget.epsilon:g} at delta {budget.delta:g}, and {self.spent(unit, now):.4g} of "
            f"it is spent{beside}. "
        )
        if self._exceeds(budget, unit, new):
            return text + "It is more than the whole budget: plan the run with more noise or fewer rounds"
        ends = [time + budget.period for time in self._times if time + budget.period > now]
        low, high = 0, len(ends) - 1  # At the last of them everything before is free.
        while low < high:
            middle = (low + high) // 2
            if self._exceeds(budget, unit, [*self._at(ends[middle]), *new]):
                low = middle + 1
            else:
                high = middle
        free = datetime.fromtimestamp(ends[low], UTC)
        return text + f"Enough is free again from {free:%Y-%m-%d %H:%M} UTC: wait, or plan with more noise"


def _releases(events: Iterable[Event]) -> list[Release]:
    return [event for event in events if isinstance(event, Release)]
