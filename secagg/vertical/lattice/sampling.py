"""What lattice ciphertexts draw: public uniform polynomials of a seed, and secrets, errors, noise and masks.

Source: Albrecht et al. 2018, *Homomorphic Encryption Security Standard* (ternary secrets, errors of deviation
3.2); Alkim, Ducas, Poeppelmann, Schwabe 2016, "Post-quantum key exchange: a new hope" (centred binomials).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secagg.hazmat.agreement import hkdf
from secagg.hazmat.prg import KEY_SIZE, add_streams
from secagg.names import RandomSource
from secagg.vertical.lattice.ring import DEGREE, PRIME_BITS, Limbs, Ring

SEED_SIZE = KEY_SIZE
ERROR_LIMIT = 21
"""Largest magnitude of an error: the difference of two sums of 21 fair bits."""
ERROR_VARIANCE = ERROR_LIMIT / 2
"""Variance, and sub-Gaussian variance proxy, of an error; its deviation is 3.24."""
FLOOD_BITS = 89
"""Flooding noise is uniform over 2^89 numbers."""

_BITS = np.array([byte.bit_count() for byte in range(256)], np.int8)


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


def ternary(count: int, random: RandomSource) -> NDArray[np.int64]:
    """Return polynomials with coefficients -1, 0 and 1, each as likely, shape (count, N)."""
    size, drawn = count * DEGREE, np.empty(0, np.uint8)
    while drawn.size < size:
        more = np.frombuffer(random(size - drawn.size + 256), np.uint8)
        drawn = np.concatenate((drawn, more[more < 255]))  # 255 of them are three times 85.
    return drawn[:size].reshape(count, DEGREE).astype(np.int64) % 3 - 1


def errors(count: int, random: RandomSource) -> NDArray[np.int64]:
    """Return polynomials of centred binomial coefficients, shape (count, N)."""
    drawn = np.frombuffer(random(6 * count * DEGREE), np.uint8).reshape(count, DEGREE, 2, 3)
    # 16 + 5 bits for each of the two sums.
    sums = _BITS[drawn[..., 0]] + _BITS[drawn[..., 1]] + _BITS[drawn[..., 2] & 31]
    found: NDArray[np.int64] = (sums[..., 0] - sums[..., 1]).astype(np.int64)
    return found


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
