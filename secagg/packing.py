"""Many fixed-point integers in one large one, so that adding the large ones adds all of them.

A plaintext is a row of lanes, the first in its lowest bits. A lane holds the integer and a bias that makes it
non-negative; lanes are wide enough for the sum of the cohort, so nothing is carried into the next one. In the
first lane is no entry: all silos write the same integer there, by which rows and rounds that were mixed up by
accident are known. Whoever means to can write another.

Source: the packing of Paillier plaintexts in Ge and Zdonik, "Answering aggregation queries in a secure system
model", VLDB 2007, section 4.2; the bias makes it hold for negative values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.errors import InputRefused, ParameterError, RoundAborted, UsageError
from secagg.fixedpoint import SUM_LIMIT
from secagg.names import IntegerVector, WordBits

LANE_BITS: Mapping[int, int] = {32: 33, 64: 55}
"""Word bits -> bits of a lane. Sums take half of its values: in every second lane, what is no sum shows."""

_BLOCK = 512
"""Plaintexts whose bits are moved at a time: each entry takes a byte for each of its bits then."""


@dataclass(frozen=True)
class Packing:
    """How a vector lies in plaintexts.

    Attributes:
        word_bits: of the encoded entries, 32 or 64.
        cohort: largest number of vectors in one sum, at least 1.
        plaintext_bits: what a plaintext can hold: every value below ``2 ** plaintext_bits``.

    Raises:
        ParameterError: a field is out of range, or a plaintext has no room for two lanes.

    Guarantees:
        No sum of ``cohort`` packed vectors carries from one lane into another.
        What comes out is the sum of what went in, or RoundAborted.
    """

    word_bits: WordBits
    cohort: int
    plaintext_bits: int

    def __post_init__(self) -> None:
        if self.word_bits not in SUM_LIMIT:
            raise ParameterError(f"word_bits is {self.word_bits}, must be 32 or 64")
        if not 1 <= self.cohort <= SUM_LIMIT[self.word_bits]:
            raise ParameterError(f"cohort is {self.cohort}, must be at least 1, and leave an integer room")
        if self.lanes < 2:
            raise ParameterError(f"a plaintext of {self.plaintext_bits} bits has no room for two lanes")

    @property
    def lane_bits(self) -> int:
        """Bits of one lane."""
        return LANE_BITS[self.word_bits]

    @cached_property
    def bias(self) -> int:
        """Largest magnitude of one silo's integer, so that cohort of them stay within the limit of a sum."""
        return SUM_LIMIT[self.word_bits] // self.cohort

    @property
    def lanes(self) -> int:
        """Lanes of one plaintext."""
        return self.plaintext_bits // self.lane_bits

    @property
    def entries(self) -> int:
        """Entries in one plaintext."""
        return self.lanes - 1

    @property
    def row_bytes(self) -> int:
        """Bytes of one plaintext."""
        return -(-self.lanes * self.lane_bits // 8)

    def rows(self, length: int) -> int:
        """Return how many plaintexts hold ``length`` entries."""
        return -(-length // self.entries)

    def pack(self, vector: IntegerVector, checks: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the plaintexts of a vector.

        Args:
            vector: uint32 or uint64 as ``word_bits`` says, two's complement, shape (length,).
            checks: what all silos write into the first lanes, -``bias`` to ``bias``, shape (rows,).

        Returns:
            Shape (rows, row_bytes); each row is one plaintext, little-endian.

        Raises:
            UsageError: another dtype or shape.
            InputRefused: ``bound``: an integer is beyond ``bias``.
        """
        if vector.ndim != 1 or vector.dtype.itemsize * 8 != self.word_bits or vector.dtype.kind != "u":
            raise UsageError(f"a vector of {self.word_bits}-bit words is packed, not {vector.dtype}")
        signed = vector.view(np.int32 if self.word_bits == 32 else np.int64)
        if signed.size and not (-self.bias <= signed.min() and signed.max() <= self.bias):
            raise InputRefused("bound", f"an integer is beyond {self.bias}, the most for {self.cohort} silos")
        packed = np.empty((self.rows(vector.size), self.row_bytes), np.uint8)
        for rows, entries in self._blocks(vector.size):
            block = packed[rows]
            some = signed[entries]
            biased = np.zeros(len(block) * self.entries, "<i8")
            np.add(some, self.bias, out=biased[: some.size], dtype=np.int64)
            first = checks[rows].reshape(-1, 1) + self.bias
            row = np.concatenate([first, biased.reshape(len(block), -1)], axis=1, dtype="<i8")
            bits = np.unpackbits(row.reshape(-1).view(np.uint8), bitorder="little").reshape(-1, 64)
            lanes = bits[:, : self.lane_bits].reshape(len(block), -1)
            block[:] = np.packbits(lanes, axis=1, bitorder="little")
        return packed

    def unpack(
        self, rows: NDArray[np.uint8], checks: NDArray[np.int64], *, length: int, silos: int
    ) -> NDArray[Any]:
        """Return the sum of the vectors that were packed.

        Args:
            rows: sum of the plaintexts of each silo, as of ``pack``.
            checks: as each silo packed.
            length: entries of the vectors.
            silos: how many are in the sum, 1 to the cohort.

        Returns:
            uint32 or uint64, two's complement, shape (length,).

        Raises:
            UsageError: another shape or number of silos.
            RoundAborted: a lane holds what no sum of vectors packed with these checks gives.
        """
        if not 1 <= silos <= self.cohort:
            raise UsageError(f"silos is {silos}, must be 1 to the cohort {self.cohort}")
        if rows.dtype != np.uint8 or rows.shape != (self.rows(length), self.row_bytes):
            raise UsageError(f"plaintexts of {length} entries are unpacked, not an array of {rows.shape}")
        total = np.empty(length, np.int32 if self.word_bits == 32 else np.int64)
        used = self.lanes * self.lane_bits
        for some, entries in self._blocks(length):
            block = np.unpackbits(rows[some], axis=1, bitorder="little")
            bits = np.zeros((len(block) * self.lanes, 64), np.uint8)
            bits[:, : self.lane_bits] = block[:, :used].reshape(-1, self.lane_bits)
            lanes = np.packbits(bits, bitorder="little").view("<i8").reshape(len(block), -1)
            into, biased = total[entries], lanes[:, 1:].reshape(-1)
            if (
                block[:, used:].any()
                or (lanes[:, 0] != silos * (checks[some] + self.bias)).any()
                or biased[into.size :].any()
                or (biased > 2 * silos * self.bias).any()
            ):
                raise RoundAborted("the opened sum is not of vectors of this round: no model is made of it")
            np.subtract(biased[: into.size], silos * self.bias, out=into, casting="same_kind")
        return total.view(np.uint32 if self.word_bits == 32 else np.uint64)

    def _blocks(self, length: int) -> Iterator[tuple[slice, slice]]:
        """Yield which plaintexts, and which of ``length`` entries are in them."""
        for row in range(0, self.rows(length), _BLOCK):
            yield slice(row, row + _BLOCK), slice(row * self.entries, (row + _BLOCK) * self.entries)
