"""What the two ends of a channel say to each other: two messages in clear, then what is inside of records.

Source: ``docs/wire.md``, "Meetings of silos".
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from secagg.messages import Key, Said, Signature
from secagg.wire import MAX_HEADER_SIZE, MAX_LENGTH

MAX_RECORD = 1024 * 1024
"""Bytes of one sealed record at the most."""
MAX_DATA = MAX_RECORD - 256
"""Bytes of a frame in one record; the rest is for the tag and the message around them."""

Data = Annotated[bytes, msgspec.Meta(max_length=MAX_DATA)]
RULE_SIZE = 64
Rule = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9 ._-]{64}\Z")]
Reason: TypeAlias = Literal["policy", "faulty", "others", "mishap"]
"""Words of one length, as rules are filled up to one: no size of a last word tells which it is."""


class Offer(Said, frozen=True, tag=True):
    """First: a key that is used for this channel and no other."""

    ephemeral: Key


class Proof(Said, frozen=True, tag=True):
    """Second: the identity's signature over all that the two must agree on; see ``handshake``."""

    signature: Signature


class Begin(Said, frozen=True, tag=True):
    """A frame begins. Its bytes are those of the header, then those of the payload.

    Attributes:
        header: bytes of the header.
        payload: bytes of the payload; None if it has none.
        data: the first bytes of the frame.
    """

    header: Annotated[int, msgspec.Meta(ge=0, le=MAX_HEADER_SIZE)]
    payload: Annotated[int, msgspec.Meta(ge=0, le=8 * MAX_LENGTH)] | None
    data: Data


class Piece(Said, frozen=True, tag=True):
    """The next bytes of the frame."""

    data: Data


class Finished(Said, frozen=True, tag=True):
    """My side ended well; no frame follows."""


class Stopped(Said, frozen=True, tag=True):
    """I end this, and nothing follows.

    Attributes:
        why: ``"policy"``: a rule of mine; ``"faulty"``: you left the protocol; ``"others"``: another one did,
            or stopped; ``"mishap"``: something else at my place.
        rule: of my policy, by name, filled up with blanks; nothing but blanks if there is none to name.
    """

    why: Reason
    rule: Rule = " " * RULE_SIZE

    @classmethod
    def by(cls, rule: str) -> Stopped:
        """Return that ``rule`` of this party's policy stopped it."""
        return cls("policy", rule.ljust(RULE_SIZE))


Inside: TypeAlias = Begin | Piece | Finished | Stopped
"""What a record holds."""
