"""Sensitivity: how far one silo's or one record's contribution can move an encoded sum, in L2 norm.

Reals are clipped before they are encoded, but rounding comes after that and can lift the norm of the
integers above the bound, by up to ``sqrt(length) / 2``. So the bound is enforced once more where the noise is
added: on integers, with an exact norm. It knows no noise, no encoding and no account.

Source: Abadi et al. 2016, *Deep Learning with Differential Privacy*, section 3.1 (clipping); Kairouz, Liu,
Steinke 2021, *The Distributed Discrete Gaussian Mechanism for Federated Learning*, section 4 (what rounding
does to the norm).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.errors import InputRefused, ParameterError
from secagg.fixedpoint import FRACTION_BITS
from secagg.names import RealVector
from secagg.ranges import positive, whole

BLOCK = 1 << 16
"""Entries that are looked at a time, so that scratch stays in the cache."""

LEAST_NORM, MOST_NORM = 2.0**-512, 2.0**512
"""Bounds for norms of reals: far beyond use, and nothing near them leaves the normal float64s."""

# What a norm in float64 is raised by, because it can be off: the sum of the 2**16 squares of a block has a
# relative error of at most 2**-37, and its root half of that. A factor is lowered by as much again.
_SLACK = 2.0**-36
# What a factor of integers is lowered by, against four roundings of 2**-53.
_INTEGER_SLACK = 2.0**-50


def clip_l2(update: NDArray[Any], norm: float) -> RealVector:
    """Return ``update``, scaled down to an L2 norm of at most ``norm`` where it has more.

    Args:
        update: float32 or float64, shape (length,); never written to.
        norm: 2**-512 to 2**512.

    Returns:
        A new vector, float64, shape (length,).

    Raises:
        InputRefused: ``dtype``, ``shape``, ``nan`` or ``infinite``. The text names an index, never a value.
        ParameterError: ``norm`` is outside its range.

    Guarantees:
        - The norm of what is returned, reckoned without rounding, is at most ``norm``.
        - An update whose norm is below ``norm``, by 2**-35 of it, comes back as it was.
        - Zeros stay zeros, and no finite entry is too large.
    """
    bound = positive("norm", norm)
    if not LEAST_NORM <= bound <= MOST_NORM:
        raise ParameterError(f"norm is {bound}, must be 2**-512 to 2**512")
    largest = _largest_magnitude(update)
    clipped = update.astype(np.float64)
    if largest == 0:
        return clipped
    # Powers of two scale without rounding: entries are below 1 then, and their squares cannot overflow.
    exponent = math.frexp(largest)[1]
    squares = [float(np.dot(block, block)) for block in _scaled(clipped, -exponent)]
    scaled_norm = math.sqrt(math.fsum(squares)) * (1 + _SLACK)
    if Fraction(scaled_norm) * Fraction(2) ** exponent <= Fraction(bound):
        return clipped
    factor = bound / scaled_norm * (1 - _SLACK)
    for start, block in zip(range(0, clipped.size, BLOCK), _scaled(clipped, -exponent), strict=True):
        np.multiply(block, factor, out=clipped[start : start + BLOCK])
    return clipped


def enforce_l2(vector: NDArray[np.int64], bound: float) -> NDArray[np.int64]:
    """Return ``vector`` if its L2 norm is at most ``bound``, else a shorter one of about the same direction.

    Each entry v becomes ``v * f``, rounded towards zero, with an f that is surely at most ``bound / norm``:
    no magnitude exceeds its share of the bound, so the norm of all does not exceed the bound.

    Args:
        vector: int64, shape (length,); never written to.
        bound: an int or a float, above 0 and finite; taken exactly.

    Returns:
        ``vector`` itself, or a new vector of its shape.

    Raises:
        InputRefused: ``dtype`` or ``shape``.
        ParameterError: ``bound`` is not above 0 and finite.

    Guarantees:
        - The sum of squares of what is returned, as an exact integer, is at most ``bound**2``.
        - Every entry of what is returned is less than ``1 + |v| * 2**-48`` from ``v * min(1, bound / norm)``,
          towards zero.
    """
    limit = _exact("bound", bound) ** 2
    if vector.dtype != np.int64:
        raise InputRefused("dtype", f"the encoded vector is {vector.dtype}, not int64")
    if vector.ndim != 1:
        raise InputRefused("shape", f"the encoded vector has shape {vector.shape}, must have one dimension")
    square = squared_norm(vector)
    if square <= limit:
        return vector
    # In units of 2**-128, rounded down, because a float64 cannot hold the quotient of any two integers.
    ratio = math.isqrt((limit.numerator << 256) // (limit.denominator * square))
    factor = math.ldexp(ratio, -128) * (1 - _INTEGER_SLACK)
    shorter = np.empty_like(vector)
    for start in range(0, vector.size, BLOCK):
        # The conversion to integers rounds towards zero.
        shorter[start : start + BLOCK] = vector[start : start + BLOCK].astype(np.float64) * factor
    return shorter


def squared_norm(vector: NDArray[np.int64]) -> int:
    """Return the sum of squares of an int64 vector, shape (length,), exactly."""
    return sum(_sum_of_squares(vector[start : start + BLOCK]) for start in range(0, vector.size, BLOCK))


def record_sensitivity(l2_clip_norm: float, fraction_bits: int, length: int) -> float:
    """Return how far, in L2 norm and steps, one record moves a rounded sum of clipped gradients.

    Let S be the sum with the record and S' that without it: they are at most ``C`` apart, ``C * 2**f`` in
    steps. Rounding moves each coordinate of either by at most 1/2, so what it does to one differs from what
    it does to the other by at most 1 a coordinate, ``sqrt(length)`` in norm. Both together, by the triangle
    inequality.

    It is about exact sums. A sum in floating point comes with its own error on either side, which must be far
    below a step: sum in float64.

    Args:
        l2_clip_norm: C, the largest norm of the gradient of one record, 2**-512 to 2**512.
        fraction_bits: f; a step is ``2**-f``, f from -512 to 512.
        length: coordinates, at least 1.

    Returns:
        ``C * 2**f + sqrt(length)``, rounded up.

    Raises:
        ParameterError: an argument is outside its range, or the sensitivity is beyond float64.

    Guarantees:
        - The rounded sums of two sets of clipped gradients, of which one has a record more, are at most this
          far apart.
    """
    norm, bits = positive("l2_clip_norm", l2_clip_norm), whole("fraction_bits", fraction_bits)
    coordinates = whole("length", length, least=1)
    if not LEAST_NORM <= norm <= MOST_NORM:
        raise ParameterError(f"l2_clip_norm is {norm}, must be 2**-512 to 2**512")
    if bits not in FRACTION_BITS:
        raise ParameterError(
            f"fraction_bits is {bits}, must be {FRACTION_BITS.start} to {FRACTION_BITS.stop - 1}"
        )
    try:
        # Root and sum are rounded to the nearest, so each is off by less than the next float64 is away.
        rounding = math.nextafter(math.sqrt(coordinates), math.inf)
        sensitivity = math.nextafter(math.ldexp(norm, bits) + rounding, math.inf)
    except OverflowError:
        sensitivity = math.inf
    if not math.isfinite(sensitivity):
        raise ParameterError("the sensitivity is beyond float64: lower fraction_bits or length")
    return sensitivity


def _exact(name: str, value: object) -> Fraction:
    """Return a number above 0 as it is: float64 does not hold every integer."""
    number = positive(name, value)
    return Fraction(int(value) if isinstance(value, Integral) else number)


def _largest_magnitude(update: NDArray[Any]) -> float:
    """Return the largest magnitude of real numbers, refusing all else; 0 for none."""
    if update.dtype not in (np.float32, np.float64):
        raise InputRefused("dtype", f"the update is {update.dtype}, not float32 or float64")
    if update.ndim != 1:
        raise InputRefused("shape", f"the update has shape {update.shape}, must have one dimension")
    largest = 0.0
    for start in range(0, update.size, BLOCK):
        block = update[start : start + BLOCK]
        # NaN propagates through min and max, and is finite no more than infinity.
        low, high = block.min().item(), block.max().item()
        if not math.isfinite(high - low):
            _refuse_bad_numbers(block, first=start)
        largest = max(largest, -low, high)
    return largest


def _refuse_bad_numbers(block: NDArray[Any], *, first: int) -> None:
    for rule, bad, word in (("nan", np.isnan(block), "NaN"), ("infinite", np.isinf(block), "infinite")):
        if bad.any():
            raise InputRefused(rule, f"entry {first + int(bad.argmax())} of the update is {word}")


def _scaled(vector: RealVector, exponent: int) -> Iterator[RealVector]:
    """Yield the blocks of ``vector * 2**exponent``; what becomes subnormal may round."""
    for start in range(0, vector.size, BLOCK):
        yield np.ldexp(vector[start : start + BLOCK], exponent)


def _sum_of_squares(block: NDArray[np.int64]) -> int:
    """Return the sum of squares of at most 2**16 integers, exactly."""
    magnitudes = np.abs(block).view(
        np.uint64
    )  # The absolute value of -2**63 wraps to what is 2**63 unsigned.
    if int(magnitudes.max()) < 1 << 23:
        return int(np.dot(block, block))  # Below 2**62.
    high, low = _halves(magnitudes)
    return (
        (_sum_of_products(high, high) << 64)
        + (_sum_of_products(high, low) << 33)
        + _sum_of_products(low, low)
    )


def _sum_of_products(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> int:
    """Return the sum of products of numbers below 2**32, which fit into a word each, but not together."""
    high, low = _halves(left * right)
    return (int(high.sum()) << 32) + int(low.sum())


def _halves(words: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    return words >> np.uint64(32), words & np.uint64(0xFFFFFFFF)
