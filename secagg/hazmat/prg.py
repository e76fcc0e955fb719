"""Mask streams: 32-byte keys expanded to integer vectors, added to a running total in place.

A stream is cut into spans of 2**22 elements with a key each, ``HKDF-Expand(stream key, "span" || s)`` with
s as big-endian uint32, so that spans can be made on several threads. A span's bytes are the AES-256-GCM
ciphertext of zeros under a zero nonce, tag dropped, read as little-endian words. That is AES-CTR from block
2 on; the GCM code paths are simply the fastest AES there is. Nothing here decides signs, keys or who shares
them, and a key must never mask two different vectors.

Source: NIST SP 800-38A (CTR), SP 800-38D (GCM); RFC 5869, section 2.3 (HKDF-Expand).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from numpy.typing import NDArray

from secagg.errors import ParameterError
from secagg.hazmat.cores import usable_cores
from secagg.names import IntegerVector

KEY_SIZE = 32
"""Bytes of a stream key."""
SPAN = 1 << 22
"""Elements that one span key covers, whatever the word size."""

# Zeros, keystream and the block of the total together stay in a core's L2 cache.
_BLOCK_SIZE = 1 << 18
# What update_into may demand beyond the input, in some versions of its library.
_SPARE = AES.block_size // 8 - 1


def add_streams(
    total: IntegerVector,
    *,
    plus: Sequence[bytes] = (),
    minus: Sequence[bytes] = (),
    threads: int | None = None,
) -> None:
    """Add the streams of ``plus`` to a vector and subtract those of ``minus``, modulo the word size.

    Args:
        total: uint32 or uint64, shape (length,), C-contiguous and writable; changed in place.
        plus: stream keys, 32 bytes each.
        minus: stream keys, 32 bytes each.
        threads: threads at most, at least 1; None for one for each usable core.

    Raises:
        ParameterError: the vector, a key or ``threads`` is not as described; the vector is unchanged.

    Guarantees:
        The result does not depend on ``threads``.
        The same keys added, then subtracted, leave the vector as it was.
        Every bit of a key changes the stream.
    """
    _check(total, (*plus, *minus), threads)
    spans = range(-(-total.size // SPAN))
    workers = min(usable_cores() if threads is None else threads, len(spans))

    def add_span(span: int) -> None:
        _add_span(total[span * SPAN : (span + 1) * SPAN], span, plus, minus)

    if workers <= 1:
        for span in spans:
            add_span(span)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(add_span, spans))  # The list raises what a thread raised.


def _add_span(total: NDArray[Any], span: int, plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
    streams: list[tuple[np.ufunc, CipherContext]] = [(np.add, _encryptor(key, span)) for key in plus]
    streams += [(np.subtract, _encryptor(key, span)) for key in minus]
    zeros = memoryview(bytes(_BLOCK_SIZE))
    buffer = memoryview(bytearray(_BLOCK_SIZE + _SPARE))
    words = np.frombuffer(buffer[:_BLOCK_SIZE], total.dtype.newbyteorder("<"))
    # The block is the outer loop, so that it is read and written once for all keys.
    for start in range(0, total.size, words.size):
        block = total[start : start + words.size]
        stream = words[: block.size]
        for accumulate, encryptor in streams:
            encryptor.update_into(zeros[: block.nbytes], buffer)
            accumulate(block, stream, out=block)


def _encryptor(key: bytes, span: int) -> CipherContext:
    info = b"span" + span.to_bytes(4, "big")
    span_key = HKDFExpand(algorithm=SHA256(), length=KEY_SIZE, info=info).derive(key)
    # Each span key encrypts one stream of zeros, so the nonce can be constant.
    return Cipher(AES(span_key), GCM(bytes(12))).encryptor()


def _check(total: IntegerVector, keys: Sequence[bytes], threads: int | None) -> None:
    if total.dtype not in (np.dtype(np.uint32), np.dtype(np.uint64)):
        raise ParameterError(f"masks are added to uint32 or uint64 vectors, not {total.dtype}")
    if total.ndim != 1 or not total.flags.c_contiguous or not total.flags.writeable:
        raise ParameterError("masks are added in place, to a one-dimensional, contiguous, writable vector")
    if any(len(key) != KEY_SIZE for key in keys):
        raise ParameterError(f"a stream key is {KEY_SIZE} bytes")
    if threads is not None and threads < 1:
        raise ParameterError(f"threads is at least 1, not {threads}")
