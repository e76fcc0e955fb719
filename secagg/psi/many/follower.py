"""A follower of an intersection of many: it evaluates the leader's query and hides its own set in a table.

The leader learns of it whether it has an identifier only together with whether all others have, and of no
more identifiers than its query has points. Parties are taken to follow the protocol: one that does not can
make the result wrong. A leader that colludes with followers learns what all the others have of its query.

Source: after Kolesnikov, Matania, Pinkas, Rosulek, Trieu 2017, "Practical multi-party private set
intersection from symmetric-key techniques" (unconditional zero-sharing), over the oblivious function of
Jarecki, Liu 2010 and the store of ``okvs``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from secagg.errors import FaultySilo, ParameterError, UnexpectedMessage, UsageError
from secagg.hazmat.agreement import AgreementKey
from secagg.hazmat.curve import POINT_SIZE, Exponent
from secagg.names import SiloId
from secagg.payload import Payload
from secagg.psi.draws import Draws, fresh
from secagg.psi.identifiers import Identifiers
from secagg.psi.many.messages import (
    EvaluatedInOrder,
    FromFollower,
    FromLeader,
    Introduced,
    Shared,
    Table,
)
from secagg.psi.many.shares import checked, pair_keys, zero_shares
from secagg.psi.many.terms import ManyTerms
from secagg.psi.many.values import hidden_by
from secagg.psi.messages import Query, Withheld
from secagg.psi.okvs import encode
from secagg.psi.outcome import Ended, Outcome, order_digest
from secagg.psi.party import Party
from secagg.psi.powers import Powers
from secagg.psi.sets import check_query, raised, with_padding
from secagg.psi.tags import TAG, TAG_SIZE, as_tags
from secagg.psi.terms import IntersectionPolicy, withheld


@dataclass(frozen=True)
class Meeting:
    """Waits for the public keys of the others, ``known`` so far, and for the query."""

    key: AgreementKey
    known: Mapping[SiloId, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Answered:
    """Waits for what all have. ``size``: bytes of the query's points."""

    size: int


State: TypeAlias = Meeting | Answered | Outcome | Ended


class FollowerSession(Party[ManyTerms]):
    """One intersection of many, from the side of the follower ``name``; see ``Party``.

    A driver holds the leader's query back until every other party has introduced itself.

    Raises:
        ParameterError: the terms name no such follower.
        PolicyRefused: the terms are below its own limits.
    """

    _state: State

    def __init__(
        self,
        terms: ManyTerms,
        name: SiloId,
        identifiers: Identifiers,
        *,
        policy: IntersectionPolicy,
        powers: Powers,
        draws: Draws = fresh,
    ) -> None:
        if name not in terms.followers:
            raise ParameterError(f"{name} is no follower here: {', '.join(terms.followers)}")
        terms.check(policy)
        super().__init__(terms, identifiers, policy=policy, powers=powers, draws=draws)
        self._name = name
        self._state = Meeting(AgreementKey.generate(draws("agreement")))

    def open(self) -> Introduced:
        """Return what every other party is told.

        Raises:
            UsageError: this session is under way.
        """
        if not isinstance(self._state, Meeting):
            raise UsageError("this intersection was begun before; each one is a session of its own")
        return Introduced(self._state.key.public)

    def receive(self, sender: SiloId, message: FromLeader | FromFollower) -> tuple[FromFollower, ...]:
        """Take what ``sender`` says; return what is to be said to the leader, in this order.

        Raises:
            FaultySilo: the sender left the protocol, or agreed on other terms.
            PolicyRefused: the query is larger than is allowed here, or too few are shared.
            UnexpectedMessage: it is not the turn of such a message, or not of this sender.
        """
        with self._until_refused():
            self._state, replies = self._received(sender, message)
        return replies

    def _received(
        self, sender: SiloId, message: FromLeader | FromFollower
    ) -> tuple[State, tuple[FromFollower, ...]]:
        leads = sender == self._terms.leader
        match self._state, message:
            case Meeting(key, known), Introduced(public) if sender in set(self.others) - known.keys():
                return Meeting(key, {**known, sender: checked(sender, public)}), ()
            case Meeting(key, known), Query(terms, points) if leads and known.keys() == set(self.others):
                if terms != self._terms.digest:
                    raise FaultySilo(sender, "it agreed on another session, other parties, rules or results")
                check_query(sender, points, self._policy)
                self._count_others(points)
                answer = self._answer(pair_keys(self._terms, self._name, key, known), points)
                return Answered(points.length) if self._terms.reveal == "all" else Ended(), answer
            case Answered(size), Shared(key, tags) if leads:
                return self._told(key, tags, size), ()
            case Answered(), Withheld(rule) if leads:
                raise withheld(sender, rule)
            case _:
                raise UnexpectedMessage(f"{type(message).__name__} from {sender} is not due")

    @property
    def others(self) -> tuple[SiloId, ...]:
        """Every other party, the leader first."""
        return tuple(party for party in self._terms.parties if party != self._name)

    def _count_others(self, points: Payload) -> None:
        # Each follower that learns what all have learns of at most so many records of this party, too.
        if self._terms.reveal == "all":
            for follower in self.others[1:]:
                self._policy.check_set(follower, points.length // POINT_SIZE)

    def _answer(self, keys: Mapping[SiloId, bytes], payload: Payload) -> tuple[FromFollower, ...]:
        exponent = Exponent.generate(self._draws("exponent"))
        powers = raised(self._terms.leader, payload.array(), exponent, self._powers)
        return EvaluatedInOrder(Payload.of(np.frombuffer(powers, np.uint8))), self._table(keys, exponent)

    def _table(self, keys: Mapping[SiloId, bytes], exponent: Exponent) -> Table:
        # What pads has a share of zero and a value like any other: nobody asks for it.
        known = with_padding(self._identifiers, self._draws("padding"))
        points = self._powers.of_messages(known, self._terms.digest, exponent)
        values = zero_shares(keys, known) ^ hidden_by(self._terms, self._name, points)
        seed, table = encode(known, values, random=self._draws("table"))
        return Table(seed, len(known), Payload.of(table.ravel()))

    def _told(self, key: bytes, payload: Payload, size: int) -> Outcome:
        leader = self._terms.leader
        theirs = as_tags(leader, payload, self._policy)
        if len(theirs) * POINT_SIZE != size:
            raise FaultySilo(leader, "it tells of another number of records than it asked about")
        mine = shared_tags(key, self._identifiers)
        found = np.isin(mine, theirs)
        if found.sum() < self._terms.smallest_intersection:
            raise FaultySilo(leader, "it tells of fewer records than were agreed on")
        order = np.argsort(mine[found])
        rows = self._identifiers.rows[found][order]
        digest = order_digest(self._terms.digest, mine[found][order])
        return Outcome(count=len(rows), rows=rows, digest=digest)


def shared_tags(key: bytes, identifiers: Identifiers) -> NDArray[np.bytes_]:
    """Return the tag of each identifier under a key that the leader drew."""
    tags = b"".join(blake3(each, key=key).digest(TAG_SIZE) for each in identifiers.encoded)
    return np.frombuffer(tags, TAG)
