"""Where a session's keys, exponents, orders and padding are drawn.

A session that is to say the same again after a crash draws everything from one seed. Each place of the
protocol has a stream of its own, so that what one place takes moves no other, and each draw a key of its own.

Source: RFC 5869 (HKDF); ``secagg.hazmat.prg`` for the bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal, NoReturn, TypeAlias

import numpy as np

from secagg.errors import ParameterError, UsageError
from secagg.hazmat.agreement import hkdf
from secagg.hazmat.prg import add_streams
from secagg.names import RandomSource

Place: TypeAlias = Literal["agreement", "exponent", "order", "padding", "table", "tags", "nonce"]
Draws: TypeAlias = Callable[[Place], RandomSource]
"""Gives the source of what is drawn at a place of the protocol."""

SEED_SIZE = 32


def fresh(_place: Place) -> RandomSource:
    """Return the operating system's randomness, for a session that is not to be resumed."""
    return os.urandom


def draw_key(seed: bytes, place: Place, number: int) -> bytes:
    """Return the key (32 bytes) of the stream of one draw; ``number`` counts those of a place from 1."""
    return hkdf(seed, "intersection randomness", place, number)


class Seeded:
    """Everything from one seed: a new one of these draws the same again.

    Args:
        seed: 32 bytes, drawn for one session and one party.

    Raises:
        ParameterError: a seed of another size.

    Guarantees:
        Two of one seed give the same at each place, whatever is drawn at others.
        No two places and no two draws of one have bytes in common, but by chance.
        Its repr shows nothing.
        It refuses to be copied or pickled.
    """

    __slots__ = ("_drawn", "_seed")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_SIZE:
            raise ParameterError(f"a session's seed is {SEED_SIZE} bytes, not {len(seed)}")
        self._seed = seed
        self._drawn: dict[Place, int] = {}

    def __call__(self, place: Place) -> RandomSource:
        """Return the stream of ``place``, which goes on where it was."""

        def draw(size: int) -> bytes:
            number = self._drawn[place] = self._drawn.get(place, 0) + 1
            words = np.zeros(-(-size // 4), np.uint32)
            add_streams(words, plus=[draw_key(self._seed, place, number)])
            return words.tobytes()[:size]

        return draw

    def __repr__(self) -> str:
        return "Seeded()"

    def __reduce__(self) -> NoReturn:
        raise UsageError("a session's randomness is not copied or pickled; it belongs to one session")
