"""Several whole numbers side by side in one, each in a lane that no sum over all records can leave.

A lane is as wide as the largest value of one record times the number of records needs, so adding plaintexts
adds lane by lane and nothing is ever carried.

Source: Ge and Zdonik, VLDB 2007, section 4.2, as ``secagg.packing``, which is for vectors of signed words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secagg.errors import MalformedMessage, ParameterError, UsageError


@dataclass(frozen=True, kw_only=True)
class Lanes:
    """How the values of one record lie in plaintexts.

    Attributes:
        columns: values of a record, at least 1.
        largest: that a value may be, at least 1.
        records: in one sum at the most, at least 1.
        plaintext_bits: every number below ``2 ** plaintext_bits`` is a plaintext.

    Raises:
        ParameterError: a plaintext has no room for one lane.

    Guarantees:
        The sum of up to ``records`` packed records is below ``2 ** plaintext_bits``, and unpacks to the sum
        of each column.
    """

    columns: int
    largest: int
    records: int
    plaintext_bits: int

    def __post_init__(self) -> None:
        if self.bits > self.plaintext_bits:
            raise ParameterError(
                f"a sum of {self.records} values up to {self.largest} has no room in a plaintext of "
                f"{self.plaintext_bits} bits"
            )

    @property
    def bits(self) -> int:
        """Bits of one lane."""
        return (self.largest * self.records).bit_length()

    @property
    def lanes(self) -> int:
        """Lanes of one plaintext, at the most."""
        return min(self.columns, self.plaintext_bits // self.bits)

    @property
    def plaintexts(self) -> int:
        """Plaintexts of one record."""
        return -(-self.columns // self.lanes)

    def pack(self, records: Iterable[Sequence[int]]) -> NDArray[np.uint8]:
        """Return the plaintexts of records, ``plaintexts`` for each.

        Args:
            records: ``columns`` values each, from 0 to ``largest``.

        Returns:
            Shape (records * plaintexts, bytes), little-endian.

        Raises:
            UsageError: a value or their number is another.
        """
        size = -(-self.lanes * self.bits // 8)
        rows = bytearray()
        for record in records:
            if len(record) != self.columns or not all(0 <= value <= self.largest for value in record):
                raise UsageError(f"{self.columns} values from 0 to {self.largest} are packed")
            for start in range(0, self.columns, self.lanes):
                some = record[start : start + self.lanes]
                packed = sum(value << self.bits * lane for lane, value in enumerate(some))
                rows += packed.to_bytes(size, "little")
        return np.frombuffer(bytes(rows), np.uint8).reshape(-1, size)

    def unpack(self, plaintexts: Sequence[int], *, records: int) -> tuple[int, ...]:
        """Return the sum of each column.

        Args:
            plaintexts: sums of the packed ones, ``self.plaintexts`` of them, at least 0.
            records: how many were added.

        Raises:
            MalformedMessage: a lane holds what no sum of so many records gives.
        """
        sums: list[int] = []
        for plaintext in plaintexts:
            rest = plaintext
            for _ in range(min(self.lanes, self.columns - len(sums))):
                sums.append(rest & (1 << self.bits) - 1)
                rest >>= self.bits
            if rest:
                raise MalformedMessage("what was opened is no sum of packed values")
        if any(total > records * self.largest for total in sums):
            raise MalformedMessage("what was opened is no sum of so many values")
        return tuple(sums)
