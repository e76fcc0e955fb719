"""People, businesses and their accounts at ten banks of very different size.

What it is: who exists before any payment is made. A person has one id and up to three accounts, each at
another bank. Some banks are for households, some for businesses, some for the wealthy, so what is usual at
one is unusual at the next.

What it does not do: it models no country. All names are invented.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Bank:
    """One data holder.

    Attributes:
        name: its silo id.
        share: of all accounts, roughly; 0 to 1.
        business: how much more a business is drawn to it than a household.
        wealth: factor on the amounts that its customers pay.
    """

    name: str
    share: float
    business: float
    wealth: float


BANKS = (
    Bank("granite", 0.29, business=1.0, wealth=1.0),
    Bank("harbour", 0.18, business=1.3, wealth=1.2),
    Bank("meadow", 0.13, business=0.6, wealth=0.8),
    Bank("orchard", 0.10, business=1.0, wealth=1.0),
    Bank("beacon", 0.08, business=2.0, wealth=2.0),
    Bank("summit", 0.065, business=0.4, wealth=0.6),
    Bank("willow", 0.055, business=1.0, wealth=1.5),
    Bank("ember", 0.045, business=0.5, wealth=0.5),
    Bank("quarry", 0.035, business=2.5, wealth=3.0),
    Bank("lantern", 0.02, business=1.0, wealth=1.0),
)

BUSINESSES = 0.06
"""Share of people who are a business (a legal person is one, too)."""
SEVERAL, THREE = 0.35, 0.10
"""Share of people with accounts at two banks or more, and at three."""
ACQUAINTANCES = 4
"""Accounts that one account pays privately, the same in every month."""


@dataclass(frozen=True, eq=False)
class Society:
    """All accounts; the index of an account in these arrays is its number.

    Attributes:
        person: int64, shape (accounts,), the id of the holder; accounts of one person stand together, the
            first of them is where a household's salary arrives.
        bank: int64, shape (accounts,), index into ``BANKS``; no person has two accounts at one bank.
        business: bool, shape (accounts,).
        scale: float64, shape (accounts,), factor on the amounts of its ordinary payments.
        activity: float64, shape (accounts,), how readily it pays, power-law.
        popularity: float64, shape (accounts,), how readily it is paid, power-law with a heavier tail.
        circle: int64, shape (accounts, ACQUAINTANCES), accounts of acquaintances.
    """

    person: NDArray[np.int64]
    bank: NDArray[np.int64]
    business: NDArray[np.bool_]
    scale: NDArray[np.float64]
    activity: NDArray[np.float64]
    popularity: NDArray[np.float64]
    circle: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.person)


def settle(people: int, random: np.random.Generator) -> Society:
    """Let ``people`` persons open their accounts."""
    is_business = random.random(people) < BUSINESSES
    how_many = random.random(people)
    several = 1 + (how_many < SEVERAL).astype(np.int64) + (how_many < THREE)
    # The first of exponential clocks that run at these rates is a draw in proportion to them; the first k are
    # k draws without repetition.
    rates = np.array([[bank.share, bank.share * bank.business] for bank in BANKS]).T[is_business.astype(int)]
    order = np.argsort(-np.log1p(-random.random((people, len(BANKS)))) / rates, axis=1, kind="stable")
    person = np.repeat(np.arange(people), several)
    first = np.repeat(np.cumsum(several) - several, several)
    n = len(person)
    bank = order[person, np.arange(n) - first]
    business = is_business[person]
    wealth = np.array([bank.wealth for bank in BANKS])[bank]
    return Society(
        person=person,
        bank=bank,
        business=business,
        scale=wealth * np.exp(0.4 * random.standard_normal(n)),
        activity=np.minimum(_pareto(n, 1.8, random), 40) * np.where(business, 3.0, 1.0),
        popularity=np.minimum(_pareto(n, 1.1, random), 2_000),
        circle=(random.random((n, ACQUAINTANCES)) * n).astype(np.int64),
    )


def _pareto(n: int, exponent: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Values of at least 1 whose survival function falls with ``exponent``, shape (n,)."""
    return np.asarray((1 - random.random(n)) ** (-1 / exponent))
