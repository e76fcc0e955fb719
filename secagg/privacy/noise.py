"""Discrete Gaussian noise over the integers, from tables in exact arithmetic and a cryptographic stream.

A small standard deviation has one alias table: a 64-bit word chooses a column with its high bits and, with
all of them, one of the column's two values. A large one is built from small ones, ``x + 160 * y``, where y is
again a discrete Gaussian. No floating point is involved, so no low-order bit tells what the noise was added
to; sums wrap modulo the word size, as everything in the masked domain does.

It does not clip and keeps no account. The instructions are the same whatever is drawn, but for ties, which
take another word (probability at most 2**-50 a table). The addresses that tables are read at are not: whoever
shares the processor's caches may learn something of the noise. Buffers are not wiped.

The error, in total variation, of one variable, all arithmetic before it being on integers:

- A table leaves out what lies beyond ``REACH`` standard deviations s. By Poisson summation the weights
  ``exp(-x**2 / 2 s**2)`` add up to at least ``s * sqrt(2 pi)``, and those beyond ``R = REACH * s`` to at most
  the integral from R on, on either side. So it is at most ``2 * Q(12) < 2**-107.7``, Q the Gaussian's tail.
- Probabilities are rounded down to multiples of 2**-128, and what is missing goes to 0: at most one unit for
  each of 2**14 entries, less than 2**-113 with the 2**-200 that the weights themselves are off by. The alias
  table represents these multiples exactly.
- ``x + k * y`` of exact Gaussians has weight ``exp(-z**2 / 2 s**2)`` at z, times the sum of a Gaussian with
  standard deviation ``t = s_x * s_y / s`` over the shifted integers. By Poisson summation that sum is
  constant up to a factor ``1 +- e``, e = 2 * (exp(-2 pi**2 t**2) + exp(-8 pi**2 t**2) + ...); the distance is
  at most ``e / (1 - e)``. Here ``t > 2.11``, and it is below 2**-125.

At most six tables are drawn from, and errors add up: less than ``6 * 2**-107.6 + 5 * 2**-125 < 2**-104``.

Source: Canonne, Kamath, Steinke 2020, *The Discrete Gaussian for Differential Privacy*; Walker 1977, and Vose
1991, *A linear algorithm for generating random numbers with a given distribution* (alias tables); Peikert
2010, *An efficient and parallel Gaussian sampler for lattices*, theorem 3.1 (convolution).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from secagg.errors import ParameterError
from secagg.hazmat.prg import KEY_SIZE, add_streams
from secagg.names import IntegerVector, RandomSource
from secagg.ranges import real, whole

BLOCK = 1 << 16
"""Variables that are drawn at a time; each block takes a key of its own."""

SAMPLING_ERROR = 2.0**-104
"""Bound on the total variation distance between one variable drawn and the discrete Gaussian.

Uniform words are taken for granted: that the stream cannot be told from them is an assumption about AES.
"""

LEAST_SIGMA, MOST_SIGMA = 0.5, 2.0**40

REACH = 12
"""Standard deviations that a table reaches to, on either side."""

# Largest standard deviation with a table of its own, of 2**14 columns. What is above is x + _FACTOR * y, with
# x of _INNER: small enough for the cache, large enough beside _FACTOR for the convolution.
_LARGEST, _INNER, _FACTOR = 682, 512, 160
# Bits that probabilities are multiples of, and those of the fixed point that weights are reckoned in.
_UNIT_BITS, _WEIGHT_BITS = 128, 256
_WORD = 64


def reach(sigma: float) -> int:
    """Return the largest magnitude that is ever drawn, without drawing or tables: 12 to 18 times ``sigma``.

    Args:
        sigma: standard deviation, 0.5 to 2**40.

    Raises:
        ParameterError: ``sigma`` is outside its range.

    Guarantees:
        - Every variable of ``DiscreteGaussian(sigma)`` is at most this far from 0, and some can be as far.
        - It is at least ``12 * sigma``, at most ``18 * sigma``, and does not fall as ``sigma`` grows.
    """
    return sum(factor * _radius(variance) for factor, variance in _parts(_checked(sigma)))


class DiscreteGaussian:
    """Draws integers z with probability proportional to ``exp(-z**2 / (2 * sigma**2))``.

    Args:
        sigma: standard deviation, in steps, 0.5 to 2**40; taken as the exact rational that it is.
        random: 32 bytes of it key the stream of a block.

    Raises:
        ParameterError: ``sigma`` is outside its range.

    Guarantees:
        - Each variable is within ``SAMPLING_ERROR`` of the discrete Gaussian, in total variation.
        - No two blocks share a key.
        - What v can become with noise, modulo the word size, and what v + 1 can become are the same integers,
          but for some that either becomes with a probability of at most ``SAMPLING_ERROR``.
        - The same bytes of ``random`` give the same variables.
    """

    def __init__(self, sigma: float, *, random: RandomSource = os.urandom) -> None:
        self._sigma = _checked(sigma)
        self._random = random
        planned = _parts(self._sigma)
        self._parts = tuple((factor, _table(variance)) for factor, variance in planned)

    @property
    def sigma(self) -> float:
        """Standard deviation, in steps."""
        return self._sigma

    @property
    def parts(self) -> tuple[tuple[int, AliasTable], ...]:
        """Factors and tables: a variable is the sum of each factor times a draw from its table."""
        return self._parts

    def sample(self, length: int) -> NDArray[np.int64]:
        """Return independent variables.

        Args:
            length: how many, at least 0.

        Raises:
            ParameterError: ``length`` is below 0.
        """
        drawn = np.empty(whole("length", length, least=0), np.int64)
        for place, block in self._blocks(drawn.size):
            drawn[place] = block
        return drawn

    def add_to(self, vector: IntegerVector) -> None:
        """Add an independent variable to every entry, modulo the word size.

        Args:
            vector: uint32 or uint64, shape (length,), writable; changed in place.

        Raises:
            ParameterError: the vector is not as described; it is unchanged.
        """
        if vector.dtype not in (np.dtype(np.uint32), np.dtype(np.uint64)):
            raise ParameterError(f"noise is added to uint32 or uint64 vectors, not {vector.dtype}")
        if vector.ndim != 1 or not vector.flags.writeable:
            raise ParameterError("noise is added in place, to a one-dimensional, writable vector")
        for place, block in self._blocks(vector.size):
            # The low bits of two's complement: the same integer modulo the word size.
            vector[place] += block.astype(vector.dtype)

    def _blocks(self, length: int) -> Iterator[tuple[slice, NDArray[np.int64]]]:
        # A block is only good until the next one is drawn.
        drawn, part = np.empty((2, min(length, BLOCK)), np.int64)
        words = np.empty(len(self._parts) * drawn.size, np.uint64)
        for start in range(0, length, BLOCK):
            count = min(BLOCK, length - start)
            words.fill(0)
            add_streams(words, plus=[self._random(KEY_SIZE)], threads=1)
            total = drawn[:count]
            total.fill(0)
            for i, (factor, table) in enumerate(self._parts):
                table.draw_into(part[:count], words[i * count : (i + 1) * count], random=self._random)
                total += np.multiply(part[:count], factor, out=part[:count])
            yield slice(start, start + count), total


class AliasTable:
    """One discrete Gaussian whose probabilities are multiples of 2**-128, drawn with one word a variable.

    Columns are equally likely. A column has its own value below its threshold, and another one above.

    Args:
        variance: of the Gaussian, 0.25 to 682**2.

    Attributes:
        radius: largest magnitude of a value.
    """

    def __init__(self, variance: Fraction) -> None:
        self.radius = _radius(variance)
        units = _units(_weights(variance, self.radius))
        self._column_bits = (len(units) - 1).bit_length()
        self._shift = np.uint64(_WORD - self._column_bits)
        thresholds, aliases = _columns(units, 1 << self._column_bits, 1 << self._threshold_bits)
        # With the column's number in front, a threshold is compared with the whole first word. The second
        # words, of the bits that do not fit, are looked at in a tie alone.
        whole_words = [column << self._threshold_bits | at for column, at in enumerate(thresholds)]
        self._first = np.array([word >> _WORD for word in whole_words], np.uint64)
        self._second = np.array([word % (1 << _WORD) for word in whole_words], np.uint64)
        # Of each column the value above its threshold, then that below it.
        pairs = [(alias, column) for column, alias in enumerate(aliases)]
        self._values = np.array(pairs, np.int64).reshape(-1) - self.radius

    @property
    def _threshold_bits(self) -> int:
        return _UNIT_BITS - self._column_bits

    def units(self) -> list[int]:
        """Return the probabilities of -radius to radius, in units of 2**-128, as the tables have them now."""
        found = [0] * (2 * self.radius + 1)
        capacity = 1 << self._threshold_bits
        pairs = self._values.reshape(-1, 2).tolist()
        for column, (above, below) in enumerate(pairs):
            word = int(self._first[column]) << _WORD | int(self._second[column])
            threshold = word - column * capacity
            found[above + self.radius] += capacity - threshold
            if threshold:  # The columns that fill up to a power of two have no value of their own.
                found[below + self.radius] += threshold
        return found

    def draw_into(self, out: NDArray[np.int64], words: NDArray[np.uint64], *, random: RandomSource) -> None:
        """Draw one value for each uniform word.

        Args:
            out: shape (length,), contiguous.
            words: shape (length,).
            random: eight bytes of it decide a tie.
        """
        column = (words >> self._shift).view(np.int64)
        # All indices are inside by construction; without "clip" NumPy would check them and copy the output.
        threshold = np.take(self._first, column, mode="clip")
        below = words < threshold
        tied = words == threshold
        if tied.any():
            for at in np.flatnonzero(tied):
                below[at] = int.from_bytes(random(8), "little") < int(self._second[column[at]])
        column <<= 1
        column |= below
        np.take(self._values, column, mode="clip", out=out)


@lru_cache(maxsize=8)
def _table(variance: Fraction) -> AliasTable:
    """Return the table of ``variance``: it takes a tenth of a second to make, and every round asks."""
    return AliasTable(variance)


def _units(weights: list[int]) -> list[int]:
    """Return the probabilities of both sides, in units of 2**-128, of which there are 2**128 in all."""
    total = 2 * sum(weights) - weights[0]
    side = [(weight << _UNIT_BITS) // total for weight in weights[1:]]
    return [*reversed(side), (1 << _UNIT_BITS) - 2 * sum(side), *side]


def _columns(units: list[int], columns: int, capacity: int) -> tuple[list[int], list[int]]:
    """Return Vose's thresholds, below ``capacity``, and the indices that are taken above them."""
    left = units + [0] * (columns - len(units))
    thresholds, aliases = [0] * columns, list(range(columns))
    small = [j for j, count in enumerate(left) if count < capacity]
    large = [j for j, count in enumerate(left) if count > capacity]
    while small:
        j, source = small.pop(), large[-1]
        thresholds[j], aliases[j] = left[j], source
        left[source] -= capacity - left[j]
        if left[source] <= capacity:
            large.pop()
        if left[source] < capacity:
            small.append(source)
    # All others are exactly full: their threshold stays 0, and what is above it is their own index.
    return thresholds, aliases


def _weights(variance: Fraction, radius: int) -> list[int]:
    """Return ``exp(-x**2 / (2 * variance))`` for x from 0 to ``radius``, in units of 2**-256.

    The error of a factor is at most four units more than that of the one before. A weight is a product of
    factors below 1, so its error is at most the sum of theirs: ``4 * radius**2`` units, below 2**-228.
    """
    factor = _exponential(1 / (2 * variance))
    step = factor * factor >> _WEIGHT_BITS
    weights = [1 << _WEIGHT_BITS]
    for _ in range(radius):
        weights.append(weights[-1] * factor >> _WEIGHT_BITS)
        factor = factor * step >> _WEIGHT_BITS
    return weights


def _exponential(x: Fraction) -> int:
    """Return ``exp(-x)`` for x from 0 to 2 in units of 2**-256, off by less than one unit."""
    # The series of exp(x) has no cancellation, and 64 spare bits take up what its terms are rounded by.
    bits = _WEIGHT_BITS + 64
    total = term = 1 << bits
    n = 0
    while term:
        n += 1
        term = term * x.numerator // (x.denominator * n)
        total += term
    return (1 << (_WEIGHT_BITS + bits)) // total


def _parts(sigma: float) -> list[tuple[int, Fraction]]:
    """Return the factors and variances of the small Gaussians that add up to one of ``sigma``."""
    variance, factor, parts = Fraction(sigma) ** 2, 1, []
    while variance > _LARGEST**2:
        parts.append((factor, Fraction(_INNER**2)))
        variance = (variance - _INNER**2) / _FACTOR**2
        factor *= _FACTOR
    return [*parts, (factor, variance)]


def _radius(variance: Fraction) -> int:
    """Return ``REACH`` standard deviations, rounded up."""
    square = REACH**2 * variance
    return math.isqrt(math.ceil(square) - 1) + 1


def _checked(sigma: float) -> float:
    number = real("sigma", sigma)
    if not LEAST_SIGMA <= number <= MOST_SIGMA:
        raise ParameterError(f"sigma is {number}, must be {LEAST_SIGMA} to 2**40")
    return number
