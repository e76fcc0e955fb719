"""Attack ``psi_collusion``: a leader of many and followers put together all that they hold, against the rest.

They know their own keys, exponents and sets, and what each of them was told. For each identifier of the query
they take what the leader gets from an honest follower's table, and add up what any of them shares with that
follower: with the keys of all, of some, of none, and with keys that two honest ones would have if one of them
had a key of theirs. Where nothing is left, they know who has the identifier. What all honest ones have of
the query they learn in this way, and nothing prevents that; what only some of these have, and how much, they
must not learn. And they ask the tables for identifiers that were not in the query, with every exponent of
theirs in the place of the one that they do not know.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest

from secagg.hazmat.agreement import AgreementKey
from secagg.hazmat.curve import POINT_SIZE, Exponent
from secagg.messages import Said
from secagg.names import RandomSource, SiloId
from secagg.psi.draws import SEED_SIZE, Seeded
from secagg.psi.identifiers import read_identifiers
from secagg.psi.many import follower, leader
from secagg.psi.many.messages import EvaluatedInOrder, Introduced, Table
from secagg.psi.many.shares import pair_keys, zero_shares
from secagg.psi.many.terms import ManyTerms
from secagg.psi.many.values import hidden_by
from secagg.psi.okvs import Words, decode
from tests.psi.parties import ONE_CORE
from tests.psi.sessions_of_many import meet
from tests.psi.test_many import terms_of

ASKED = range(100)
"""What the leader has."""
OFF = range(2000, 2040)
"""What it does not have, and followers do."""
SETS: Mapping[SiloId, Sequence[int]] = {
    "a": ASKED,
    "b": [*range(60), *OFF],
    "c": [*range(10, 95), *OFF],
    "d": [*range(40, 90), *OFF],
    "e": [*range(20, 70), *OFF],
}
"""In the order in which they are named; the leader is first."""
ROUNDS = {"abc": "c", "abcd": "bd", "abcde": "bde"}
"""All parties, and which of them are honest."""


class Coalition:
    """What some parties have after an intersection, the leader among them.

    Args:
        names: of all parties, the leader first.
        honest: who is not in it.

    Attributes:
        terms: of the intersection.
        asked: the identifiers of the leader.
        agreement: member -> its key of this session.
        exponents: that members drew.
    """

    def __init__(self, names: str, honest: str) -> None:
        self.terms = terms_of(names)
        self.members = [name for name in names if name not in honest]
        self._heard: dict[SiloId, list[Said]] = {name: [] for name in honest}
        seeds = {name: os.urandom(SEED_SIZE) for name in names}
        meet(self.terms, SETS, self._hear, draws={name: Seeded(seed) for name, seed in seeds.items()})
        # All that a party draws comes from its seed, as in a session that may be resumed.
        own = {name: (leader if name == names[0] else follower, Seeded(seeds[name])) for name in self.members}
        self.agreement = {
            name: party.AgreementKey.generate(draws("agreement")) for name, (party, draws) in own.items()
        }
        exponents = [party.Exponent.generate(draws("exponent")) for party, draws in own.values()]
        self._back = exponents[0].inverse
        self.exponents = [each for one in exponents for each in (one, one.inverse)]
        self.asked = read_identifiers(SETS[names[0]]).encoded

    def _hear(self, sender: SiloId, to: SiloId, message: Said, _size: int) -> None:
        if to in self.members and sender in self._heard:
            self._heard[sender].append(message)

    def told(self, honest: SiloId, kind: type[Said]) -> Any:
        """Return the first message of a kind that one of the coalition heard."""
        return next(each for each in self._heard[honest] if isinstance(each, kind))

    def looked_up(self, honest: SiloId, identifiers: Sequence[bytes]) -> Words:
        """Return what a table gives."""
        table = self.told(honest, Table)
        return decode(table.entries.array().reshape(-1, 2), identifiers, seed=table.seed)

    def shares_asked(self, honest: SiloId) -> Words:
        """Return what a table gives for the query, without what the follower's exponent makes of it."""
        points = self.told(honest, EvaluatedInOrder).points.array().tobytes()
        raised = ONE_CORE.of_points(points, self._back)[: len(self.asked) * POINT_SIZE]
        return self.looked_up(honest, self.asked) ^ hidden_by(self.terms, honest, raised)

    def hidings(self, honest: SiloId, identifiers: Sequence[bytes]) -> Iterator[Words]:
        """Yield what could hide a follower's shares: nothing, or what an exponent of one's own makes."""
        yield np.zeros((len(identifiers), 2), np.uint64)
        for exponent in self.exponents:
            points = ONE_CORE.of_messages(identifiers, self.terms.digest, exponent)
            yield hidden_by(self.terms, honest, points)

    def shared_with(self, honest: Sequence[SiloId], identifiers: Sequence[bytes]) -> Iterator[Words]:
        """Yield sums of what one shares with these followers, and of what they could share with each other.

        The last is that of all in the coalition, and of nobody else.
        """
        public = {name: self.told(name, Introduced).key for name in self._heard}
        keys = {
            (member, name): pair_keys(self.terms, member, key, {name: public[name]})[name]
            for member, key in self.agreement.items()
            for name in honest
        }
        between = [
            pair_keys(self.terms, name, key, {other: public[other]})[other]
            for key in self.agreement.values()
            for name in honest
            for other in self._heard.keys() - {name}
        ]
        for guess in (*between, None):
            for some in subsets(self.members):
                known = [keys[member, name] for member in some for name in honest]
                known += [] if guess is None else [guess]
                yield zero_shares({f"{at}": key for at, key in enumerate(known)}, identifiers)


def subsets(names: Sequence[SiloId]) -> list[tuple[SiloId, ...]]:
    """Return all, from the empty one to the whole."""
    sizes = range(len(names) + 1)
    return list(chain.from_iterable(combinations(names, size) for size in sizes))


def added(values: Iterable[Words]) -> Words:
    total: Words = np.bitwise_xor.reduce(list(values))
    return total


def zeros(values: Words) -> list[int]:
    """Return where there is nothing."""
    return np.flatnonzero((values == 0).all(axis=1)).tolist()


def attack(names: str, honest: str) -> None:
    pool, off = Coalition(names, honest), read_identifiers(OFF).encoded
    _, *parts, everybody = subsets(list(honest))
    for some in parts:
        of_some = added(pool.shares_asked(name) for name in some)
        for shared in pool.shared_with(some, pool.asked):
            assert not zeros(of_some ^ shared), f"they learn what {' and '.join(some)} have of the query"
            assert len(np.unique(of_some ^ shared, axis=0)) == len(pool.asked), (
                "values tell that they are alike"
            )
    for some in (*parts, everybody):
        given = added(pool.looked_up(name, off) for name in some)
        hidden = list(map(added, zip(*(pool.hidings(name, off) for name in some), strict=True)))
        for shared in pool.shared_with(some, off):
            for hiding in hidden:
                assert not zeros(given ^ hiding ^ shared), "they find what the leader did not ask about"
    # The attack is one: it finds what is not hidden from them.
    *_, shared = pool.shared_with(everybody, pool.asked)
    found = zeros(added(pool.shares_asked(name) for name in everybody) ^ shared)
    assert found == sorted(set(ASKED).intersection(*(SETS[name] for name in honest)))


@pytest.mark.parametrize("names", ROUNDS)
def test_psi_collusion(names: str) -> None:
    attack(names, ROUNDS[names])


def no_shares(_: Mapping[SiloId, bytes], identifiers: Sequence[bytes]) -> Words:
    return np.zeros((len(identifiers), 2), np.uint64)


def one_share_for_all(keys: Mapping[SiloId, bytes], identifiers: Sequence[bytes]) -> Words:
    return np.repeat(zero_shares(keys, [b""]), len(identifiers), axis=0)


def with_neighbours(
    terms: ManyTerms, mine: SiloId, key: AgreementKey, others: Mapping[SiloId, bytes]
) -> dict[SiloId, bytes]:
    """Share with the party before and the one after this one: zero over all, and fewer keys to compute."""
    ring, at = terms.parties, terms.parties.index(mine)
    next_to = (ring[at - 1], ring[(at + 1) % len(ring)])
    return pair_keys(terms, mine, key, {name: public for name, public in others.items() if name in next_to})


def bare(_terms: ManyTerms, _follower: SiloId, points: bytes) -> Words:
    return np.zeros((len(points) // POINT_SIZE, 2), np.uint64)


class OneExponent(Exponent):
    """An exponent that every follower has."""

    @classmethod
    def generate(cls, random: RandomSource = os.urandom) -> Exponent:
        return _EXPONENT


class OneKey(AgreementKey):
    """A key that every follower has."""

    @classmethod
    def generate(cls, random: RandomSource = os.urandom) -> AgreementKey:
        return _KEY


_EXPONENT, _KEY = Exponent.generate(), AgreementKey.generate()
BOTH = ("leader", "follower")


@pytest.mark.parametrize(
    ("where", "defence", "mutant", "names", "found"),
    [
        (BOTH, "pair_keys", with_neighbours, "abcd", "what b have of the query"),
        (BOTH, "zero_shares", no_shares, "abcd", "what b have of the query"),
        (BOTH, "zero_shares", one_share_for_all, "abcd", "that they are alike"),
        (["follower"], "AgreementKey", OneKey, "abcd", "what b have of the query"),
        (BOTH, "hidden_by", bare, "abcd", "did not ask about"),
        (["follower"], "Exponent", OneExponent, "abc", "did not ask about"),
    ],
)
def test_psi_collusion_mutant(
    monkeypatch: pytest.MonkeyPatch,
    where: Sequence[str],
    defence: str,
    mutant: object,
    names: str,
    found: str,
) -> None:
    for side in where:
        monkeypatch.setattr(f"secagg.psi.many.{side}.{defence}", mutant)
    with pytest.raises(AssertionError, match=found):
        attack(names, ROUNDS[names])
