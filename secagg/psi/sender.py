"""The sender of an intersection: it answers, and learns second or not at all.

Its set is hidden from a receiver, whatever that sends, up to as many identifiers as it asks about: all other
tags are those of points raised to an exponent that is drawn for this session (one-more gap Diffie-Hellman,
hashing as a random oracle: Jarecki, Liu 2010, "Fast secure computation of set intersection"). So a limit on
the size of a query is a limit on what can be learned. What the receiver says of matches is believed: one that
leaves the protocol can have places revealed that did not match, which tells it no more than its query could,
and can make the sender's result wrong.

Source: see ``receiver``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secagg.errors import FaultySilo, UnexpectedMessage
from secagg.hazmat.curve import POINT_SIZE, Exponent
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
from secagg.psi.sets import check_query, raised, with_padding
from secagg.psi.shuffling import random_order
from secagg.psi.tags import tags_of
from secagg.psi.terms import IntersectionTerms, withheld


@dataclass(frozen=True)
class Ready:
    """Nothing was computed or asked yet."""


@dataclass(frozen=True, eq=False)
class Own:
    """Its own set is computed, for whatever query comes. Fields: see ``Told``."""

    exponent: Exponent
    tags: NDArray[np.bytes_] = field(repr=False)
    holders: NDArray[np.int64] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Told:
    """The answer is out.

    Attributes:
        order: which place of the query stands at each place of the evaluated points.
        tags: all, ascending.
        holders: which identifier each tag is of; beyond them, padding.
    """

    order: NDArray[np.int64] = field(repr=False)
    tags: NDArray[np.bytes_] = field(repr=False)
    holders: NDArray[np.int64] = field(repr=False)


State: TypeAlias = Ready | Own | Told | Outcome | Ended


class SenderSession(Party[IntersectionTerms]):
    """One intersection of two, from the sender's side; see ``Party``."""

    _state: State = Ready()

    def prepare(self) -> None:
        """Compute what takes no query; a receiver on another machine raises its points meanwhile."""
        if isinstance(self._state, Ready):
            self._state = self._own()

    def receive(self, message: FromReceiver) -> tuple[FromSender, ...]:
        """Take what the receiver says; return what is to be said to it, in this order.

        Raises:
            FaultySilo: the receiver left the protocol, or agreed on other terms.
            PolicyRefused: the query is larger than is allowed here, or fewer are shared than one of the two
                lets be revealed. If it is this party, the receiver is to be told ``Withheld`` and the rule.
            UnexpectedMessage: it is not the turn of such a message.
        """
        with self._until_refused():
            self._state, replies = self._received(message)
        return replies

    def _received(self, message: FromReceiver) -> tuple[State, tuple[FromSender, ...]]:
        match self._state, message:
            case (Ready() | Own()) as state, Query(terms, points):
                if terms != self._terms.digest:
                    raise self._faulty("it agreed on another session, other parties, rules or results")
                check_query(self._terms.receiver, points, self._policy)
                return self._told(points, self._own() if isinstance(state, Ready) else state)
            case Told() as state, Matched(matches):
                return self._revealed(state, matches)
            case Told() as state, Counted(count) if self._terms.reveal == "count":
                return self._counted(state, int.from_bytes(count, "little")), ()
            case Told(), Withheld(rule):
                raise withheld(self._terms.receiver, rule)
            case _:
                raise UnexpectedMessage(f"{type(message).__name__} from {self._terms.receiver} is not due")

    def _own(self) -> Own:
        exponent = Exponent.generate(self._draws("exponent"))
        # What pads takes as long as what it pads, or the time would tell the size.
        known = with_padding(self._identifiers, self._draws("padding"))
        tags = tags_of(self._powers.of_messages(known, self._terms.digest, exponent), self._terms.digest)
        holders = np.argsort(tags)
        return Own(exponent, tags[holders], holders)

    def _told(self, payload: Payload, own: Own) -> tuple[Told, tuple[FromSender, ...]]:
        told, evaluated = self._evaluated(payload, own)
        return told, (evaluated, Tags(Payload.of(told.tags.view(np.uint8))))

    def _evaluated(self, payload: Payload, own: Own) -> tuple[Told, Evaluated]:
        points = payload.array().reshape(-1, POINT_SIZE)
        order = random_order(len(points), self._draws("order"))
        powers = raised(self._terms.receiver, points[order], own.exponent, self._powers)
        return Told(order, own.tags, own.holders), Evaluated(Payload.of(np.frombuffer(powers, np.uint8)))

    def _counted(self, state: Told, count: int) -> Outcome:
        if count > min(len(state.order), len(self._identifiers)):
            raise self._faulty("it counted more than there are")
        self._policy.check_shared(count)
        return Outcome(count=count)

    def _revealed(self, state: Told, payload: Payload) -> tuple[Outcome, tuple[FromSender, ...]]:
        reveal = self._terms.reveal
        if payload.dtype != "u4" or payload.length != len(state.order) or reveal == "count":
            raise self._faulty("it told matches of another number of points, or was to tell the number only")
        matches = payload.array()
        shared = np.flatnonzero(matches)
        if reveal == "both":
            if (matches > len(state.tags)).any():
                raise self._faulty("it matched a tag that there is not")
            shared = shared[np.argsort(matches[shared])]
            at = matches[shared].astype(np.int64) - 1
            mine = state.holders[at]
            if len(np.unique(at)) != len(at) or (mine >= len(self._identifiers)).any():
                raise self._faulty("it matched a tag twice, or padding")
            digest = order_digest(self._terms.digest, state.tags[at])
            outcome = Outcome(count=len(shared), rows=self._identifiers.rows[mine], digest=digest)
        else:
            if (matches > 1).any() or len(shared) > len(self._identifiers):
                raise self._faulty("it told which matched, which it was not to, or more than there are")
            outcome = Outcome(count=len(shared))
        self._policy.check_shared(len(shared))
        places = np.full(len(state.order), NOWHERE, np.uint32)
        places[shared] = state.order[shared]
        return outcome, (Revealed(Payload.of(places)),)

    def _faulty(self, text: str) -> FaultySilo:
        return FaultySilo(self._terms.receiver, text)
