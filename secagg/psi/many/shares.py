"""Shares of zero: for each identifier what each party adds, so that what all of them add is nothing.

Every two parties have a key, and both add the same 128 bits of it for an identifier. Over all parties each
term is there twice and their sum (XOR) is zero; where one party lacks the identifier, the rest is random to
whoever lacks the key of some two of the others.

Source: Kolesnikov, Matania, Pinkas, Rosulek, Trieu 2017, "Practical multi-party private set intersection from
symmetric-key techniques" (unconditional zero-sharing).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from blake3 import blake3

from secagg.errors import FaultySilo, MalformedMessage
from secagg.hazmat.agreement import AgreementKey, check_point
from secagg.names import SiloId
from secagg.psi.many.terms import ManyTerms
from secagg.psi.okvs import Words


def checked(sender: SiloId, public: bytes) -> bytes:
    """Return a public key.

    Raises:
        FaultySilo: it is none; see ``check_point``.
    """
    try:
        check_point(public)
    except MalformedMessage as error:
        raise FaultySilo(sender, str(error)) from error
    return public


def pair_keys(
    terms: ManyTerms, mine: SiloId, key: AgreementKey, others: Mapping[SiloId, bytes]
) -> dict[SiloId, bytes]:
    """Return the key that ``mine`` has with each other party, 32 bytes; ``others`` are ``checked``."""
    return {
        other: key.derive(public, "intersection share", terms.digest, tuple(sorted((mine, other))))
        for other, public in others.items()
    }


def zero_shares(keys: Mapping[SiloId, bytes], identifiers: Sequence[bytes]) -> Words:
    """Return what one party adds for each identifier: uint64, shape (len(identifiers), 2)."""
    total = np.zeros((len(identifiers), 2), np.uint64)
    for key in keys.values():
        drawn = b"".join(blake3(each, key=key).digest(16) for each in identifiers)
        total ^= np.frombuffer(drawn, np.uint64).reshape(-1, 2)
    return total
