"""The sender of an intersection: it answers, and learns second or not at all.

Its set is hidden from a receiver, whatever that sends, up to as many identifiers as it asks about: all other
tags are those of points raised to an exponent that is drawn for this session (one-more gap Diffie-Hellman,
hashing as a random oracle: Jarecki, Liu 2010, "Fast secure computation of set intersection"). So a limit on
the size of a query is a limit on what can be learned. What the receiver says of matches is believed: one that
leaves the protocol can have places revealed that did not match, which tells it no more than its query could,
and can make the sender's result wrong. ``smallest_intersection`` holds for one that follows the protocol.

Source: see ``receiver``.
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
from secagg.psi.tags import TAG, TAG_SIZE, tags_of
from secagg.psi.terms import IntersectionPolicy, IntersectionTerms


@dataclass(frozen=True)
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


State: TypeAlias = Told | Outcome | None


class SenderSession:
    """One intersection, from the sender's side; no I/O.

    Args:
        terms: that both agreed on.
        identifiers: the sender's.
        policy: its own limits.
        powers: computes.
        random: for the exponent, the order and the padding.
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

    def receive(self, message: FromReceiver) -> tuple[FromSender, ...]:
        """Take what the receiver says; return what is to be said to it, in this order.

        Raises:
            FaultySilo: the receiver left the protocol.
            PolicyRefused: the query is larger than is allowed here, or fewer are shared than one of the two
                lets be revealed. If it is this party, the receiver is to be told ``Withheld``.
            UnexpectedMessage: it is not the turn of such a message.
        """
        match self._state, message:
            case None, Query(points):
                self._state, replies = self._told(points)
                return replies
            case Told() as state, Matched(matches):
                self._state, reply = self._revealed(state, matches)
                return (reply,)
            case Told() as state, Counted(count) if self._terms.reveal == "count":
                if count > min(len(state.order), len(self._identifiers)):
                    raise self._faulty("it counted more than there are")
                self._check(count)
                self._state = Outcome(count=count)
                return ()
            case Told(), Withheld():
                raise PolicyRefused(
                    "smallest intersection",
                    f"fewer are shared than {self._terms.receiver} lets be revealed",
                )
            case _:
                raise UnexpectedMessage(f"{type(message).__name__} from {self._terms.receiver} is not due")

    def _told(self, points: Payload) -> tuple[Told, tuple[FromSender, ...]]:
        size = points.size // POINT_SIZE
        if points.dtype != "u1" or points.size % POINT_SIZE or size != padded(size):
            raise self._faulty("its query is not of whole points, or not padded")
        self._policy.check_set(self._terms.receiver, size)
        exponent, order = Exponent.generate(self._random), random_order(size, self._random)
        asked = points.array().reshape(size, POINT_SIZE)[order]
        try:
            evaluated = self._powers.of_points(asked.tobytes(), exponent)
        except MalformedMessage as error:
            raise self._faulty(str(error)) from error
        tags, holders = self._own_tags(exponent)
        told = Told(order, tags, holders)
        return told, (
            Evaluated(Payload.of(np.frombuffer(evaluated, np.uint8))),
            Tags(Payload.of(tags.view(np.uint8))),
        )

    def _own_tags(self, exponent: Exponent) -> tuple[NDArray[np.bytes_], NDArray[np.int64]]:
        known = self._identifiers.encoded
        points = self._powers.of_messages(known, self._terms.digest, exponent)
        padding = np.frombuffer(self._random(TAG_SIZE * (padded(len(known)) - len(known))), TAG)
        tags = np.concatenate([tags_of(points, self._terms.digest), padding])
        holders = np.argsort(tags)
        return tags[holders], holders

    def _revealed(self, state: Told, payload: Payload) -> tuple[Outcome, Revealed]:
        matches = payload.array()
        if payload.dtype != "u4" or len(matches) != len(state.order) or self._terms.reveal == "count":
            raise self._faulty("it told matches of another number of points, or was to tell the number only")
        shared = np.flatnonzero(matches)
        if self._terms.reveal == "both":
            if len(shared) and matches.max() > len(state.tags):
                raise self._faulty("it matched a tag that there is not")
            shared = shared[np.argsort(matches[shared])]
            at = matches[shared].astype(np.int64) - 1
            mine = state.holders[at]
            if len(np.unique(at)) != len(at) or (mine >= len(self._identifiers)).any():
                raise self._faulty("it matched a tag twice, or padding")
            rows, digest = self._identifiers.rows[mine], order_digest(self._terms, state.tags[at])
            outcome = Outcome(count=len(shared), rows=rows, digest=digest)
        else:
            if (matches > 1).any() or len(shared) > len(self._identifiers):
                raise self._faulty("it told which matched, which it was not to, or more than there are")
            outcome = Outcome(count=len(shared))
        self._check(len(shared))
        places = np.full(len(state.order), NOWHERE, np.uint32)
        places[shared] = state.order[shared]
        return outcome, Revealed(Payload.of(places))

    def _check(self, count: int) -> None:
        if not self._policy.reveals(count):
            raise PolicyRefused(
                "smallest intersection",
                f"fewer than {self._policy.smallest_intersection} records are shared",
            )

    def _faulty(self, text: str) -> FaultySilo:
        return FaultySilo(self._terms.receiver, text)
