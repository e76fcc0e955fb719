"""Polynomials modulo X^4096 + 1 over integers modulo 2^105, multiplied by Fourier transforms.

A coefficient is five limbs of 21 bits, each from -2^20 to 2^20 - 1, so that products come out of float64
exactly: see ``PRODUCTS``. This module knows neither keys nor noise.

Source: Crandall, Fagin, "Discrete weighted transforms and large-integer arithmetic", Math. Comp. 1994 (the
twist by which a transform of half the length wraps with a minus sign); Percival, "Rapid multiplication
modulo the sum and difference of highly composite numbers", Math. Comp. 2003, theorem 5.1 (the error).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secagg.errors import MalformedMessage
from secagg.hazmat.prg import add_streams

N = 4096
"""Coefficients of a polynomial."""
HALF = N // 2
"""Points of a transform: a real polynomial is known by its values at half of the roots of X^N + 1."""
LIMB_BITS, LIMBS = 21, 5
MODULUS_BITS = LIMB_BITS * LIMBS
PACKED = 14
"""Bytes of a packed coefficient: eight for the lower 63 bits and six for the upper 42."""
PRODUCTS = 512
"""Products that may be added before they are transformed back.

Let one factor of each have at most 2,560 coefficients 1 or -1 and else 0, and the other be a limb, so that
its norm is at most 2^20 * 64. Transforms there and back err by at most 152 units of rounding of the product
of both norms (three of 2^11 points, and two twists), and a sum of complex products by 3 more for each of its
terms: by 0.33 in all for 512 of them. Below one half, rounding to integers is exact. What is met is far less.
"""

Integers: TypeAlias = NDArray[np.int64]
Points: TypeAlias = NDArray[np.complex128]

_TWIST: Points = np.exp(1j * np.pi * np.arange(HALF) / N)
_MASK = (1 << LIMB_BITS) - 1
_TOP = 1 << (LIMB_BITS - 1)
_LOW_BITS = 3 * LIMB_BITS
_LOW_MASK = (1 << _LOW_BITS) - 1
_HIGH_MASK = (1 << (MODULUS_BITS - _LOW_BITS)) - 1


def transform(polynomials: NDArray[Any]) -> Points:
    """Return the values of real polynomials, shape (..., N), at the roots: shape (..., HALF)."""
    folded = polynomials[..., :HALF] + 1j * polynomials[..., HALF:]
    return transform_folded(folded)


def transform_folded(folded: Points) -> Points:
    """Return the same of coefficients j and j + HALF as real and imaginary part; ``folded`` is changed."""
    folded *= _TWIST
    found: Points = np.fft.fft(folded)
    return found


def coefficients(points: Points) -> Integers:
    """Return the integer polynomials, shape (..., N), whose values are ``points``."""
    folded = np.fft.ifft(points) * _TWIST.conj()
    return np.concatenate([np.rint(folded.real), np.rint(folded.imag)], axis=-1).astype(np.int64)


def carried(limbs: Integers) -> Integers:
    """Return limbs, shape (..., LIMBS, N), brought into range modulo 2^105. They are below 2^62 before."""
    found = np.empty_like(limbs)
    carry: Integers = np.zeros_like(limbs[..., 0, :])
    for at in range(LIMBS):
        value = limbs[..., at, :] + carry
        found[..., at, :] = ((value + _TOP) & _MASK) - _TOP
        carry = (value - found[..., at, :]) >> LIMB_BITS
    return found


def uniform(seed: bytes, count: int) -> Integers:
    """Return ``count`` uniform elements, shape (count, LIMBS, N), that all make alike from 32 public bytes.

    Source: as the matrix of FrodoKEM, whose AES is keyed with a public seed too.
    """
    words = np.zeros(count * LIMBS * N, np.uint32)
    add_streams(words, plus=[seed])
    return carried((words & _MASK).astype(np.int64).reshape(count, LIMBS, N))


def packed(limbs: Integers) -> NDArray[np.uint8]:
    """Return elements, shape (..., LIMBS, N), as bytes, shape (..., N, PACKED)."""
    low, high = _halves(limbs)
    words = np.stack([low, high], axis=-1).astype("<u8").view(np.uint8)
    return words[..., :PACKED]


def unpacked(data: NDArray[np.uint8]) -> Integers:
    """Return what was packed: shape (..., LIMBS, N) of (..., N, PACKED).

    Raises:
        MalformedMessage: a coefficient is not below 2^105.
    """
    words = np.zeros((*data.shape[:-1], 16), np.uint8)
    words[..., :PACKED] = data
    halves = words.view("<u8")
    low, high = halves[..., 0], halves[..., 1]
    if (low > _LOW_MASK).any() or (high > _HIGH_MASK).any():
        raise MalformedMessage("a coefficient is not below the modulus")
    parts = [(low >> LIMB_BITS * at) & _MASK for at in range(3)]
    parts += [(high >> LIMB_BITS * at) & _MASK for at in range(2)]
    return carried(np.stack(parts, axis=-2).astype(np.int64))


def rounded(limbs: Integers, bits: int) -> Integers:
    """Return the upper ``bits`` of each coefficient, 43 to 62, rounded: shape (..., N) of (..., LIMBS, N)."""
    low, high = _halves(limbs)
    away = MODULUS_BITS - bits  # Fewer than are in ``low``.
    upper = (high << (_LOW_BITS - away)) + (((low >> (away - 1)) + 1) >> 1)
    return upper & ((1 << bits) - 1)


def _halves(limbs: Integers) -> tuple[Integers, Integers]:
    """Return the lower 63 and the upper 42 bits of each coefficient."""
    low = limbs[..., 0, :] + (limbs[..., 1, :] << LIMB_BITS) + (limbs[..., 2, :] << 2 * LIMB_BITS)
    high = limbs[..., 3, :] + (limbs[..., 4, :] << LIMB_BITS) + (low >> _LOW_BITS)
    return low & _LOW_MASK, high & _HIGH_MASK
