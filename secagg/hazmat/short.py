"""What ring-LWE draws: ternary secrets, and centred binomial errors. It knows no ring and no modulus.

Source: Albrecht et al. 2018, *Homomorphic Encryption Security Standard* (ternary secrets, errors of deviation
3.2); Alkim, Ducas, Poeppelmann, Schwabe 2016, "Post-quantum key exchange: a new hope" (centred binomials).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from secagg.names import RandomSource

ERROR_LIMIT = 21
"""Largest magnitude of an error: the difference of two sums of 21 fair bits."""
ERROR_VARIANCE = ERROR_LIMIT / 2
"""Variance, and sub-Gaussian variance proxy, of an error; its deviation is 3.24."""

_BITS = np.array([byte.bit_count() for byte in range(256)], np.int8)


def ternary(shape: tuple[int, ...], random: RandomSource) -> NDArray[np.int64]:
    """Return -1, 0 and 1, each as likely."""
    size, drawn = math.prod(shape), np.empty(0, np.uint8)
    while drawn.size < size:
        more = np.frombuffer(random(size - drawn.size + 256), np.uint8)
        drawn = np.concatenate((drawn, more[more < 255]))  # 255 of them are three times 85.
    return drawn[:size].reshape(shape).astype(np.int64) % 3 - 1


def errors(shape: tuple[int, ...], random: RandomSource) -> NDArray[np.int64]:
    """Return centred binomial numbers, from -``ERROR_LIMIT`` to ``ERROR_LIMIT``."""
    drawn = np.frombuffer(random(6 * math.prod(shape)), np.uint8).reshape(*shape, 2, 3)
    # 16 + 5 bits for each of the two sums.
    sums = _BITS[drawn[..., 0]] + _BITS[drawn[..., 1]] + _BITS[drawn[..., 2] & 31]
    found: NDArray[np.int64] = (sums[..., 0] - sums[..., 1]).astype(np.int64)
    return found
