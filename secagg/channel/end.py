"""One end of a channel: bytes from the other end in, what they mean out.

Who drives it carries bytes both ways, in order, and knows when a record may leave. A fault is raised once and
ends the channel.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar, cast

from secagg import wire
from secagg.channel.handshake import Ends, Offering, Proving
from secagg.channel.messages import Begin, Finished, Inside, Offer, Piece, Proof, Stopped
from secagg.channel.pieces import Joined
from secagg.channel.records import Opener, Sealer
from secagg.errors import FaultySilo, FaultySiloOrCoordinator, MalformedMessage, UsageError
from secagg.hazmat.identity import IdentityKey
from secagg.names import RandomSource
from secagg.payload import Frame

M = TypeVar("M", Offer, Proof)


@dataclass(frozen=True)
class Reply:
    """``data`` goes to the other end; the handshake goes on."""

    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Opened:
    """The other end is who it should be; records may be sealed."""


@dataclass(frozen=True)
class Arrived:
    """A whole frame."""

    frame: Frame = field(repr=False)


Event: TypeAlias = Reply | Opened | Arrived | Finished | Stopped


@dataclass(frozen=True)
class _Open:
    opener: Opener = field(repr=False)
    joined: Joined = field(repr=False)


@dataclass(frozen=True)
class _Ended:
    pass


class Channel:
    """One end.

    Args:
        ends: who speaks, and what both agree on.
        identity: of this end.
        largest: bytes that a frame of the other end may have.
        random: for the ephemeral key; ``os.urandom`` but in tests.

    Guarantees:
        No frame comes out before the other end is authenticated, and each as it was sealed, once, in order.
        ``Finished`` or ``Stopped`` is the last that comes out; if neither did, something may be missing.
    """

    def __init__(
        self, ends: Ends, identity: IdentityKey, *, largest: int, random: RandomSource = os.urandom
    ) -> None:
        self._ends = ends
        self._identity = identity
        self._largest = largest
        begun = Offering.begin(ends, random=random)
        self._state: Offering | Proving | _Open | _Ended = begun
        self._sealer: Sealer | None = None
        self.first = wire.encode(begun.offer)[0]
        """What is sent to the other end first."""

    @property
    def open(self) -> bool:
        """Whether records may be sealed: the other end is authenticated, the last word not said here."""
        return self._sealer is not None

    def seal(self, message: Inside) -> bytes:
        """Return the record that holds ``message``; records leave in the order in which they were sealed.

        Raises:
            UsageError: the channel is not open, or had all its records.
        """
        if self._sealer is None:
            raise UsageError("a channel seals nothing before it is open, and nothing after the last word")
        record = self._sealer.seal(message)
        if isinstance(message, Finished | Stopped):
            self._sealer = None
        return record

    def receive(self, data: bytes) -> Event | None:
        """Take what the other end sent next; None if it completes nothing.

        Raises:
            FaultySilo: the other end left the protocol.
            FaultySiloOrCoordinator: it did, or it was not the other end who sent this.
        """
        state, self._state = self._state, _Ended()  # Unless what follows does not raise.
        match state:
            case Offering():
                proving = state.answer(self._decoded(data, Offer), self._identity)
                self._state = proving
                return Reply(wire.encode(proving.proof)[0])
            case Proving():
                self._sealer, opener = state.check(self._decoded(data, Proof))
                self._state = _Open(opener, Joined(self._largest))
                return Opened()
            case _Open():
                event = self._opened(state, data)
                if not isinstance(event, Finished | Stopped):
                    self._state = state
                return event
            case _Ended():
                raise FaultySiloOrCoordinator(self._ends.other, "it speaks after its end")

    def _opened(self, state: _Open, data: bytes) -> Event | None:
        match state.opener.open(data):
            case Begin() | Piece() as part:
                try:
                    frame = state.joined.take(part)
                except MalformedMessage as fault:
                    raise FaultySilo(self._ends.other, str(fault)) from None
                return None if frame is None else Arrived(frame)
            case Finished() if state.joined.under_way:
                raise FaultySilo(self._ends.other, "it ended within a message")
            case last:
                return last

    def _decoded(self, data: bytes, kind: type[M]) -> M:
        try:
            return cast(M, wire.decode_as(data, None, cast(Any, kind)))
        except MalformedMessage:
            raise FaultySiloOrCoordinator(
                self._ends.other, f"its {kind.__name__} of the handshake was due, something else came"
            ) from None
