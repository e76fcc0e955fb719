"""What parties of an intersection of many say to each other, in the order of the protocol.

Whoever reads ``Shared`` can look identifiers up in it, and whoever can change ``Introduced`` can read tables:
both go from party to party sealed and authenticated.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from secagg.messages import Key, Said
from secagg.payload import Payload
from secagg.psi.messages import Query, Withheld
from secagg.psi.sizes import LARGEST

Seed = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class Introduced(Said, frozen=True, tag=True):
    """Each party to each other: an X25519 key of this session."""

    key: Key


class EvaluatedInOrder(Said, frozen=True, tag=True):
    """Follower to leader: the points of the query under the follower's exponent too, in their order; u1."""

    points: Payload


class Table(Said, frozen=True, tag=True):
    """Follower to leader: what its identifiers become, as a store of so many keys, padding included; u8."""

    seed: Seed
    keys: Annotated[int, msgspec.Meta(ge=1, le=LARGEST)]
    entries: Payload


class Shared(Said, frozen=True, tag=True):
    """Leader to follower: tags under this key of what all have, ascending, padded; u1."""

    key: Seed
    tags: Payload


FromLeader: TypeAlias = Introduced | Query | Shared | Withheld
FromFollower: TypeAlias = Introduced | EvaluatedInOrder | Table | Withheld
