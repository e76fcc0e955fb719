"""The receiver of an intersection: it asks, and learns first.

Its set is hidden from the sender by an exponent that is drawn for this session. The sender sees points that
nobody tells from random ones without it (DDH in the group of Curve25519, hashing as a random oracle), padded,
in random order. What the sender says is believed: one that leaves the protocol can make the result wrong.

Source: De Cristofaro, Gasti, Tsudik 2012, "Fast and private computation of cardinality of set intersection
and union", figure 1; which places matched is told afterwards, once both let it be.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secagg.errors import FaultySilo, MalformedMessage, PolicyRefused, UnexpectedMessage
from secagg.hazmat.curve import POINT_SIZE, Exponent
from secagg.names import RandomSource
from secagg.payload import Payload
from secagg.psi.identifiers import Identifiers
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
from secagg.psi.outcome import Outcome, order_digest
from secagg.psi.powers import Powers
from secagg.psi.shuffling import random_order
from secagg.psi.sizes import padded
from secagg.psi.tags import as_tags, tags_of
from secagg.psi.terms import IntersectionPolicy, IntersectionTerms


@dataclass(frozen=True)
class Asked:
    """The query is out. ``order``: which identifier, or padding, stands at each place of it."""

    exponent: Exponent
    order: NDArray[np.int64] = field(repr=False)


@dataclass(frozen=True)
class Answered:
    """The evaluated points are back. ``mine``: their tags."""

    order: NDArray[np.int64] = field(repr=False)
    mine: NDArray[np.bytes_] = field(repr=False)


@dataclass(frozen=True)
class Matching:
    """Waits to be told which. ``shared``: places of evaluated points that matched, in the order of tags."""

    order: NDArray[np.int64] = field(repr=False)
    shared: NDArray[np.int64] = field(repr=False)
    digest: bytes


State: TypeAlias = Asked | Answered | Matching | Outcome | None


class ReceiverSession:
    """One intersection, from the receiver's side; no I/O.

    Args:
        terms: that both agreed on.
        identifiers: the receiver's.
        policy: its own limits.
        powers: computes.
        random: for the exponent, the order and the padding.

    Raises:
        PolicyRefused: the receiver's own set is larger than the largest that is allowed here.
    """

    def __init__(
        self,
        terms: IntersectionTerms,
        identifiers: Identifiers,
        *,
        policy: IntersectionPolicy,
        powers: Powers,
        random: RandomSource = os.urandom,
    ) -> None:
        self._terms = terms
        self._identifiers = identifiers
        self._policy = policy
        self._powers = powers
        self._random = random
        self._state: State = None

    @property
    def outcome(self) -> Outcome | None:
        """What was learned, at the end."""
        return self._state if isinstance(self._state, Outcome) else None

    def open(self) -> Query:
        """Return the query."""
        if self._state is not None:
            raise UnexpectedMessage("this intersection was begun before")
        known = list(self._identifiers.encoded)
        size = padded(len(known))
        # No identifier begins like this: the length of a part comes first, and is less.
        known += [b"\xff\xff" + self._random(32) for _ in range(size - len(known))]
        order = random_order(size, self._random)
        exponent = Exponent.generate(self._random)
        points = self._powers.of_messages([known[at] for at in order], self._terms.digest, exponent)
        self._state = Asked(exponent, order)
        return Query(Payload.of(np.frombuffer(points, np.uint8)))

    def receive(self, message: FromSender) -> FromReceiver | None:
        """Take what the sender says; return what is to be said to it.

        Raises:
            FaultySilo: the sender left the protocol.
            PolicyRefused: fewer are shared than one of the two lets be revealed. If it is this party, the
                sender is to be told ``Withheld``.
            UnexpectedMessage: it is not the turn of such a message.
        """
        match self._state, message:
            case Asked() as state, Evaluated(points):
                self._state = self._answered(state, points)
                return None
            case Answered() as state, Tags(tags):
                self._state, reply = self._matched(state, tags)
                return reply
            case Matching() as state, Revealed(places):
                self._state = self._revealed(state, places)
                return None
            case ((Answered() | Matching()), Withheld()):
                raise PolicyRefused(
                    "smallest intersection", f"fewer are shared than {self._terms.sender} lets be revealed"
                )
            case _:
                raise UnexpectedMessage(f"{type(message).__name__} from {self._terms.sender} is not due")

    def _answered(self, state: Asked, points: Payload) -> Answered:
        if points.size != len(state.order) * POINT_SIZE:
            raise self._faulty("it evaluated another number of points than it was asked about")
        try:
            evaluated = self._powers.of_points(points.array().tobytes(), state.exponent.inverse)
        except MalformedMessage as error:
            raise self._faulty(str(error)) from error
        return Answered(state.order, tags_of(evaluated, self._terms.digest))

    def _matched(self, state: Answered, payload: Payload) -> tuple[State, FromReceiver]:
        theirs = as_tags(payload)
        if theirs is None or len(theirs) != padded(len(theirs)):
            raise self._faulty("its tags are not in ascending order, repeat, or are not padded")
        self._policy.check_set(self._terms.sender, len(theirs))
        at = np.minimum(np.searchsorted(theirs, state.mine), len(theirs) - 1)
        found = theirs[at] == state.mine
        count = int(found.sum())
        if not self._policy.reveals(count):
            raise PolicyRefused(
                "smallest intersection",
                f"fewer than {self._policy.smallest_intersection} records are shared",
            )
        if self._terms.reveal == "count":
            return Outcome(count=count), Counted(count)
        places = np.flatnonzero(found)
        shared = places[np.argsort(at[places])]
        matches = np.zeros(len(found), np.uint32)
        matches[places] = 1 + at[places] if self._terms.reveal == "both" else 1
        digest = order_digest(self._terms, theirs[at[shared]])
        return Matching(state.order, shared, digest), Matched(Payload.of(matches))

    def _revealed(self, state: Matching, payload: Payload) -> Outcome:
        if payload.dtype != "u4" or payload.length != len(state.order):
            raise self._faulty("it told places of another number of points")
        places = payload.array()[state.shared]
        told = np.flatnonzero(payload.array() != NOWHERE)
        if not np.array_equal(told, np.sort(state.shared)) or places.max() >= len(state.order):
            raise self._faulty("it told other places than those that matched")
        mine = state.order[places]
        if len(np.unique(mine)) != len(mine) or mine.max() >= len(self._identifiers):
            raise self._faulty("it told a place twice, or that padding matched")
        return Outcome(count=len(mine), rows=self._identifiers.rows[mine], digest=state.digest)

    def _faulty(self, text: str) -> FaultySilo:
        return FaultySilo(self._terms.sender, text)
