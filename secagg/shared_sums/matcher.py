"""The matcher of a sum: it sees how many records are shared, and adds ciphertexts that it cannot open.

It matches as the receiver of a number only: its evaluated points come back in another order, so of a match it
knows neither which of its own records nor which of the holder's it is. What it adds it encrypts anew, under a
key of which the holder proves that no trace shines through, or the holder would know from what it sent which
ciphertexts were added. Where the matcher alone is to learn the sums, it adds a uniform number that it takes
off what the holder opened.

Source: Ion, Kreuter, Nergiz, Patel, Raykova, Saxena, Seth, Shanahan, Yung, EuroS&P 2020, "On deploying secure
computing: private intersection-sum-with-cardinality", the protocol from Diffie-Hellman for semi-honest
parties; tags stand in place of the holder's points as in ``secagg.psi.receiver``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from secagg.conversation import Side, hear, say
from secagg.errors import FaultySilo, MalformedMessage
from secagg.hazmat.curve import Exponent
from secagg.names import RandomSource
from secagg.paillier.ciphertexts import read
from secagg.paillier.gmp import mpz
from secagg.paillier.obfuscators import Pool
from secagg.paillier.permutation import check_permutation
from secagg.paillier.public import PublicKey
from secagg.payload import Buffer, Payload
from secagg.psi.identifiers import Identifiers
from secagg.psi.messages import Evaluated, Query, Tags
from secagg.psi.powers import Powers
from secagg.psi.sets import check_evaluated, raised, with_padding
from secagg.psi.shuffling import random_order
from secagg.psi.tags import as_tags, tags_of
from secagg.shared_sums.lanes import Lanes
from secagg.shared_sums.messages import Added, Encrypted, Opened
from secagg.shared_sums.outcome import SumOutcome
from secagg.shared_sums.terms import SumPolicy, SumTerms

_BATCH = 1024
"""Ciphertexts that are held as numbers."""


def matcher(
    terms: SumTerms,
    identifiers: Identifiers,
    *,
    policy: SumPolicy,
    powers: Powers,
    random: RandomSource = os.urandom,
) -> Side[SumOutcome]:
    """Run the matcher's side.

    Args:
        terms: that both agreed on.
        identifiers: the matcher's.
        policy: its own limits.
        powers: computes.
        random: for the exponent, the order, padding, obfuscators and masks.

    Raises:
        FaultySilo: the holder left the protocol.
        PolicyRefused: the holder's set is larger than is allowed here, or fewer are shared than may be added.

    Guarantees:
        What the holder opens is a uniform encryption of the sum, or of a uniform number, whatever the holder
        does.
        Of fewer records than ``policy`` allows nothing is sent.
    """
    holder = terms.holder
    known = with_padding(identifiers, random)
    exponent = Exponent.generate(random)
    asked = [known[at] for at in random_order(len(known), random)]
    points = powers.of_messages(asked, terms.digest, exponent)
    yield from say(holder, Query(terms.digest, Payload.of(np.frombuffer(points, np.uint8))))

    evaluated = (yield from hear(holder, Evaluated)).points
    check_evaluated(holder, evaluated, len(known))
    mine = tags_of(raised(holder, evaluated.array(), exponent.inverse, powers), terms.digest)
    theirs = as_tags(holder, (yield from hear(holder, Tags)).tags, policy)
    offer = yield from hear(holder, Encrypted)
    key = _key(terms, offer)
    lanes = Lanes(
        columns=terms.columns, largest=terms.largest, records=len(theirs), plaintext_bits=key.plaintext_bits
    )
    record = lanes.plaintexts * key.ciphertext_size
    if offer.ciphertexts.dtype != "u1" or offer.ciphertexts.length != len(theirs) * record:
        raise FaultySilo(holder, "it encrypted values of another number of records")

    try:
        check_ciphertexts(offer.ciphertexts.buffer(), key)
    except MalformedMessage as error:
        raise FaultySilo(holder, str(error)) from error

    shared = np.flatnonzero(np.isin(theirs, mine))
    policy.check_shared(len(shared))
    sums = _added(offer.ciphertexts.buffer(), shared, record, key)
    masks = [_uniform(key, random) if terms.learns == "matcher" else mpz(0) for _ in sums]
    anew = encrypted_anew(sums, masks, key, random)
    count = len(shared).to_bytes(4, "little")
    yield from say(holder, Added(count, Payload.of(np.frombuffer(anew, np.uint8))))
    if terms.learns == "holder":
        return SumOutcome(count=len(shared), sums=None)

    opened = (yield from hear(holder, Opened)).plaintexts
    size = key.bits // 8
    if opened.dtype != "u1" or opened.length != lanes.plaintexts * size:
        raise FaultySilo(holder, "it opened another number of sums")
    rows = opened.array().reshape(-1, size)
    plaintexts = [
        int((int.from_bytes(row.tobytes(), "little") - mask) % key.n)
        for row, mask in zip(rows, masks, strict=True)
    ]
    try:
        return SumOutcome(count=len(shared), sums=lanes.unpack(plaintexts, records=len(shared)))
    except MalformedMessage as error:
        raise FaultySilo(holder, str(error)) from error


def encrypted_anew(sums: Sequence[mpz], masks: Sequence[mpz], key: PublicKey, random: RandomSource) -> bytes:
    """Return ciphertexts of the same plaintexts plus ``masks``, that tell nothing of how they were made."""
    pool = Pool(PublicKey(key.n, obfuscation="full"), random=random)
    return b"".join(
        (each * (mask * key.n + 1) * pool.take() % key.n_squared).to_bytes(key.ciphertext_size, "big")
        for each, mask in zip(sums, masks, strict=True)
    )


def check_ciphertexts(ciphertexts: Buffer, key: PublicKey) -> None:
    """Check all, also those that are not added: what fails is not to tell which are.

    Raises:
        MalformedMessage: one is none.
    """
    some = _BATCH * key.ciphertext_size
    for start in range(0, len(ciphertexts), some):
        read(bytes(ciphertexts[start : start + some]), key)


def _added(ciphertexts: Buffer, shared: NDArray[np.int64], record: int, key: PublicKey) -> list[mpz]:
    """Return the product of the ciphertexts of shared records, which are ``record`` bytes each."""
    sums = [mpz(1)] * (record // key.ciphertext_size)
    for place in shared.tolist():
        found = read(bytes(ciphertexts[place * record : (place + 1) * record]), key)
        sums = [total * each % key.n_squared for total, each in zip(sums, found, strict=True)]
    return sums


def _key(terms: SumTerms, offer: Encrypted) -> PublicKey:
    try:
        key = PublicKey.from_bytes(offer.key)
        if key.bits != terms.bits:
            raise MalformedMessage(f"its key has {key.bits} bits, {terms.bits} were agreed")
        check_permutation(key, offer.roots, context=terms.digest)
    except MalformedMessage as error:
        raise FaultySilo(terms.holder, str(error)) from error
    return key


def _uniform(key: PublicKey, random: RandomSource) -> mpz:
    """Return a number below n, which is uniform but for 2^-128."""
    return mpz(int.from_bytes(random(key.bits // 8 + 16), "big")) % key.n
