"""Product code with one defence taken out, where more than one test needs it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from secagg.hazmat.curve import Exponent
from secagg.names import RandomSource
from secagg.records import SetSigned, SiloRecord
from secagg.roster import Roster
from secagg.survivors import LockKey, Locks

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
