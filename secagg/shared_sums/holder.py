"""The holder of a sum: it has the values, encrypts each, and opens the sum of those that are shared.

It evaluates the matcher's points as the sender of a number only. Beside its tags it sends the values of each,
encrypted; padding has values of zero, and none of it is ever shared. What it opens is one sum: which records
are in it no ciphertext tells, since the matcher encrypts anew. The values themselves may: see docs/psi.md.

Source: see ``matcher``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from secagg.conversation import Side, hear, say
from secagg.errors import FaultySilo, MalformedMessage, ParameterError, UsageError
from secagg.hazmat.curve import POINT_SIZE, Exponent
from secagg.names import RandomSource
from secagg.paillier.ciphertexts import encrypt, read
from secagg.paillier.obfuscators import Pool
from secagg.paillier.permutation import prove_permutation
from secagg.paillier.secret import SecretKey
from secagg.payload import Payload
from secagg.psi.identifiers import Identifiers
from secagg.psi.messages import Evaluated, Query, Tags
from secagg.psi.powers import Powers, Progress
from secagg.psi.sets import check_query, raised, with_padding
from secagg.psi.shuffling import random_order
from secagg.psi.tags import tags_of
from secagg.shared_sums.lanes import Lanes
from secagg.shared_sums.messages import Added, Encrypted, Opened
from secagg.shared_sums.outcome import SumOutcome
from secagg.shared_sums.terms import SumPolicy, SumTerms
from secagg.wire import MAX_LENGTH

_BATCH = 1024
"""Records that are encrypted before progress is told."""


def holder(
    terms: SumTerms,
    identifiers: Identifiers,
    values: Sequence[Sequence[int]],
    key: SecretKey,
    *,
    policy: SumPolicy,
    powers: Powers,
    threads: int | None = None,
    progress: Progress | None = None,
    random: RandomSource = os.urandom,
) -> Side[SumOutcome]:
    """Run the holder's side.

    Args:
        terms: that both agreed on.
        identifiers: the holder's.
        values: of each identifier, in their order: ``terms.columns`` from 0 to ``terms.largest``.
        key: of ``terms.bits``.
        policy: its own limits.
        powers: computes.
        threads: that encrypt; None for one for each usable core.
        progress: told how many records more were encrypted.
        random: for the exponent, orders, padding and obfuscators.

    Raises:
        FaultySilo: the matcher left the protocol, or agreed on other terms.
        ParameterError: there are too many records for one sum.
        PolicyRefused: the query is larger than is allowed here, or fewer are shared than may be added.
        UsageError: values or key are not those of the terms.

    Guarantees:
        Sums are exact, whatever the values.
        Of fewer records than ``policy`` allows nothing is opened.
    """
    matcher, public = terms.matcher, key.public
    if len(values) != len(identifiers) or public.bits != terms.bits:
        raise UsageError("a holder brings the values of each identifier, and a key of the agreed size")
    # What pads takes as long as what it pads, or the time would tell the size.
    known = with_padding(identifiers, random)
    lanes = Lanes(
        columns=terms.columns, largest=terms.largest, records=len(known), plaintext_bits=public.plaintext_bits
    )
    if len(known) * lanes.plaintexts * public.ciphertext_size > MAX_LENGTH:
        raise ParameterError(f"{len(known)} records are more than one sum takes; split them by identifier")

    query = yield from hear(matcher, Query)
    if query.terms != terms.digest:
        raise FaultySilo(matcher, "it agreed on another session, other parties, rules or sums")
    check_query(matcher, query.points, policy)
    points = query.points.array().reshape(-1, POINT_SIZE)
    exponent, order = Exponent.generate(random), random_order(len(points), random)
    evaluated = raised(matcher, points[order], exponent, powers)
    yield from say(matcher, Evaluated(Payload.of(np.frombuffer(evaluated, np.uint8))))

    tags = tags_of(powers.of_messages(known, terms.digest, exponent), terms.digest)
    places = np.argsort(tags)
    yield from say(matcher, Tags(Payload.of(tags[places].view(np.uint8))))

    nothing = (0,) * terms.columns
    pool, ciphertexts = Pool(public, random=random), bytearray()
    for start in range(0, len(known), _BATCH):
        some = places[start : start + _BATCH].tolist()
        rows = lanes.pack([values[at] if at < len(values) else nothing for at in some])
        pool.fill(len(rows), threads=threads)
        ciphertexts += b"".join(encrypt(rows, pool))
        if progress is not None:
            progress(len(some))
    encrypted = Payload.of(np.frombuffer(ciphertexts, np.uint8))
    roots = prove_permutation(key, context=terms.digest)
    yield from say(matcher, Encrypted(public.to_bytes(), roots, encrypted))

    added = yield from hear(matcher, Added)
    count = int.from_bytes(added.count, "little")
    if count > min(len(order), len(identifiers)):
        raise FaultySilo(matcher, "it counted more than there are")
    policy.check_shared(count)
    if added.ciphertexts.dtype != "u1" or added.ciphertexts.size != lanes.plaintexts * public.ciphertext_size:
        raise FaultySilo(matcher, "it added another number of values")
    try:
        sums = read(bytes(added.ciphertexts.buffer()[:]), public)
        opened = key.open(sums, size=public.bits // 8, threads=threads, random=random)
        learned = None
        if terms.learns != "matcher":
            plaintexts = [int.from_bytes(row.tobytes(), "little") for row in opened]
            learned = lanes.unpack(plaintexts, records=count)
    except MalformedMessage as error:
        raise FaultySilo(matcher, str(error)) from error
    if terms.learns != "holder":
        yield from say(matcher, Opened(Payload.of(opened.ravel())))
    return SumOutcome(count=count, sums=learned)
