"""An intersection of two parties in one process: ``secagg.psi.intersect``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg import wire
from secagg.conversation import together
from secagg.names import SiloId
from secagg.psi.identifiers import Counts, Duplicates, Key, Rule, read_identifiers
from secagg.psi.powers import Powers, Progress
from secagg.psi.receiver import ReceiverSession
from secagg.psi.sender import SenderSession
from secagg.psi.sides import receiving, sending
from secagg.psi.terms import SESSION_SIZE, IntersectionPolicy, IntersectionTerms, Reveal


@dataclass(frozen=True, kw_only=True, eq=False)
class Intersection:
    """What two parties share.

    Attributes:
        count: records that both have.
        rows_a: int64, shape (count,): rows of ``ids_a``, in the order of ``rows_b``; None if only the number
            was asked for.
        rows_b: int64, shape (count,): rows of ``ids_b``; None if b was not to learn them.
        digest: of that order, 32 bytes, as every party computes it that learns the order; None where
            ``rows_a`` is.
        counts_a: how many of ``ids_a`` were given, missing, repeated.
        counts_b: the same of ``ids_b``.
        bytes_a: that a sent.
        bytes_b: that b sent.
    """

    count: int
    rows_a: NDArray[np.int64] | None = field(repr=False)
    rows_b: NDArray[np.int64] | None = field(repr=False)
    digest: bytes | None
    counts_a: Counts
    counts_b: Counts
    bytes_a: int
    bytes_b: int


def intersect(
    ids_a: Iterable[Key],
    ids_b: Iterable[Key],
    *,
    reveal: Reveal = "both",
    rule: Rule | None = None,
    duplicates: Duplicates = "refuse",
    policy: IntersectionPolicy | None = None,
    cores: int | None = None,
    progress: Progress | None = None,
) -> Intersection:
    """Find the records that two parties share, by the protocol that two silos run.

    Args:
        ids_a: identifiers of a, the receiver; see ``read_identifiers``.
        ids_b: identifiers of b, the sender.
        reveal: ``"both"``, ``"receiver"`` or ``"count"``; see ``IntersectionTerms``.
        rule: how identifiers are read; ``Rule()`` if None.
        duplicates: what becomes of an identifier that several rows of one party have.
        policy: limits of both; ``IntersectionPolicy()`` if None.
        cores: threads to compute with; None for one for each usable core.
        progress: told how many points were computed: three for each record of a, one for each of b, with
            padding.

    Raises:
        InputRefused: an identifier is none, or repeats and is refused.
        MissingExtra: rbcl or PyNaCl is not installed.
        ParameterError: a word that there is not.
        PolicyRefused: a set is too large, or fewer are shared than may be revealed.

    Guarantees:
        Rows are those of the set intersection of what ``read_identifiers`` gives.
        ``ids_a[rows_a[i]]`` and ``ids_b[rows_b[i]]`` are one identifier, for each i.
        Every message travels in the bytes of the wire.
    """
    rule, policy = rule or Rule(), policy or IntersectionPolicy()
    a = read_identifiers(ids_a, rule=rule, duplicates=duplicates, name="ids_a")
    b = read_identifiers(ids_b, rule=rule, duplicates=duplicates, name="ids_b")
    terms = IntersectionTerms(
        session=os.urandom(SESSION_SIZE), receiver="a", sender="b", reveal=reveal, rule=rule
    )
    powers = Powers(cores=cores, progress=progress)
    sent: Counter[SiloId] = Counter()
    outcomes = together(
        {
            "a": receiving(ReceiverSession(terms, a, policy=policy, powers=powers)),
            "b": sending(SenderSession(terms, b, policy=policy, powers=powers)),
        },
        watch=lambda sender, _, frame: sent.update({sender: wire.size_of(frame)}),
    )
    learned, told = outcomes["a"], outcomes["b"]
    return Intersection(
        count=learned.count,
        rows_a=learned.rows,
        rows_b=told.rows,
        digest=learned.digest,
        counts_a=a.counts,
        counts_b=b.counts,
        bytes_a=sent["a"],
        bytes_b=sent["b"],
    )
