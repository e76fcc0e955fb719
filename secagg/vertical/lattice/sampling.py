"""What lattice ciphertexts draw: public uniform polynomials of a seed, flooding noise and masks.

Secrets and errors are those of ``secagg.hazmat.short``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secagg.hazmat.agreement import hkdf
from secagg.hazmat.prg import KEY_SIZE, add_streams
from secagg.names import RandomSource
from secagg.vertical.lattice.ring import DEGREE, PRIME_BITS, Limbs, Ring

SEED_SIZE = KEY_SIZE
FLOOD_BITS = 89
"""Flooding noise is uniform over 2^89 numbers."""


def uniform(seed: bytes, count: int, ring: Ring) -> Limbs:
    """Return uniform polynomials, shape (count, primes, N), that everybody makes of one seed.

    A polynomial is uniform in values when it is in coefficients, so these may be taken for either.
    """
    size = count * DEGREE
    # Of 30 bits less than one in 2000 is not below a prime: words beyond this many are never needed.
    words = np.empty(size + size // 256 + 1024, np.uint32)
    limbs = np.empty((count, len(ring.primes), DEGREE), np.uint32)
    for at, prime in enumerate(ring.primes):
        words.fill(0)
        add_streams(words, plus=[hkdf(seed, "uniform polynomials", at)])
        words >>= np.uint32(32 - PRIME_BITS)
        limbs[:, at] = words[words < prime][:size].reshape(count, DEGREE)
    return limbs


def flood(count: int, ring: Ring, random: RandomSource) -> Limbs:
    """Return residues of uniform numbers from -2^88 to 2^88 - 1, shape (primes, count)."""
    drawn = np.frombuffer(random(12 * count), "<u4").reshape(3, count) >> np.uint32(32 - PRIME_BITS)
    words = drawn.astype(np.uint64)
    words[2] >>= np.uint64(3 * PRIME_BITS - FLOOD_BITS)
    moduli, half = ring.moduli, 1 << FLOOD_BITS - 1
    total = np.array([[prime - half % prime] for prime in ring.primes], np.uint64) + words[0]
    for place in (1, 2):
        weight = np.array([[(1 << place * PRIME_BITS) % prime] for prime in ring.primes], np.uint64)
        total += words[place] * weight % moduli
    residues: Limbs = (total % moduli).astype(np.uint32)
    return residues


def words(count: int, bits: int, random: RandomSource) -> NDArray[np.uint64]:
    """Return uniform words of so many bits, shape (count,)."""
    return np.frombuffer(random(8 * count), "<u8") >> np.uint64(64 - bits)
