"""Attack ``psi_pairwise``: learn what only some of several parties share.

The leader gets from each follower's table a value for each of its own identifiers. It compares them with what
it can compute by itself: nothing, and its own part of that follower's share. Where that tells the members of
the follower's set from others, the leader knows what the two of them share, and how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from secagg.hazmat.agreement import AgreementKey
from secagg.names import SiloId
from secagg.psi.many.leader import Asked, LeaderSession
from secagg.psi.many.messages import Table
from secagg.psi.many.shares import pair_keys, zero_shares
from secagg.psi.many.terms import ManyTerms
from secagg.psi.okvs import Words, decode
from tests.psi.test_many import parties

# Pairs share much, all three little: 60 and 44 of the leader's with each follower, 4 with both.
SETS = {"a": range(100), "b": range(60), "c": [*range(56, 100), *range(500, 516)]}


class Curious(LeaderSession):
    """A leader that keeps what it saw.

    Attributes:
        keys: that it has with each follower.
        given: follower -> what its table gives for each identifier of the query.
    """

    def _asked(self, key: AgreementKey, others: Mapping[SiloId, bytes]) -> Any:
        self.given: dict[SiloId, Words] = {}
        self.keys = pair_keys(self._terms, self._terms.leader, key, others)
        return super()._asked(key, others)

    def _added(self, state: Asked, sender: SiloId, table: Table) -> Asked:
        words = table.entries.array().reshape(-1, 2)
        found = decode(words, state.known, entries=table.keys, seed=table.seed)
        self.given[sender] = found ^ state.values[sender]
        self.known = state.known
        return super()._added(state, sender, table)


def hits(values: Words, guess: Words) -> int:
    return int((values == guess).all(axis=1).sum())


def test_psi_pairwise() -> None:
    here = parties(SETS, leading=Curious)
    here.run()
    leader = here.leader
    assert isinstance(leader, Curious)
    assert leader.outcome is not None
    assert leader.outcome.count == 4
    for follower, key in leader.keys.items():
        given, nothing = leader.given[follower], np.zeros((len(leader.known), 2), np.uint64)
        own = zero_shares({follower: key}, leader.known)
        assert hits(given, nothing) == hits(given, own) == 0, (
            f"the leader sees what it shares with {follower}"
        )
        # Nor do two values of one table say that they are alike.
        assert len(np.unique(given, axis=0)) == len(given)


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
