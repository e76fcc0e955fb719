"""Tags: what is left of an evaluated point once both exponents of an identifier are one.

128 bits, so that of 2**27 times 2**27 pairs none that differ has one tag but with probability 2**-74.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from secagg.hazmat.curve import POINT_SIZE
from secagg.payload import Payload

TAG_SIZE = 16
TAG = np.dtype(f"S{TAG_SIZE}")


def tags_of(points: bytes, context: bytes) -> NDArray[np.bytes_]:
    """Return the tag of each point.

    Args:
        points: ``POINT_SIZE`` bytes each.
        context: the digest of what the parties agreed on, 32 bytes.

    Returns:
        ``TAG``, shape (points,).
    """
    start = hashlib.sha256(b"secagg/1 intersection tag" + context)

    def tag(at: int) -> bytes:
        hashed = start.copy()
        hashed.update(points[at : at + POINT_SIZE])
        return hashed.digest()[:TAG_SIZE]

    return np.frombuffer(b"".join(tag(at) for at in range(0, len(points), POINT_SIZE)), TAG)


def as_tags(payload: Payload) -> NDArray[np.bytes_] | None:
    """Return the tags of a payload; None if it holds none, or they do not ascend."""
    if payload.dtype != "u1" or payload.length % TAG_SIZE:
        return None
    tags = payload.array().view(TAG)
    return tags if (tags[:-1] < tags[1:]).all() else None
