"""What the two parties of an intersection say to each other, in the order of the protocol.

No size of a message tells how many records are shared, so that whoever carries them sealed does not learn it.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from secagg.messages import Said
from secagg.payload import Payload
from secagg.psi.terms import Limit
from secagg.terms import Digest

Count = Annotated[bytes, msgspec.Meta(min_length=4, max_length=4)]
"""A number, little-endian, in as many bytes whatever it is."""

NOWHERE = 0xFFFF_FFFF
"""A place that is not told."""


class Query(Said, frozen=True, tag=True):
    """Receiver to sender: its identifiers' points under its exponent, in random order, padded; u1.

    ``terms``: the digest of what it was told to agree on.
    """

    terms: Digest
    points: Payload


class Evaluated(Said, frozen=True, tag=True):
    """Sender to receiver: the points of the query under the sender's exponent too, in another order; u1."""

    points: Payload


class Tags(Said, frozen=True, tag=True):
    """Sender to receiver: the tags of the sender's identifiers, ascending, padded; u1."""

    tags: Payload


class Matched(Said, frozen=True, tag=True):
    """Receiver to sender: for each evaluated point 0, or that its tag is among the sender's; u4.

    Where both learn which, that is 1 + the place of the tag; where the receiver alone does, it is 1.
    """

    matches: Payload


class Revealed(Said, frozen=True, tag=True):
    """Sender to receiver: for each evaluated point that matched, its place in the query, else NOWHERE; u4."""

    places: Payload


class Counted(Said, frozen=True, tag=True):
    """Receiver to sender, where only the number is asked for."""

    count: Count


class Withheld(Said, frozen=True, tag=True):
    """A party to another: by this rule of mine I say no more."""

    rule: Limit


FromReceiver: TypeAlias = Query | Matched | Counted | Withheld
FromSender: TypeAlias = Evaluated | Tags | Revealed | Withheld
