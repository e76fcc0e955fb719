"""Shamir's secret sharing, t of n, of 32-byte secrets over one prime field.

Any t shares give the secret; t - 1 say nothing about it. A share carries no proof of where it came from:
commitments to shares, and the blame that follows from them, belong to the scheme. Python's integers do not
run in constant time.

The prime is the smallest above 2**256, so that every 32-byte string is a field element; an element takes
33 bytes.

Source: Shamir, "How to share a secret", CACM 22(11), 1979.
"""

from __future__ import annotations

from collections.abc import Sequence

from secagg.errors import MalformedMessage, ParameterError
from secagg.names import RandomSource

PRIME = 2**256 + 297
SECRET_SIZE = 32
"""Bytes of a secret."""
SHARE_SIZE = 33
"""Bytes of a share, big endian."""

# 384 bits reduced modulo a prime of 257 bits are within 2**-126 of uniform.
_COEFFICIENT_SIZE = 48


def split(secret: bytes, threshold: int, indices: Sequence[int], random: RandomSource) -> dict[int, bytes]:
    """Split a secret into one share for each index.

    Args:
        secret: 32 bytes, any value.
        threshold: shares needed to combine, 2 to the number of indices.
        indices: distinct, from 1 (index 0 would be the secret itself).
        random: where the coefficients come from, 48 bytes for each, the highest degree first.

    Returns:
        index -> share (33 bytes).

    Raises:
        ParameterError: wrong secret length, threshold out of range, indices not distinct or below 1.

    Guarantees:
        Any ``threshold`` shares combine to the secret.
        Fewer shares are consistent with every secret.
    """
    if len(secret) != SECRET_SIZE:
        raise ParameterError(f"a secret is {SECRET_SIZE} bytes, not {len(secret)}")
    if not 2 <= threshold <= len(indices):
        raise ParameterError(f"the threshold is 2 to the number of shares {len(indices)}, not {threshold}")
    _check_indices(indices)
    coefficients = [int.from_bytes(random(_COEFFICIENT_SIZE), "big") % PRIME for _ in range(threshold - 1)]
    constant = int.from_bytes(secret, "big")
    return {x: _evaluate(coefficients, constant, x).to_bytes(SHARE_SIZE, "big") for x in indices}


def lagrange(indices: Sequence[int]) -> tuple[int, ...]:
    """Return the weight of each index's share in the value at 0.

    They depend on who answered, not on the secret: compute them once for a set of survivors.

    Raises:
        ParameterError: no indices, or indices not distinct or below 1.
    """
    if not indices:
        raise ParameterError("combining takes the indices of at least one share")
    _check_indices(indices)
    weights = []
    for x in indices:
        above, below = 1, 1
        for other in indices:
            if other != x:
                above = above * other % PRIME
                below = below * (other - x) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(weights)


def combine(weights: Sequence[int], shares: Sequence[bytes]) -> bytes:
    """Return the secret (32 bytes) that the shares determine.

    The result is right only if every share is, and if there are at least ``threshold`` of them: compare
    it with what the dealer committed to.

    Args:
        weights: what ``lagrange`` gave for the indices of the shares, in the order of ``shares``.
        shares: 33 bytes each.

    Raises:
        ParameterError: not one share for each weight.
        MalformedMessage: a share is not a field element, or they combine to no 32-byte value.
    """
    if len(weights) != len(shares):
        raise ParameterError(f"{len(weights)} weights do not fit {len(shares)} shares")
    total = 0
    for weight, share in zip(weights, shares, strict=True):
        value = int.from_bytes(share, "big")
        if len(share) != SHARE_SIZE or value >= PRIME:
            raise MalformedMessage(f"a share is {SHARE_SIZE} bytes that hold an element of the field")
        total += weight * value
    total %= PRIME
    if total >> (8 * SECRET_SIZE):
        raise MalformedMessage(f"the shares combine to no {SECRET_SIZE}-byte secret")
    return total.to_bytes(SECRET_SIZE, "big")


def _evaluate(coefficients: Sequence[int], constant: int, x: int) -> int:
    # Indices are small, so Horner's rule grows by a few bits a step and one reduction at the end is enough.
    value = 0
    for coefficient in coefficients:
        value = (value + coefficient) * x
    return (value + constant) % PRIME


def _check_indices(indices: Sequence[int]) -> None:
    if len(set(indices)) != len(indices) or not all(1 <= x < PRIME for x in indices):
        raise ParameterError("share indices are distinct and at least 1")
