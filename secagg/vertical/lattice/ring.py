"""The ring of the ciphertexts: polynomials modulo X^8192 + 1 and five primes of 30 bits, and its transform.

A polynomial is kept as its residues ("limbs") modulo each prime. The transform evaluates it at the odd powers
of a root of order 2N, where products are products of values. It is made of exact float64 matrix products: an
index is split into a row of 64 and a column of 128, a residue is multiplied with the two halves of a root,
and no sum reaches 2^53, so nothing is ever rounded, on any processor and by any BLAS.

Nothing here knows a secret, or what a polynomial stands for.

Source: Bailey 1990, "FFTs in external or hierarchical memory" (four steps). Security: Albrecht et al. 2018,
*Homomorphic Encryption Security Standard*, table 1: N = 8192, ternary secrets, at most 218 bits of modulus
for 128 bits against classical attacks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Limbs: TypeAlias = NDArray[np.uint32]
"""Residues, shape (..., primes, DEGREE); coefficients or values."""

DEGREE = 8192
ROWS, COLUMNS = 64, 128
PRIME_BITS = 30
PRIMES = (1073692673, 1073643521, 1073479681, 1073430529, 1073299457)
"""The largest below 2^30 that are 1 modulo 2N."""
MODULUS = math.prod(PRIMES)
MOST_MODULUS_BITS = 218

_HALF = 1 << 15
# Products that a word of 64 bits can add up: 16 of two residues below 2^30.
_LAZY = 16


@dataclass(frozen=True)
class Ring:
    """The ring modulo some of the primes.

    Attributes:
        primes: the first of ``PRIMES``.

    Guarantees:
        ``inverse(forward(a))`` is a, and products of values are those of polynomials modulo X^N + 1.
    """

    primes: tuple[int, ...]

    @property
    def moduli(self) -> NDArray[np.uint64]:
        """The primes, shape (primes, 1)."""
        return np.array(self.primes, np.uint64)[:, None]

    def forward(self, coefficients: NDArray[Any]) -> Limbs:
        """Return the values of polynomials.

        Args:
            coefficients: whole numbers of magnitude below 2^30, shape (..., primes, N), or (..., 1, N) where
                one number has to be taken modulo every prime.
        """
        first, twist, last = self._forward
        shape = (*coefficients.shape[:-1], ROWS, COLUMNS)
        rows = _times(coefficients.reshape(shape).astype(np.float64), first, self._tables, left=True)
        return self._residues(_times(self._twisted(rows, twist), last, self._tables, left=False))

    def inverse(self, values: Limbs) -> Limbs:
        """Return the coefficients of polynomials by their values, shape (..., primes, N)."""
        first, twist, last = self._inverse
        shape = (*values.shape[:-1], ROWS, COLUMNS)
        rows = _times(values.reshape(shape).astype(np.float64), last, self._tables, left=False)
        return self._residues(_times(self._twisted(rows, twist), first, self._tables, left=True))

    def product(self, one: Limbs, other: Limbs) -> Limbs:
        """Return the products of residues, entry by entry."""
        return (np.multiply(one, other, dtype=np.uint64) % self.moduli).astype(np.uint32)

    def total(self, one: Limbs, other: Limbs) -> Limbs:
        """Return the sums of residues."""
        return (np.add(one, other, dtype=np.uint64) % self.moduli).astype(np.uint32)

    def difference(self, one: Limbs, other: Limbs) -> Limbs:
        """Return the differences of residues."""
        return ((one + (self.moduli - other)) % self.moduli).astype(np.uint32)

    def of_integers(self, integers: NDArray[np.int64]) -> Limbs:
        """Return the residues of signed integers, shape (..., n) -> (..., primes, n)."""
        return (integers[..., None, :] % self.moduli.astype(np.int64)).astype(np.uint32)

    @cached_property
    def _tables(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        primes = np.array(self.primes, np.float64).reshape(-1, 1, 1)
        return primes, 1 / primes

    @cached_property
    def _forward(self) -> tuple[_Halves, _Halves, _Halves]:
        return self._matrices(inverse=False)

    @cached_property
    def _inverse(self) -> tuple[_Halves, _Halves, _Halves]:
        return self._matrices(inverse=True)

    def _matrices(self, *, inverse: bool) -> tuple[_Halves, _Halves, _Halves]:
        """Return matrix of the rows, factors between, matrix of the columns.

        With i = COLUMNS i1 + i2 and k = k1 + ROWS k2 the power (2k + 1) i of a root of order 2N is that of
        (2 k1 + 1) COLUMNS i1, times (2 k1 + 1) i2, times 2 ROWS k2 i2: the rest is a multiple of 2N.
        """
        low, high = np.arange(ROWS), np.arange(COLUMNS)
        first, twist, last = [], [], []
        for prime in self.primes:
            powers = _powers(root_of_order(2 * DEGREE, prime), prime)
            sign = -1 if inverse else 1
            one = powers[sign * np.outer(2 * low + 1, COLUMNS * low) % (2 * DEGREE)]
            two = powers[sign * np.outer(2 * low + 1, high) % (2 * DEGREE)]
            three = powers[sign * 2 * ROWS * np.outer(high, high) % (2 * DEGREE)]
            if inverse:  # Columns come first here, so the matrix of the rows has its index of powers last.
                one, two = one.T, two * pow(DEGREE, -1, prime) % prime
            first.append(one)
            twist.append(two)
            last.append(three)
        return _halves(first), _halves(twist), _halves(last)

    def _twisted(self, rows: NDArray[np.float64], twist: _Halves) -> NDArray[np.float64]:
        high, low = twist
        done = _reduced(rows * high, self._tables)
        done *= _HALF
        done += rows * low
        return _reduced(done, self._tables)

    def _residues(self, values: NDArray[np.float64]) -> Limbs:
        """Return what ``_reduced`` left, as residues in one form."""
        primes, _ = self._tables
        values += primes * (values < 0)
        values -= primes * (values >= primes)
        return values.astype(np.uint32).reshape(*values.shape[:-2], DEGREE)


_Halves: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]

WIDE = Ring(PRIMES)
"""Of fresh ciphertexts: 150 bits."""
NARROW = Ring(PRIMES[:3])
"""Of what is sent back: 90 bits."""


class Sum:
    """Adds up products of values in words of 64 bits, and reduces them only when they could overflow.

    Args:
        ring: of the values.
        count: polynomials that are added into at once.
    """

    def __init__(self, ring: Ring, count: int) -> None:
        self._moduli = ring.moduli
        self._total = np.zeros((count, len(ring.primes), DEGREE), np.uint64)
        self._product = np.empty_like(self._total)
        self._added = 0

    def add(self, ones: NDArray[np.uint64], other: Limbs) -> None:
        """Add ``ones[i] * other`` to polynomial i; ``ones`` are residues in wide words."""
        if self._added == _LAZY - 1:  # What is reduced is below one product.
            self._total %= self._moduli
            self._added = 0
        np.multiply(ones, other.astype(np.uint64), out=self._product)
        self._total += self._product
        self._added += 1

    def residues(self) -> Limbs:
        """Return the sums."""
        return (self._total % self._moduli).astype(np.uint32)


def narrowed(limbs: Limbs) -> Limbs:
    """Return coefficients modulo the primes of ``NARROW``, of those modulo all, divided by the other primes.

    Each division rounds, and moves a coefficient by at most a half. What comes out is a function of what goes
    in and of nothing else.
    """
    for count in range(len(PRIMES) - 1, len(NARROW.primes) - 1, -1):
        prime, moduli = PRIMES[count], np.array(PRIMES[:count], np.int64)[:, None]
        last = limbs[..., count : count + 1, :].astype(np.int64)
        last -= prime * (last > prime // 2)
        inverse = np.array([[pow(prime, -1, p)] for p in PRIMES[:count]], np.int64)
        limbs = ((limbs[..., :count, :].astype(np.int64) - last) % moduli * inverse % moduli).astype(
            np.uint32
        )
    return limbs


def root_of_order(order: int, prime: int) -> int:
    """Return an element of an order that is a power of two."""
    candidates = (pow(base, (prime - 1) // order, prime) for base in range(2, prime))
    return next(root for root in candidates if pow(root, order // 2, prime) == prime - 1)


def _powers(root: int, prime: int) -> NDArray[np.int64]:
    """Return the powers of a root of order 2N, from 0 on."""
    powers = np.ones(1, np.int64)
    while len(powers) < 2 * DEGREE:
        powers = np.append(powers, powers * pow(root, len(powers), prime) % prime)
    return powers


def _halves(matrices: list[NDArray[np.int64]]) -> _Halves:
    stacked = np.array(matrices)
    return (stacked // _HALF).astype(np.float64), (stacked % _HALF).astype(np.float64)


def _times(
    values: NDArray[np.float64],
    matrix: _Halves,
    tables: tuple[NDArray[np.float64], NDArray[np.float64]],
    *,
    left: bool,
) -> NDArray[np.float64]:
    """Return matrix times values, or values times matrix, almost reduced.

    A residue is below 2^30, half of a root below 2^15, and 128 are added: below 2^52. Products are cut so
    small that BLAS keeps each in the thread that asked for it: its own threads would wait for each other.
    """
    if left:
        pieces = [half.reshape(-1, 2, ROWS // 2, ROWS) @ values[..., None, :, :] for half in matrix]
    else:
        quarters = values.reshape(*values.shape[:-2], 4, ROWS // 4, COLUMNS)
        pieces = [quarters @ half[:, None] for half in matrix]
    high, low = (piece.reshape(*piece.shape[:-3], ROWS, COLUMNS) for piece in pieces)
    done = _reduced(high, tables)
    done *= _HALF
    done += low
    return _reduced(done, tables)


def _reduced(
    values: NDArray[np.float64], tables: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Reduce in place, to -2 up to 2 above the prime: the quotient may be off by one near a multiple."""
    primes, inverses = tables
    quotient = values * inverses
    np.floor(quotient, out=quotient)
    quotient *= primes
    values -= quotient
    return values
