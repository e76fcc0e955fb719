"""The receiver of an intersection: it asks, and learns first.

Its set is hidden from the sender by an exponent that is drawn for this session: points under it are random to
whoever lacks it (DDH in the group of Curve25519, hashing as a random oracle), padded, in random order. A
sender that leaves the protocol can make the result wrong, and can learn of single identifiers that it puts
into its own set: what it is told of matches it may read as answers to other questions. See docs/psi.md.

Source: after De Cristofaro, Gasti, Tsudik 2012, "Fast and private computation of cardinality of set
intersection and union"; which places matched is told afterwards, once both let it be.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secagg.errors import FaultySilo, UnexpectedMessage, UsageError
from secagg.hazmat.curve import Exponent
from secagg.payload import Payload
from secagg.psi.messages import (
    NOWHERE,
    Counted,
    Evaluated,
    FromReceiver,
    FromSender,
    Matched,
    Query,
    Revealed,
    Tags,
    Withheld,
)
from secagg.psi.outcome import Ended, Outcome, order_digest
from secagg.psi.party import Party
from secagg.psi.sets import check_evaluated, raised, with_padding
from secagg.psi.shuffling import random_order
from secagg.psi.tags import as_tags, tags_of
from secagg.psi.terms import IntersectionTerms, withheld


@dataclass(frozen=True)
class Ready:
    """Nothing is said yet."""


@dataclass(frozen=True, eq=False)
class Asked:
    """The query is out. ``order``: which identifier, or padding, stands at each place of it."""

    exponent: Exponent
    order: NDArray[np.int64] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Answered:
    """The evaluated points are back. ``mine``: their tags."""

    order: NDArray[np.int64] = field(repr=False)
    mine: NDArray[np.bytes_] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Matching:
    """Waits to be told which. ``shared``: places of evaluated points that matched, in the order of tags."""

    order: NDArray[np.int64] = field(repr=False)
    shared: NDArray[np.int64] = field(repr=False)
    digest: bytes


State: TypeAlias = Ready | Asked | Answered | Matching | Outcome | Ended


class ReceiverSession(Party[IntersectionTerms]):
    """One intersection of two, from the receiver's side; see ``Party``."""

    _state: State = Ready()

    def open(self) -> Query:
        """Return the query.

        Raises:
            UsageError: this session was begun before.
        """
        if not isinstance(self._state, Ready):
            raise UsageError("this intersection was begun before; each one is a session of its own")
        known = with_padding(self._identifiers, self._draws("padding"))
        order = random_order(len(known), self._draws("order"))
        exponent = Exponent.generate(self._draws("exponent"))
        points = self._powers.of_messages([known[at] for at in order], self._terms.digest, exponent)
        self._state = Asked(exponent, order)
        return Query(self._terms.digest, Payload.of(np.frombuffer(points, np.uint8)))

    def receive(self, message: FromSender) -> FromReceiver | None:
        """Take what the sender says; return what is to be said to it.

        Raises:
            FaultySilo: the sender left the protocol.
            PolicyRefused: the sender's set is larger than is allowed here, or fewer are shared than one of
                the two lets be revealed. If it is this party, the sender is to be told ``Withheld``.
            UnexpectedMessage: it is not the turn of such a message.
        """
        with self._until_refused():
            self._state, reply = self._received(message)
        return reply

    def _received(self, message: FromSender) -> tuple[State, FromReceiver | None]:
        match self._state, message:
            case Asked() as state, Evaluated(points):
                return self._answered(state, points), None
            case Answered() as state, Tags(tags):
                return self._matched(state, tags)
            case Matching() as state, Revealed(places):
                return self._revealed(state, places), None
            case ((Asked() | Matching()), Withheld(rule)):
                raise withheld(self._terms.sender, rule)
            case Outcome(), Withheld(rule) if self._terms.reveal == "count":
                raise withheld(self._terms.sender, rule)
            case _:
                raise UnexpectedMessage(f"{type(message).__name__} from {self._terms.sender} is not due")

    def _answered(self, state: Asked, payload: Payload) -> Answered:
        check_evaluated(self._terms.sender, payload, len(state.order))
        powers = raised(self._terms.sender, payload.array(), state.exponent.inverse, self._powers)
        return Answered(state.order, tags_of(powers, self._terms.digest))

    def _matched(self, state: Answered, payload: Payload) -> tuple[State, FromReceiver]:
        theirs = as_tags(self._terms.sender, payload, self._policy)
        at = np.minimum(np.searchsorted(theirs, state.mine), len(theirs) - 1)
        found = theirs[at] == state.mine
        count = int(found.sum())
        self._policy.check_shared(count)
        if self._terms.reveal == "count":
            return Outcome(count=count), Counted(count.to_bytes(4, "little"))
        places = np.flatnonzero(found)
        shared = places[np.argsort(at[places])]
        matches = np.zeros(len(found), np.uint32)
        matches[places] = 1 + at[places] if self._terms.reveal == "both" else 1
        digest = order_digest(self._terms.digest, theirs[at[shared]])
        return Matching(state.order, shared, digest), Matched(Payload.of(matches))

    def _revealed(self, state: Matching, payload: Payload) -> Outcome:
        if payload.dtype != "u4" or payload.length != len(state.order):
            raise self._faulty("it told places of another number of points")
        told = payload.array()
        places = told[state.shared]
        if (
            not np.array_equal(np.flatnonzero(told != NOWHERE), np.sort(state.shared))
            or (places >= len(state.order)).any()
        ):
            raise self._faulty("it told other places than those that matched")
        mine = state.order[places]
        if len(np.unique(mine)) != len(mine) or (mine >= len(self._identifiers)).any():
            raise self._faulty("it told a place twice, or that padding matched")
        return Outcome(count=len(mine), rows=self._identifiers.rows[mine], digest=state.digest)

    def _faulty(self, text: str) -> FaultySilo:
        return FaultySilo(self._terms.sender, text)
