"""Nine ways to launder money, each a small pure function from a cast of accounts to the payments it makes.

What it is: fan-in, fan-out, bipartite, stack, random, cycle, scatter-gather and gather-scatter, the patterns
of AMLSim under the names of Altman et al., and smurfing: many payments that all stay under the threshold
above which a bank must report. Who collects or spreads in a fan is one person with accounts at two banks.

What it does not do: it draws no accounts and places nothing in the calendar (``generator`` does), and knows
no cash, no currencies and no company registers.

Source: Weber et al. 2018, "Scalable Graph Learning for Anti-Money Laundering: A First Look" (AMLSim);
Altman et al. 2023, "Realistic Synthetic Financial Transactions for Anti-Money Laundering Models".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np

THRESHOLD = 1_000_000
"""Cents; a payment of so much or more is reported to the authorities."""

LONGEST = 480.0
"""Hours from the first payment of a scheme to its last, at the most."""


class Transfer(NamedTuple):
    """One payment of a scheme.

    Attributes:
        hours: since the scheme began, 0 to ``LONGEST``.
        sender, receiver: accounts, never the same.
        cents: amount, at least 1.
    """

    hours: float
    sender: int
    receiver: int
    cents: int


Hub: TypeAlias = tuple[int, int]
"""Two accounts of one person, at two banks."""

Flow: TypeAlias = Callable[[Sequence[Hub], Sequence[int], np.random.Generator], list[Transfer]]
"""(hubs, other accounts, random) -> payments."""


@dataclass(frozen=True)
class Typology:
    """A pattern and the cast that it needs.

    Attributes:
        flow: what the cast pays to whom.
        hubs: people who act through two accounts.
        fewest, most: accounts of other people, one each.
    """

    flow: Flow
    hubs: int
    fewest: int
    most: int


def fan_in(hubs: Sequence[Hub], members: Sequence[int], random: np.random.Generator) -> list[Transfer]:
    """All members pay one collector, half of them to each of the collector's accounts."""
    return [
        Transfer(_moment(random, 168), member, hubs[0][i % 2], _amount(3_000, random))
        for i, member in enumerate(members)
    ]


def fan_out(hubs: Sequence[Hub], members: Sequence[int], random: np.random.Generator) -> list[Transfer]:
    """One source pays all members, half of them from each of its accounts."""
    return [
        Transfer(_moment(random, 168), hubs[0][i % 2], member, _amount(3_000, random))
        for i, member in enumerate(members)
    ]


def bipartite(hubs: Sequence[Hub], members: Sequence[int], random: np.random.Generator) -> list[Transfer]:
    """Every account of one group pays every account of another."""
    half = len(members) // 2
    return _between(members[:half], members[half:], random)


def stack(hubs: Sequence[Hub], members: Sequence[int], random: np.random.Generator) -> list[Transfer]:
    """Two bipartite patterns, one upon the other: the middle group passes on what it received."""
    third = len(members) // 3
    lower = _between(members[:third], members[third : 2 * third], random)
    return lower + _passed_on(lower, members[2 * third :], random)


def random_walk(hubs: Sequence[Hub], members: Sequence[int], random: np.random.Generator) -> list[Transfer]:
    """The money goes to each member once, and now and then back to one that had it before."""
    route = [members[0]]
    for fresh in members[1:]:
        if len(route) > 2 and random.random() < 0.25:
            route.append(route[int(random.random() * (len(route) - 1))])
        route.append(fresh)
    return _chain(route, random)


def cycle(hubs: Sequence[Hub], members: Sequence[int], random: np.random.Generator) -> list[Transfer]:
    """The money goes once through all members and returns to where it began."""
    return _chain([*members, members[0]], random)


def scatter_gather(
    hubs: Sequence[Hub], members: Sequence[int], random: np.random.Generator
) -> list[Transfer]:
    """One source pays intermediaries, who all pay one destination."""
    source, *intermediaries, destination = members
    scattered = _between([source], intermediaries, random)
    return scattered + _passed_on(scattered, [destination], random)


def gather_scatter(
    hubs: Sequence[Hub], members: Sequence[int], random: np.random.Generator
) -> list[Transfer]:
    """One person gathers at one bank, moves the money to another and scatters it from there."""
    gathering, scattering = hubs[0]
    half = len(members) // 2
    gathered = [
        Transfer(_moment(random, 96), member, gathering, _amount(3_000, random)) for member in members[:half]
    ]
    moved = _passed_on(gathered, [scattering], random)
    return gathered + moved + _passed_on(moved, members[half:], random)


def smurfing(hubs: Sequence[Hub], members: Sequence[int], random: np.random.Generator) -> list[Transfer]:
    """Members pay one person at two banks, again and again, a little under the threshold every time."""
    payers = [member for member in members for _ in range(1 + int(2 * random.random()))]
    return [
        Transfer(
            _moment(random, 240), payer, hubs[0][i % 2], int(THRESHOLD * (0.80 + 0.199 * random.random()))
        )
        for i, payer in enumerate(payers)
    ]


TYPOLOGIES = {
    "fan-in": Typology(fan_in, hubs=1, fewest=6, most=14),
    "fan-out": Typology(fan_out, hubs=1, fewest=6, most=14),
    "bipartite": Typology(bipartite, hubs=0, fewest=6, most=12),
    "stack": Typology(stack, hubs=0, fewest=7, most=12),
    "random": Typology(random_walk, hubs=0, fewest=5, most=12),
    "cycle": Typology(cycle, hubs=0, fewest=4, most=12),
    "scatter-gather": Typology(scatter_gather, hubs=0, fewest=6, most=14),
    "gather-scatter": Typology(gather_scatter, hubs=1, fewest=6, most=14),
    "smurfing": Typology(smurfing, hubs=1, fewest=4, most=9),
}
"""In the order of every table and picture."""


def _moment(random: np.random.Generator, hours: float) -> float:
    return hours * random.random()


def _delay(random: np.random.Generator) -> float:
    """Hours until money that arrived goes on: a day at the most, half of the time less than seven hours."""
    return 1 + 23 * float(random.random()) ** 2


def _amount(euros: float, random: np.random.Generator) -> int:
    """Cents, log-normal around a median."""
    return max(1, round(100 * euros * float(np.exp(0.7 * random.standard_normal()))))


def _kept(cents: int, random: np.random.Generator) -> int:
    """What goes on after the mule's share of 1 to 6 per cent."""
    return max(1, int(cents * (0.94 + 0.05 * random.random())))


def _split(cents: int, ways: int, random: np.random.Generator) -> list[int]:
    """Cut an amount into parts of similar size that add up to it."""
    shares = [0.6 + 0.8 * float(random.random()) for _ in range(ways)]
    parts = [max(1, int(cents * share / sum(shares))) for share in shares[1:]]
    return [cents - sum(parts), *parts]


def _between(senders: Sequence[int], receivers: Sequence[int], random: np.random.Generator) -> list[Transfer]:
    """Every sender splits an amount over all receivers."""
    return [
        Transfer(_moment(random, 72), sender, receiver, part)
        for sender in senders
        for receiver, part in zip(
            receivers, _split(_amount(3_000 * len(receivers), random), len(receivers), random), strict=True
        )
    ]


def _passed_on(
    arrived: Iterable[Transfer], receivers: Sequence[int], random: np.random.Generator
) -> list[Transfer]:
    """Everyone who received splits it over ``receivers``, after the last of it has arrived."""
    received: dict[int, list[Transfer]] = {}
    for transfer in arrived:
        received.setdefault(transfer.receiver, []).append(transfer)
    return [
        Transfer(max(each.hours for each in transfers) + _delay(random), holder, receiver, part)
        for holder, transfers in received.items()
        for receiver, part in zip(
            receivers,
            _split(_kept(sum(each.cents for each in transfers), random), len(receivers), random),
            strict=True,
        )
    ]


def _chain(route: Sequence[int], random: np.random.Generator) -> list[Transfer]:
    """Along the route in order, less at every stop."""
    hours, cents = 0.0, _amount(8_000, random)
    transfers = []
    for sender, receiver in pairwise(route):
        transfers.append(Transfer(hours, sender, receiver, cents))
        hours, cents = hours + _delay(random), _kept(cents, random)
    return transfers
