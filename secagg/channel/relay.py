"""What travels between one silo and the coordinator in a meeting. The coordinator sees sizes of records.

From one party to another at most ``WINDOW`` bytes are under way: the receiver says what it has taken, and
the sender sends no more until then. So whoever reads slowly holds up nobody but whoever writes to it, and for
it the coordinator holds no more than that.

Source: ``docs/wire.md``, "Meetings of silos"; RFC 9113, section 5.2, for such windows.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from secagg import wire
from secagg.channel.messages import MAX_RECORD
from secagg.errors import MalformedMessage
from secagg.link.frames import Count, Version
from secagg.messages import Part
from secagg.terms import Digest, Name

MEETINGS = "secagg.v1.Meetings"
MAX_PARTIES = 10
WINDOW = 4 * MAX_RECORD
"""Cost of the records of one party to another that are under way, at the most."""
RESERVE = 4096
"""The part of it that only a last word, ``Finished`` or ``Stopped``, may use."""
OVERHEAD = 256
"""What a record costs beside its bytes, so that many small ones are no way around the window."""
MAX_FRAME = MAX_RECORD + 1024

Cost = Annotated[int, msgspec.Meta(ge=1, le=WINDOW)]
Parties = Annotated[tuple[Name, ...], msgspec.Meta(min_length=2, max_length=MAX_PARTIES)]


class Join(Part, frozen=True, tag=True):
    """Silo to coordinator, first on every stream.

    Attributes:
        protocol: version of these frames.
        version: of the software, for people.
        roster: digest of the roster that is pinned at the silo.
        meeting: its name.
        parties: all of them, in the order that all of them give.
    """

    protocol: Count
    version: Version
    roster: Digest
    meeting: Name
    parties: Parties


class Missing(Part, frozen=True, tag=True):
    """Coordinator to silo, again whenever it changes: these have not joined."""

    parties: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=MAX_PARTIES)]


class Met(Part, frozen=True, tag=True):
    """Coordinator to silo: all have joined, and records may be sent."""


class Record(Part, frozen=True, tag=True):
    """Silo to coordinator, for ``party``; coordinator to silo, from ``party``."""

    party: Name
    data: Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_RECORD)]

    def __repr__(self) -> str:
        return f"Record({self.party}, {len(self.data)} bytes)"


class Taken(Part, frozen=True, tag=True):
    """Silo to coordinator: I took so much of ``party``'s; back: ``party`` took so much of yours."""

    party: Name
    cost: Cost


class Leave(Part, frozen=True, tag=True):
    """Silo to coordinator, last: I have said all, and need nothing more."""


class Left(Part, frozen=True, tag=True):
    """Coordinator to silo: ``party`` left after all that came from it."""

    party: Name


FromParty: TypeAlias = Join | Record | Taken | Leave
FromRelay: TypeAlias = Missing | Met | Record | Taken | Left


def cost(data: bytes) -> int:
    """Return what a record counts for."""
    return len(data) + OVERHEAD


def encode(frame: FromParty | FromRelay) -> bytes:
    """Return the bytes of ``frame``."""
    return wire.encode(frame)[0]


def decode_from_party(data: bytes) -> FromParty:
    """Return the frame that a silo sent.

    Raises:
        MalformedMessage: whatever is wrong with the bytes, and nothing else.
    """
    _check_size(data)
    frame: FromParty = wire.decode_as(data, None, FromParty)
    return frame


def decode_from_relay(data: bytes) -> FromRelay:
    """Return the frame that the coordinator sent.

    Raises:
        MalformedMessage: whatever is wrong with the bytes, and nothing else.
    """
    _check_size(data)
    frame: FromRelay = wire.decode_as(data, None, FromRelay)
    return frame


def _check_size(data: bytes) -> None:
    if len(data) > MAX_FRAME:
        raise MalformedMessage(f"a frame of {len(data)} bytes; at most {MAX_FRAME} are taken")
