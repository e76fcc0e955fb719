"""Randomness of a training: all of a party's from one secret that it keeps, so that a step repeats exactly.

A run that is killed goes on from a checkpoint, and sends again what it sent after it. With the noise drawn
anew, the same rows would leave twice with different noise; from the kept secret the same noise follows. It
follows from the rows too: where another party lost what it kept, other rows may come to stand in the same
place, and the same noise on both would give away their difference.

Source: the idea of RFC 6979, section 3 (a nonce that follows from key and content).
"""

from __future__ import annotations

import hashlib
from itertools import count
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secagg.hazmat.agreement import hkdf
from secagg.hazmat.framing import Field
from secagg.hazmat.prg import add_streams
from secagg.names import RandomSource
from secagg.vertical.split.ports import RealMatrix
from secagg.vertical.split.settings import SplitTerms

SEED_SIZE = 32

Use: TypeAlias = Literal["weights", "labels", "embeddings", "gradients", "name", "prediction"]


def stream(seed: bytes, use: Use, *context: Field) -> RandomSource:
    """Return a source whose bytes follow from a secret.

    Args:
        seed: the secret, 32 bytes.
        use: what for.
        context: what else tells this stream from others, in order.

    Guarantees:
        Two streams of other use or context have nothing in common.
    """
    calls = count()
    return lambda size: hkdf(seed, "split stream", use, context, next(calls), length=size)


def content(rows: RealMatrix) -> bytes:
    """Return a digest of ``rows`` for the context of their noise, 32 bytes; it stays where it is made."""
    return hashlib.sha256(np.ascontiguousarray(rows).tobytes()).digest()


def whole_seed(random: RandomSource) -> int:
    """Return 0 to 2**63 - 1, as frameworks take seeds."""
    return int.from_bytes(random(8), "big") >> 1


def batch_key(terms: SplitTerms) -> bytes:
    """Return what the order of records in steps follows from; all parties have it."""
    return hkdf(terms.digest, "split batches")


def batches(terms: SplitTerms) -> list[NDArray[np.int64]]:
    """Return the places of the records of each step; all parties have the same, and in every pass."""
    words = np.zeros(terms.count, np.uint64)
    add_streams(words, plus=[batch_key(terms)], threads=1)
    order = np.argsort(words, kind="stable")
    return np.array_split(order, max(1, terms.count // terms.settings.batch))
