"""Attack ``psi_pairwise``: learn what only some of several parties share.

The leader gets from each follower's table a value for each of its own identifiers. It adds up those of some
followers and compares the sum with what it can compute by itself: nothing, and its own part of their shares.
Where that tells members of their sets from others, it knows what some share, and how much. And it asks the
tables about identifiers that it did not ask the followers about, and which of these cannot be in them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest

from secagg.hazmat.agreement import AgreementKey
from secagg.hazmat.curve import POINT_SIZE
from secagg.names import RandomSource, SiloId
from secagg.psi.identifiers import read_identifiers
from secagg.psi.many.leader import Asked, LeaderSession
from secagg.psi.many.messages import Table
from secagg.psi.many.shares import pair_keys, zero_shares
from secagg.psi.many.terms import ManyTerms
from secagg.psi.okvs import Words, decode, encode
from tests.psi.test_many import parties

# Some share much, all little: of the leader's records most are some followers', 4 are everybody's. And the
# followers share what the leader does not have.
OFF = range(2000, 2050)
SETS = {
    "a": range(100),
    "b": [*range(60), *OFF],
    "c": [*range(40, 100), *OFF],
    "d": [*range(56, 90), *range(20), *OFF],
}


class Curious(LeaderSession):
    """A leader that keeps what it saw.

    Attributes:
        keys: that it has with each follower.
        given: follower -> what its table gives for each identifier of the query.
        tables: follower -> the table.
    """

    def _asked(self, key: AgreementKey, others: Mapping[SiloId, bytes]) -> Any:
        self.given: dict[SiloId, Words] = {}
        self.tables: dict[SiloId, Table] = {}
        self.keys = pair_keys(self._terms, self._terms.leader, key, others)
        return super()._asked(key, others)

    def _added(self, state: Asked, sender: SiloId, table: Table) -> Asked:
        self.given[sender] = looked_up(table, state.known) ^ state.values[sender]
        self.tables[sender] = table
        self.known = state.known
        return super()._added(state, sender, table)


def looked_up(table: Table, identifiers: Sequence[bytes]) -> Words:
    return decode(table.entries.array().reshape(-1, 2), identifiers, seed=table.seed)


def zeros(values: Words) -> int:
    return int((values == 0).all(axis=1).sum())


def run() -> Curious:
    here = parties(SETS, leading=Curious)
    here.run()
    leader = here.leader
    assert isinstance(leader, Curious)
    assert leader.outcome is not None
    assert leader.outcome.count == 4
    return leader


def test_psi_pairwise() -> None:
    leader = run()
    for some in chain.from_iterable(combinations(leader.keys, size) for size in (1, 2)):
        total = np.bitwise_xor.reduce([leader.given[follower] for follower in some])
        own = zero_shares({follower: leader.keys[follower] for follower in some}, leader.known)
        assert zeros(total) == zeros(total ^ own) == 0, (
            f"the leader sees what it shares with {' and '.join(some)}"
        )
        # Nor do two values say that they are alike.
        assert len(np.unique(total, axis=0)) == len(total)


def test_tables_say_nothing_of_what_was_not_asked() -> None:
    leader = run()
    guessed = read_identifiers(OFF).encoded
    total = np.bitwise_xor.reduce([looked_up(table, guessed) for table in leader.tables.values()])
    assert zeros(total ^ zero_shares(leader.keys, guessed)) == 0, "the leader sees what followers share"


def test_tables_rule_nobody_out() -> None:
    leader = run()
    guessed = read_identifiers(range(10_000, 11_000)).encoded
    for follower, table in leader.tables.items():
        # What no identifier of a follower decides must look like what one does.
        ruled_out = zeros(looked_up(table, guessed)) + zeros(table.entries.array().reshape(-1, 2))
        assert ruled_out == 0, f"the leader sees whom {follower} does not have"


def no_shares(_: Mapping[SiloId, bytes], identifiers: Sequence[bytes]) -> Words:
    return np.zeros((len(identifiers), 2), np.uint64)


def with_the_leader_only(
    terms: ManyTerms, mine: SiloId, key: AgreementKey, others: Mapping[SiloId, bytes]
) -> dict[SiloId, bytes]:
    return pair_keys(terms, mine, key, {terms.leader: others[terms.leader]})


@pytest.mark.parametrize("defence", ["zero_shares", "pair_keys"])
def test_psi_pairwise_mutant(monkeypatch: pytest.MonkeyPatch, defence: str) -> None:
    if defence == "zero_shares":
        monkeypatch.setattr("secagg.psi.many.follower.zero_shares", no_shares)
        monkeypatch.setattr("secagg.psi.many.leader.zero_shares", no_shares)
    else:
        monkeypatch.setattr("secagg.psi.many.follower.pair_keys", with_the_leader_only)
    with pytest.raises(AssertionError, match="the leader sees what it shares"):
        test_psi_pairwise()


def bare(_terms: ManyTerms, _follower: SiloId, points: bytes) -> Words:
    return np.zeros((len(points) // POINT_SIZE, 2), np.uint64)


def test_tables_say_nothing_of_what_was_not_asked_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secagg.psi.many.follower.hidden_by", bare)
    monkeypatch.setattr("secagg.psi.many.leader.hidden_by", bare)
    with pytest.raises(AssertionError, match="the leader sees what followers share"):
        test_tables_say_nothing_of_what_was_not_asked()


def filled_with_zeros(
    keys: Sequence[bytes], values: Words, *, random: RandomSource = os.urandom
) -> tuple[bytes, Words]:
    return encode(keys, values, random=bytes)


def test_tables_rule_nobody_out_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secagg.psi.many.follower.encode", filled_with_zeros)
    with pytest.raises(AssertionError, match="the leader sees whom b does not have"):
        test_tables_rule_nobody_out()
