"""How a session ends, and the hash by which parties see that they mean the same order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg.hazmat.framing import digest


@dataclass(frozen=True)
class Ended:
    """Without a result: this party refused something, or is not to learn. Nothing more is taken or said."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What one party learned.

    Attributes:
        count: records that all have.
        rows: int64, shape (count,): where they stand in what this party gave, in the order that all have;
            None if this party learns the number only.
        digest: of that order, 32 bytes, equal at all who learn it if they follow the protocol; None where
            ``rows`` is.
    """

    count: int
    rows: NDArray[np.int64] | None = field(default=None, repr=False)
    digest: bytes | None = None


def order_digest(terms: bytes, tags: NDArray[np.bytes_]) -> bytes:
    """Return the digest of an order, given that of the terms and the tags of shared records in that order."""
    return digest("intersection order", terms, hashlib.sha256(tags.tobytes()).digest())
