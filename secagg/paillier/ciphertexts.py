"""Encrypting packed plaintexts, checking ciphertexts of others, and adding them one after the other.

A vector's ciphertexts travel end to end, each as big-endian bytes of one size. Nothing here opens anything.

Source: Paillier, EUROCRYPT 1999, scheme 1 with g = n + 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.errors import MalformedMessage, UsageError
from secagg.paillier.gmp import gmpy2, mpz
from secagg.paillier.obfuscators import Pool
from secagg.paillier.public import PublicKey
from secagg.payload import EndToEnd

_BATCH = 64
"""Ciphertexts that are checked by one greatest common divisor."""


def encrypt(
    rows: NDArray[np.uint8], pool: Pool, *, obfuscators: Iterable[mpz] | None = None
) -> Iterator[bytes]:
    """Yield the ciphertext of every plaintext.

    Args:
        rows: shape (count, size), plaintexts as little-endian bytes, each below n.
        pool: of the key; one obfuscator is taken for each.
        obfuscators: of the pool, taken before: one for each, used nowhere else.

    Raises:
        UsageError: a plaintext may not be below n.
    """
    key = pool.key
    n, n_squared, size = key.n, key.n_squared, key.ciphertext_size
    last = (key.plaintext_bits - 1) // 8  # The byte that plaintexts fill in part.
    if rows.ndim != 2 or rows.shape[1] > last + 1 or (rows[:, last:] >> key.plaintext_bits - 8 * last).any():
        raise UsageError(f"plaintexts of at most {key.plaintext_bits} bits are encrypted, not {rows.shape}")
    taken = (pool.take() for _ in rows) if obfuscators is None else obfuscators
    for plaintext, obfuscator in zip(plaintexts(rows), taken, strict=True):
        yield ((plaintext * n + 1) * obfuscator % n_squared).to_bytes(size, "big")


def plaintexts(rows: NDArray[np.uint8]) -> Iterator[mpz]:
    """Yield the plaintexts of ``encrypt``'s rows as numbers."""
    for row in rows:
        yield mpz.from_bytes(row.tobytes(), "little")


def read(data: bytes | memoryview, key: PublicKey) -> list[mpz]:
    """Return the ciphertexts in ``data``, each checked.

    Raises:
        MalformedMessage: the bytes are not whole ciphertexts, or one is not below n^2, has a factor of n, or
            hides nothing because no obfuscator is in it.
    """
    size = key.ciphertext_size
    if len(data) % size:
        raise MalformedMessage(f"{len(data)} bytes are not whole ciphertexts of {size}")
    found = [mpz.from_bytes(bytes(data[start : start + size]), "big") for start in range(0, len(data), size)]
    for start in range(0, len(found), _BATCH):
        product = mpz(1)
        for ciphertext in found[start : start + _BATCH]:
            residue = ciphertext % key.n
            # Without an obfuscator it is 1 modulo n, whatever the plaintext.
            if ciphertext >= key.n_squared or residue == 1:
                raise MalformedMessage("a number was sent that is no ciphertext under this key")
            product = product * residue % key.n
        if gmpy2.gcd(product, key.n) != 1:
            raise MalformedMessage("a number was sent that is no ciphertext under this key")
    return found


class Total:
    """The running sum of vectors of ciphertexts.

    Args:
        key: of all of them.
        count: ciphertexts of one vector.

    Guarantees:
        One vector of ciphertexts is held, however many are added.
    """

    def __init__(self, key: PublicKey, count: int) -> None:
        self._key = key
        self._sums = [mpz(1)] * count
        self.vectors = 0

    def add(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Add one vector, which comes in pieces of whole ciphertexts.

        Raises:
            MalformedMessage: it has another number of ciphertexts, or one that is none. A part of it may have
                been added, so the sum is of no use.
        """
        at = 0
        for piece in pieces:
            ciphertexts = read(piece, self._key)
            if at + len(ciphertexts) > len(self._sums):
                raise MalformedMessage(f"more than {len(self._sums)} ciphertexts were sent")
            for ciphertext in ciphertexts:
                self._sums[at] = self._sums[at] * ciphertext % self._key.n_squared
                at += 1
        if at != len(self._sums):
            raise MalformedMessage(f"{at} ciphertexts were sent, {len(self._sums)} are needed")
        self.vectors += 1

    def ciphertexts(self) -> EndToEnd:
        """Return the ciphertexts of the sum, which are read where they lie: nothing is added afterwards.

        Raises:
            UsageError: nothing was added: there would be nothing that hides a plaintext.
        """
        if not self.vectors:
            raise UsageError("a sum of no vectors is not sent")
        sums, size = self._sums, self._key.ciphertext_size
        return EndToEnd(len(sums), size, lambda at: memoryview(sums[at].to_bytes(size, "big")))

    def __repr__(self) -> str:
        return f"Total({len(self._sums)} ciphertexts, {self.vectors} vectors)"


def plaintext_rows(plaintexts: Iterable[Any], size: int) -> NDArray[np.uint8]:
    """Return plaintexts as rows of ``size`` bytes, little-endian.

    Raises:
        OverflowError: one has more bytes.
    """
    data = b"".join(int(plaintext).to_bytes(size, "little") for plaintext in plaintexts)
    return np.frombuffer(data, np.uint8).reshape(-1, size)
