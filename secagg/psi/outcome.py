"""What a party learned, and the hash by which two parties see that they mean the same order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg.hazmat.framing import digest
from secagg.psi.terms import IntersectionTerms


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one party learned.

    Attributes:
        count: records that both have.
        rows: int64, shape (count,): where they stand in what this party gave, in the order that both have;
            None if this party learns the number only.
        digest: of that order, 32 bytes, equal at both; None where ``rows`` is.
    """

    count: int
    rows: NDArray[np.int64] | None = field(default=None, repr=False)
    digest: bytes | None = None


def order_digest(terms: IntersectionTerms, tags: NDArray[np.bytes_]) -> bytes:
    """Return the digest of the order of shared records, given their tags in that order."""
    return digest("intersection order", terms.digest, hashlib.sha256(tags.tobytes()).digest())
