"""Sums of a party's columns, a row each, as words that add up modulo 2^64 under masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from secagg.conversation import Side, hear, say
from secagg.errors import InputRefused
from secagg.names import RealVector, SiloId
from secagg.payload import Payload
from secagg.vertical.linear import received
from secagg.vertical.linear.masks import Masks
from secagg.vertical.linear.messages import Sums
from secagg.vertical.linear.terms import MOST_PARTIES

_LIMIT = 2.0**62 / MOST_PARTIES


def send_sums(
    sums: RealVector, bits: int, number: int, *, masks: Masks, to: SiloId, senders: Sequence[SiloId]
) -> Side[None]:
    """Send a party's sums to who adds them up.

    Args:
        sums: shape (rows,).
        bits: of fraction.
        number: see ``Masks.masked``, as of the others.
        masks: of this party.
        to: see there.
        senders: see there.

    Raises:
        InputRefused: a sum is too large for 64 bits.
    """
    scaled = np.rint(np.ldexp(sums, bits))
    if not (np.abs(scaled) < _LIMIT).all():
        raise InputRefused("bound", "a row's sum of columns is too large: bring columns to one size")
    words = scaled.astype(np.int64).view(np.uint64)
    yield from say(to, Sums(Payload.of(masks.masked(words, number, to=to, senders=senders))))


def hear_sums(rows: int, bits: int, *, senders: Sequence[SiloId]) -> Side[RealVector]:
    """Return what the sums of all senders add up to, shape (rows,).

    Raises:
        FaultySilo: one sent another number of them.
    """
    total: NDArray[np.uint64] = np.zeros(rows, np.uint64)
    for sender in senders:
        said = yield from hear(sender, Sums)
        total += received.words(sender, said.sums, rows)
    return np.ldexp(total.view(np.int64).astype(np.float64), -bits)
