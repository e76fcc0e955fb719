"""The leader of an intersection of many: it asks every follower once, and learns what all parties have.

For an identifier of its own it gets from each follower's table the follower's share of zero, if the follower
has the identifier, and noise if not. Only where all have it do the shares cancel; who lacks it does not show.

Source: see ``follower``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from secagg.errors import FaultySilo, PolicyRefused, UnexpectedMessage, UsageError
from secagg.hazmat.agreement import AgreementKey
from secagg.hazmat.curve import Exponent
from secagg.names import SiloId
from secagg.payload import Payload
from secagg.psi.draws import Draws, fresh
from secagg.psi.identifiers import Identifiers
from secagg.psi.many.follower import shared_tags
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
from secagg.psi.okvs import Words, decode, table_length
from secagg.psi.outcome import Ended, Outcome, order_digest
from secagg.psi.party import Party
from secagg.psi.powers import Powers
from secagg.psi.sets import check_evaluated, raised, with_padding
from secagg.psi.sizes import padded
from secagg.psi.tags import TAG, TAG_SIZE
from secagg.psi.terms import IntersectionPolicy, withheld


@dataclass(frozen=True)
class Meeting:
    """Waits for the public keys of the followers, ``known`` so far."""

    key: AgreementKey
    known: Mapping[SiloId, bytes] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Asked:
    """The query is out.

    Attributes:
        exponent: of the query.
        known: what stands at each place of the query: the identifiers, then padding.
        total: of shares, and of tables and values that are in.
        values: of followers whose table is due.
        heard: followers whose table is in.
    """

    exponent: Exponent
    known: Sequence[bytes] = field(repr=False)
    total: Words = field(repr=False)
    values: Mapping[SiloId, Words] = field(default_factory=dict, repr=False)
    heard: frozenset[SiloId] = frozenset()


State: TypeAlias = Meeting | Asked | Outcome | Ended


class LeaderSession(Party[ManyTerms]):
    """One intersection of many, from the leader's side; see ``Party``.

    Raises:
        PolicyRefused: the terms are below its own limits.
    """

    _state: State

    def __init__(
        self,
        terms: ManyTerms,
        identifiers: Identifiers,
        *,
        policy: IntersectionPolicy,
        powers: Powers,
        draws: Draws = fresh,
    ) -> None:
        terms.check(policy)
        super().__init__(terms, identifiers, policy=policy, powers=powers, draws=draws)
        self._state = Meeting(AgreementKey.generate(draws("agreement")))

    def open(self) -> Introduced:
        """Return what every follower is told.

        Raises:
            UsageError: this session is under way.
        """
        if not isinstance(self._state, Meeting):
            raise UsageError("this intersection was begun before; each one is a session of its own")
        return Introduced(self._state.key.public)

    def receive(self, sender: SiloId, message: FromFollower) -> FromLeader | None:
        """Take what ``sender`` says; return what is to be said to every follower.

        Raises:
            FaultySilo: the sender left the protocol.
            PolicyRefused: a set is larger than is allowed here, a follower says no more by a rule of its own,
                or too few are shared. Then followers that were to learn are to be told ``Withheld``.
            UnexpectedMessage: it is not the turn of such a message, or not of this sender.
        """
        with self._until_refused():
            self._state, reply = self._received(sender, message)
        return reply

    def _received(self, sender: SiloId, message: FromFollower) -> tuple[State, FromLeader | None]:
        followers = set(self._terms.followers)
        match self._state, message:
            case Meeting(key, known), Introduced(public) if sender in followers - known.keys():
                known = {**known, sender: checked(sender, public)}
                return self._asked(key, known) if known.keys() == followers else (Meeting(key, known), None)
            case Asked() as state, EvaluatedInOrder(points) if (
                sender in followers - state.values.keys() - state.heard
            ):
                values = self._evaluated(state, sender, points)
                return replace(state, values={**state.values, sender: values}), None
            case Asked() as state, Table() if sender in state.values:
                state = self._added(state, sender, message)
                return self._learned(state) if state.heard == followers else (state, None)
            case ((Meeting() | Asked()), Withheld(rule)) if sender in followers:
                raise withheld(sender, rule)
            case _:
                raise UnexpectedMessage(f"{type(message).__name__} from {sender} is not due")

    def _asked(self, key: AgreementKey, others: Mapping[SiloId, bytes]) -> tuple[Asked, Query]:
        # Places say nothing: nobody is ever told of one.
        known = with_padding(self._identifiers, self._draws("padding"))
        exponent = Exponent.generate(self._draws("exponent"))
        shares = zero_shares(pair_keys(self._terms, self._terms.leader, key, others), known)
        points = self._powers.of_messages(known, self._terms.digest, exponent)
        query = Query(self._terms.digest, Payload.of(np.frombuffer(points, np.uint8)))
        return Asked(exponent, known, shares), query

    def _evaluated(self, state: Asked, sender: SiloId, payload: Payload) -> Words:
        check_evaluated(sender, payload, len(state.known))
        powers = raised(sender, payload.array(), state.exponent.inverse, self._powers)
        return hidden_by(self._terms, sender, powers)

    def _added(self, state: Asked, sender: SiloId, table: Table) -> Asked:
        entries, length = table.entries, table_length(table.keys)
        if entries.dtype != "u8" or entries.length != 2 * length or table.keys != padded(table.keys):
            raise FaultySilo(sender, "its table has another length than its keys need, or is not padded")
        self._policy.check_set(sender, table.keys)
        added = decode(entries.array().reshape(length, 2), state.known, seed=table.seed)
        left = {name: values for name, values in state.values.items() if name != sender}
        total = state.total ^ added ^ state.values[sender]
        return replace(state, total=total, values=left, heard=state.heard | {sender})

    def _learned(self, state: Asked) -> tuple[Outcome, Shared | None]:
        mine = np.flatnonzero((state.total[: len(self._identifiers)] == 0).all(axis=1))
        if len(mine) < self._terms.smallest_intersection:
            raise PolicyRefused(
                "smallest intersection",
                f"fewer than {self._terms.smallest_intersection} records are with all parties",
            )
        draw = self._draws("tags")
        key = draw(32)
        tags = shared_tags(key, self._identifiers)[mine]
        order = np.argsort(tags)
        digest = order_digest(self._terms.digest, tags[order])
        outcome = Outcome(count=len(mine), rows=self._identifiers.rows[mine[order]], digest=digest)
        if self._terms.reveal == "leader":
            return outcome, None
        padding = np.frombuffer(draw(TAG_SIZE * (len(state.known) - len(tags))), TAG)
        told = np.sort(np.concatenate([tags, padding]))
        return outcome, Shared(key, Payload.of(told.view(np.uint8)))
