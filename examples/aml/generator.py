"""Two months of payments at ten banks, with laundering hidden in them and the truth beside them.

What it is: a seeded world. Month 0 is for learning, month 1 is held out; every scheme begins and ends within
one month and is cast anew, so no scheme is in both. Accounts that launder also live an ordinary life. Casts
are drawn until no bank sees every payment of the scheme.

What it does not do: it calls no random function but NumPy's ``random`` and ``standard_normal`` of one seeded
generator for each stage, adds nothing up in an order that a library chooses, and rounds times and amounts to
whole seconds and cents: the same seed gives the same bytes.

Source: the patterns are AMLSim's (Weber et al. 2018; Altman et al. 2023), see ``typologies``; the code and
the honest traffic are our own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from examples.aml.payments import HOUR, MONTH, Payments, joined, ordinary_month
from examples.aml.society import BANKS, Society, settle
from examples.aml.typologies import LONGEST, TYPOLOGIES, Hub, Transfer, Typology

MONTHS = 2
LEARN, HELD_OUT = 0, 1
"""Months."""
HONEST = -1
"""Stands in place of a scheme where there is none."""


@dataclass(frozen=True)
class Scheme:
    """One laundering operation: which pattern, in which month."""

    typology: str
    month: int


@dataclass(frozen=True, eq=False)
class View:
    """All that one bank knows of one month.

    Attributes:
        accounts: int64, shape (k,), its own, rising.
        payments: those in which one of its accounts sends or receives, by time.
        sender_bank, receiver_bank: int64, shape (n,), where the accounts of each payment are held, as an
            account number tells.
        bank, month: whose view, of when.
    """

    accounts: NDArray[np.int64]
    payments: Payments
    sender_bank: NDArray[np.int64]
    receiver_bank: NDArray[np.int64]
    bank: int
    month: int


@dataclass(frozen=True, eq=False)
class World:
    """Everything, the truth included. A bank gets a ``View``, and labels of its own accounts.

    Attributes:
        society: who holds which account where.
        payments: all, by time.
        scheme: int64, shape (n,), for each payment the index into ``schemes``, or HONEST.
        schemes: all laundering operations.
    """

    society: Society
    payments: Payments
    scheme: NDArray[np.int64]
    schemes: tuple[Scheme, ...]

    def view(self, bank: int, month: int) -> View:
        """Return what ``bank`` (index into BANKS) sees of ``month``."""
        sender_bank = self.society.bank[self.payments.sender]
        receiver_bank = self.society.bank[self.payments.receiver]
        seen = (self.payments.time // MONTH == month) & ((sender_bank == bank) | (receiver_bank == bank))
        return View(
            accounts=np.flatnonzero(self.society.bank == bank),
            payments=self.payments.take(seen),
            sender_bank=sender_bank[seen],
            receiver_bank=receiver_bank[seen],
            bank=bank,
            month=month,
        )

    def laundering(self, month: int) -> NDArray[np.int64]:
        """Return each account's scheme in ``month``, or HONEST, int64, shape (accounts,).

        No account is in two schemes of one month.
        """
        found = np.full(len(self.society), HONEST)
        part = (self.scheme != HONEST) & (self.payments.time // MONTH == month)
        found[self.payments.sender[part]] = self.scheme[part]
        found[self.payments.receiver[part]] = self.scheme[part]
        return found


def generate(seed: int, *, people: int = 20_000, schemes: int = 6) -> World:
    """Make a world. Same arguments, same bytes.

    Args:
        seed: at least 0.
        people: persons and businesses, at least 1,000; they hold about 1.45 accounts each.
        schemes: of each typology in each month, 1 to people / 500; more would leave too few to be cast.
    """
    if people < 1_000 or not 1 <= schemes <= people // 500:
        raise ValueError(f"{people} people and {schemes} schemes; see the docstring")
    # A statistical generator, because the world is to be the same for the same seed; nothing here is secret.
    society = settle(people, np.random.default_rng([seed, 0]))
    kinds: list[Scheme] = []
    parts: list[Payments] = []
    labels: list[NDArray[np.int64]] = []
    for month in range(MONTHS):
        begins = month * MONTH
        ordinary = ordinary_month(society, np.random.default_rng([seed, 1, month]))
        parts.append(_shifted(ordinary, begins))
        labels.append(np.full(len(ordinary), HONEST))
        random = np.random.default_rng([seed, 2, month])
        casting = _Casting(society, random)
        for name, typology in TYPOLOGIES.items():
            for _ in range(schemes):
                transfers = casting.scheme(typology)
                offset = begins + random.random() * (MONTH - LONGEST * HOUR)
                parts.append(_placed(transfers, offset))
                labels.append(np.full(len(transfers), len(kinds)))
                kinds.append(Scheme(name, month))
    payments, scheme = joined(parts), np.concatenate(labels)
    order = np.lexsort((payments.cents, payments.receiver, payments.sender, payments.time))
    return World(society, payments.take(order), scheme[order], tuple(kinds))


class _Casting:
    """Draws people for the schemes of one month; nobody is cast twice."""

    def __init__(self, society: Society, random: np.random.Generator) -> None:
        self._bank = society.bank
        self._random = random
        people = int(society.person[-1]) + 1
        self._first = np.searchsorted(society.person, np.arange(people + 1))
        self._free = np.ones(people, np.bool_)

    def scheme(self, typology: Typology) -> list[Transfer]:
        """Return the payments of one scheme that no bank sees as a whole."""
        while True:
            size = typology.fewest + int(self._random.random() * (typology.most - typology.fewest + 1))
            cast: list[int] = []
            hubs = [self._hub(cast) for _ in range(typology.hubs)]
            members = [self._member(cast) for _ in range(size)]
            transfers = typology.flow(hubs, members, self._random)
            if not self._one_bank_sees_all(transfers):
                self._free[cast] = False
                return transfers

    def _person(self, cast: list[int], *, accounts: int) -> int:
        """Return a person who is free and has at least so many accounts."""
        while True:
            person = int(self._random.random() * len(self._free))
            held = self._first[person + 1] - self._first[person]
            if self._free[person] and person not in cast and held >= accounts:
                cast.append(person)
                return person

    def _hub(self, cast: list[int]) -> Hub:
        first = int(self._first[self._person(cast, accounts=2)])
        return first, first + 1

    def _member(self, cast: list[int]) -> int:
        person = self._person(cast, accounts=1)
        held = self._first[person + 1] - self._first[person]
        return int(self._first[person] + int(self._random.random() * held))

    def _one_bank_sees_all(self, transfers: list[Transfer]) -> bool:
        return any(
            all(bank in (self._bank[each.sender], self._bank[each.receiver]) for each in transfers)
            for bank in range(len(BANKS))
        )


def _shifted(payments: Payments, seconds: int) -> Payments:
    return Payments(payments.time + seconds, payments.sender, payments.receiver, payments.cents)


def _placed(transfers: list[Transfer], seconds: float) -> Payments:
    """Put a scheme into the calendar, beginning at ``seconds``."""
    hours, sender, receiver, cents = (np.array(column) for column in zip(*transfers, strict=True))
    time = np.floor(seconds + hours * HOUR).astype(np.int64)
    return Payments(time, *(column.astype(np.int64) for column in (sender, receiver, cents)))
