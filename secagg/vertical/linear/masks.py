"""Masks that vanish in a sum: what several parties send to one, which sees the sum of it and no part.

Each two of the senders add and subtract a stream of a key that they alone have. A single sender has nobody
to hide behind: what it sends is in clear, and reports say so.

Source: Bonawitz et al. 2017, section 4 (pairwise masks, here without dropouts).
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from secagg.errors import FaultySilo, MalformedMessage
from secagg.hazmat.agreement import AgreementKey, check_point
from secagg.hazmat.prg import add_streams
from secagg.names import RandomSource, SiloId


def pair_key(
    own: AgreementKey, public: bytes, terms: bytes, number: int, *, to: SiloId, one: SiloId, other: SiloId
) -> bytes:
    """Return the key of the stream that two senders of a sum have, 32 bytes; see ``Masks.masked``."""
    return own.derive(public, "vertical mask", terms, number, to, tuple(sorted((one, other))))


class Masks:
    """One party's masks in one session.

    Args:
        name: of the party.
        terms: digest of what all agreed on.
        random: where its key comes from.
    """

    def __init__(self, name: SiloId, terms: bytes, random: RandomSource = os.urandom) -> None:
        self._name = name
        self._terms = terms
        self._key = AgreementKey.generate(random)
        self._peers: dict[SiloId, bytes] = {}

    @property
    def public(self) -> bytes:
        """What the others need, 32 bytes."""
        return self._key.public

    def meet(self, peer: SiloId, public: bytes) -> None:
        """Take another party's public key.

        Raises:
            FaultySilo: it is none.
        """
        try:
            check_point(public)
        except MalformedMessage as error:
            raise FaultySilo(peer, str(error)) from error
        self._peers[peer] = public

    def masked(
        self, vector: NDArray[np.uint64], number: int, *, to: SiloId, senders: Iterable[SiloId]
    ) -> NDArray[np.uint64]:
        """Return a vector under this party's masks.

        Args:
            vector: words modulo 2^64.
            number: of the sum: no two sums to one receiver have the same in a session.
            to: who gets the sum.
            senders: all whose vectors are in it; this party is one.

        Guarantees:
            The masks of all senders add up to zero.
        """
        plus: list[bytes] = []
        minus: list[bytes] = []
        for peer in senders:
            if peer != self._name:
                key = pair_key(
                    self._key, self._peers[peer], self._terms, number, to=to, one=self._name, other=peer
                )
                (plus if self._name < peer else minus).append(key)
        total = vector.copy()
        add_streams(total, plus=plus, minus=minus)
        return total
