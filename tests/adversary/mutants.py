"""Product code with one defence taken out, where more than one test needs it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.hazmat.curve import Exponent
from secagg.names import RandomSource
from secagg.records import SetSigned, SiloRecord
from secagg.roster import Roster
from secagg.survivors import LockKey, Locks
from secagg.vertical.trees.lattice import SECRETS
from secagg.vertical.trees.secret import SecretKey

_rebuild = Locks.__init__


def forgetful(self: Locks, _records: Iterable[SiloRecord] = ()) -> None:
    """``Locks.__init__`` of a silo that comes back without its journal."""
    _rebuild(self)


def any_set(_self: Locks, key: LockKey, *, roster: Roster, **fields: Any) -> SetSigned:
    """``Locks.sign`` without a look at what was signed before."""
    return SetSigned(key.data_set, key.base, **fields, roster=roster.digest)


class BareExponent(Exponent):
    """``Exponent`` that leaves points as they are."""

    __slots__ = ()

    @classmethod
    def generate(cls, _random: RandomSource = os.urandom) -> Exponent:
        return cls(bytes(32), bytes(32))

    @property
    def inverse(self) -> Exponent:
        return self

    def powers(self, points: bytes | memoryview) -> bytes:
        return bytes(points)


class NoCipher:
    """``AESGCM`` that hides nothing."""

    def __init__(self, _key: bytes) -> None:
        pass

    def encrypt(self, _nonce: bytes, data: bytes, _associated: bytes) -> bytes:
        return data + bytes(16)

    def decrypt(self, _nonce: bytes, data: bytes, _associated: bytes) -> bytes:
        return data[:-16]


def rows_in_clear(_: SecretKey, sums: NDArray[np.int64]) -> tuple[bytes, NDArray[np.uint8]]:
    """``SecretKey.encrypt`` that sends rows as they are."""
    blocks = -(-sums.shape[1] // 512)
    sent = np.zeros(blocks * SECRETS * 4096 * 14, np.uint8)
    sent[: sums.size * 8] = sums.reshape(-1).astype("<i8").view(np.uint8)
    return bytes(32), sent
