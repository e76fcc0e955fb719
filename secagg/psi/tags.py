"""Tags: what is left of an evaluated point once both exponents of an identifier are one.

128 bits, so that of 2**26 times 2**26 pairs none that differ has one tag but with probability 2**-76.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from secagg.errors import FaultySilo
from secagg.hazmat.curve import POINT_SIZE
from secagg.names import SiloId
from secagg.payload import Payload
from secagg.psi.sizes import padded
from secagg.psi.terms import IntersectionPolicy

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


def as_tags(sender: SiloId, payload: Payload, policy: IntersectionPolicy) -> NDArray[np.bytes_]:
    """Return the tags of a set.

    Raises:
        FaultySilo: not whole tags, not padded, or they do not ascend.
        PolicyRefused: more than ``policy`` lets another party bring.
    """
    size, rest = divmod(payload.length, TAG_SIZE)
    if payload.dtype != "u1" or rest or size != padded(size):
        raise FaultySilo(sender, "its tags are not whole, or not padded")
    policy.check_set(sender, size)
    tags = payload.array().view(TAG)
    if not (tags[:-1] < tags[1:]).all():
        raise FaultySilo(sender, "its tags are not in ascending order, or one comes twice")
    return tags
