"""One party's matrix times another's hidden vector: the asker learns the products, the holder nothing.

1. The *holder* encrypts its vector of integers, a block of rows as the first coefficients of a polynomial.
2. The *asker* multiplies by polynomials that have several columns of its matrix, each backwards, so that one
   coefficient for each column has the inner product of a block (Huang et al., section 3). It adds up the
   blocks, an encryption of zero of its own making, a uniform mask that it keeps, and flooding noise; it sends
   the first half, and of the second half only the coefficients with products.
3. The holder opens these, sees masked values, and returns them; the asker takes its masks off.

**What the holder sees** can be simulated from sizes alone. (a) The errors in the coefficients that it gets
are at most ``noise_bound``, and flooding noise is uniform over 2^89 values: taking the errors away changes
its view by less than 2^-40, over all values of a session (``scale_bits`` keeps to it). (b) The asker's
encryption of zero is then a sample of ring learning with errors, with a secret of its own that is used once:
the first half is as good as uniform. (c) Each value has a mask that is uniform modulo t.
**What the asker sees**: ring learning with errors, and exact products modulo t. Opening never fails, so it
tells nothing of the holder's errors or key.

Both are taken to follow the protocol: an asker that does not can have anything opened that was hidden under
this key, and the key itself.

Source: Huang, Lu, Hong, Ding 2022, "Cheetah: lean and fast secure two-party deep neural network inference",
sections 3 and 5; flooding: Asharov et al. 2012, "Multiparty computation with low communication, computation
and interaction via threshold FHE", lemma 1; encryptions of zero: Lyubashevsky, Peikert, Regev 2010.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secagg.errors import ParameterError
from secagg.hazmat.cores import usable_cores
from secagg.hazmat.short import ERROR_VARIANCE, errors, ternary
from secagg.names import RandomSource
from secagg.vertical.lattice.ciphertexts import MASK, PLAIN_BITS, UNIT, SecretKey, centred
from secagg.vertical.lattice.ring import DEGREE, NARROW, WIDE, Limbs, Sum, narrowed
from secagg.vertical.lattice.sampling import (
    FLOOD_BITS,
    flood,
    uniform,
    words,
)

STATISTICAL_BITS = 40
"""kappa: noise tells of a matrix at most 2^-40, over all values of a session."""
FAILURE_BITS = 64
"""A bound on noise holds but for a probability of 2^-64 a value."""
MOST_ENTRY_BITS = 30
"""Entries of a matrix are below 2^30, as the transform takes them."""
CACHE_SIZE = 1 << 30
"""Bytes of a matrix's values that are kept from one product to the next; the rest is computed again."""


@dataclass(frozen=True)
class Layout:
    """How rows and columns lie in polynomials; both parties make the same one of sizes that both know.

    Attributes:
        rows: of the matrix, at least 1.
        stride: rows of a block, a power of two.
    """

    rows: int
    stride: int

    @classmethod
    def of(cls, rows: int, columns: int) -> Layout:
        """Return the layout with which the fewest words travel."""
        strides = (1 << bits for bits in range(DEGREE.bit_length()))

        def words_sent(layout: Layout) -> int:
            return len(WIDE.primes) * layout.blocks + len(NARROW.primes) * layout.replies(columns)

        return min((cls(rows, stride) for stride in strides), key=words_sent)

    @property
    def blocks(self) -> int:
        """Ciphertexts of a hidden vector."""
        return -(-self.rows // self.stride)

    @property
    def packed(self) -> int:
        """Columns in one polynomial."""
        return DEGREE // self.stride

    @property
    def places(self) -> NDArray[np.int64]:
        """The coefficients that have products, shape (packed,)."""
        return np.arange(self.packed) * self.stride + self.stride - 1

    def replies(self, columns: int) -> int:
        """Ciphertexts of the products with so many columns."""
        return -(-columns // self.packed)

    @property
    def hidden_shape(self) -> tuple[int, int, int]:
        """Of the second halves of a hidden vector."""
        return self.blocks, len(WIDE.primes), DEGREE

    def masked_shapes(self, columns: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Of the first halves, and of the coefficients, of masked products."""
        replies, primes = self.replies(columns), len(NARROW.primes)
        return (replies, primes, DEGREE), (replies, primes, self.packed)


@dataclass(frozen=True, eq=False, repr=False)
class Masked:
    """Products under masks, as they go to the holder: see ``Layout.masked_shapes``."""

    firsts: Limbs
    seconds: Limbs


def hide(key: SecretKey, vector: NDArray[np.int32], layout: Layout) -> tuple[bytes, Limbs]:
    """Return the ciphertexts of a vector, shape (rows,): a seed and ``Layout.hidden_shape`` values."""
    blocks = np.zeros((layout.blocks, layout.stride), np.int64)
    blocks.reshape(-1)[: layout.rows] = vector
    plain = np.zeros((layout.blocks, DEGREE), np.int64)
    plain[:, : layout.stride] = blocks
    return key.encrypt(plain)


def opened(key: SecretKey, masked: Masked, layout: Layout, columns: int) -> NDArray[np.uint64]:
    """Return masked products modulo t, shape (columns,): the holder's part, which it sends back."""
    return key.open(masked.firsts, masked.seconds, layout.places).reshape(-1)[:columns]


class Matrix:
    """An asker's matrix of integers, ready to be multiplied.

    Args:
        entries: shape (rows, columns), of magnitude below 2^30; see ``scale_bits``.
        layout: of its rows.
        cache_size: bytes that may be kept between products.
    """

    def __init__(self, entries: NDArray[np.int32], layout: Layout, *, cache_size: int = CACHE_SIZE) -> None:
        self._layout = layout
        self._columns = entries.shape[1]
        count = layout.replies(self._columns)
        # In the order of coefficients: (reply, block, column, row), the rows of a block backwards.
        self._polynomials = np.zeros((count, layout.blocks, layout.packed, layout.stride), np.int32)
        for block in range(layout.blocks):
            rows = entries[block * layout.stride : (block + 1) * layout.stride]
            wide = np.zeros((len(rows), count * layout.packed), np.int32)
            wide[:, : self._columns] = rows[::-1]
            columns = wide.reshape(len(rows), count, layout.packed).transpose(1, 2, 0)
            self._polynomials[:, block, :, layout.stride - len(rows) :] = columns
        self._kept: dict[int, Limbs] = {}
        self._room = cache_size // (4 * layout.blocks * len(WIDE.primes) * DEGREE)

    def masked_product(
        self,
        public: tuple[bytes, Limbs],
        hidden: tuple[bytes, Limbs],
        random: RandomSource = os.urandom,
    ) -> tuple[Masked, NDArray[np.uint64]]:
        """Multiply by a hidden vector: the asker's part.

        Args:
            public: the holder's, as ``SecretKey.public`` gave it.
            hidden: the vector, as ``hide`` gave it.
            random: where masks, noise and secrets come from.

        Returns:
            What the holder gets, and the masks, shape (columns,), which it does not get.

        Guarantees:
            ``unmasked(opened(...), masks)`` is the product with the vector, exactly.
        """
        layout, count = self._layout, len(self._polynomials)
        zero = np.stack((uniform(public[0], 1, WIDE)[0], public[1]))
        pairs = np.stack((uniform(hidden[0], layout.blocks, WIDE), hidden[1]), axis=1).astype(np.uint64)
        secrets, noise = (draw((count, DEGREE), random) for draw in (ternary, errors))
        masks = words(count * layout.packed, PLAIN_BITS, random).reshape(count, layout.packed)
        floods = [flood(layout.packed, WIDE, random) for _ in range(count)]

        def reply(at: int) -> tuple[Limbs, Limbs]:
            total = Sum(WIDE, 2)
            total.add(zero.astype(np.uint64), WIDE.forward(secrets[at, None]))
            for pair, values in zip(pairs, self._values(at), strict=True):
                total.add(pair, values)
            first, second = WIDE.inverse(total.residues())
            first = WIDE.total(first, WIDE.of_integers(noise[at]))
            hiding = np.multiply(masks[at] % WIDE.moduli, UNIT) + floods[at]
            second = WIDE.total(second[:, layout.places], (hiding % WIDE.moduli).astype(np.uint32))
            return narrowed(first), narrowed(second)

        with ThreadPoolExecutor(usable_cores()) as pool:
            firsts, seconds = zip(*pool.map(reply, range(count)), strict=True)
        return Masked(np.stack(firsts), np.stack(seconds)), masks.reshape(-1)[: self._columns]

    def _values(self, reply: int) -> Iterator[Limbs]:
        """Yield the values of one reply's polynomials, block by block."""
        if reply < self._room and reply not in self._kept:
            self._kept[reply] = np.stack([WIDE.forward(p.reshape(1, -1)) for p in self._polynomials[reply]])
        kept = self._kept.get(reply)
        if kept is not None:
            return iter(kept)
        return (WIDE.forward(polynomial.reshape(1, -1)) for polynomial in self._polynomials[reply])


def unmasked(given: NDArray[np.uint64], masks: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return products of what was opened, or of several such modulo t, and all their masks."""
    return centred(given - masks & MASK)


def noise_bound(norm: float) -> float:
    """Return the largest error in a coefficient that the holder gets, but for a probability of 2^-64.

    Errors of ciphertexts are weighed with the entries of a polynomial, those of the encryption of zero with a
    ternary secret, and of the holder's key with the errors that the asker added. Given the weights the sum
    is sub-Gaussian; t that a sum wraps by adds 1.

    Args:
        norm: Euclidean norm of the entries of one reply.
    """
    proxy = ERROR_VARIANCE * (norm**2 + 2 * DEGREE)
    return math.sqrt(2 * proxy * math.log(2) * (FAILURE_BITS + 1)) + 1


def scale_bits(
    matrix: NDArray[np.float64], layout: Layout, *, bound: int, values: int, least: int = -512
) -> int:
    """Return how many fraction bits the integers of a real matrix may have, the most that is safe.

    Args:
        matrix: finite, shape (rows, columns).
        layout: of its rows.
        bound: largest magnitude of an integer of the hidden vectors.
        values: products that one holder opens in the session.
        least: bits that are needed.

    Raises:
        ParameterError: fewer are safe.

    Guarantees:
        No product leaves the range of plaintexts.
        Noise tells at most ``2 ** -STATISTICAL_BITS`` over all values.
    """
    sums = float(np.abs(matrix).sum(axis=0).max())
    norm = float(np.sqrt(np.einsum("ij,ij->j", matrix, matrix).max() * layout.packed))
    largest = max(float(np.abs(matrix).max()), 2.0**-500)
    allowed = 2.0 ** (FLOOD_BITS - STATISTICAL_BITS) / values
    # Rounding adds at most a half to each entry.
    for bits in range(math.floor(MOST_ENTRY_BITS - 1 - math.log2(largest)), least - 1, -1):
        scale = 2.0**bits
        wraps = (sums * scale + layout.rows / 2) * bound >= 2 ** (PLAIN_BITS - 1)
        tells = noise_bound(norm * scale + math.sqrt(layout.rows * layout.packed) / 2) > allowed
        if not wraps and not tells:
            return bits
    raise ParameterError(
        f"{len(matrix)} rows need more than {PLAIN_BITS} bits: train on fewer rows or in fewer steps"
    )


def rounded_to(matrix: NDArray[np.float64], bits: int) -> NDArray[np.int32]:
    """Return integers of so many fraction bits, which are below 2^31."""
    scaled = np.ldexp(matrix, bits)
    return np.rint(scaled, out=scaled).astype(np.int32)
