"""An intersection of three to ten parties in one process: ``secagg.psi.intersect_many``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg import wire
from secagg.conversation import Side, together
from secagg.errors import ParameterError, ProtocolError
from secagg.names import SiloId
from secagg.psi.identifiers import Counts, Duplicates, Key, Rule, read_identifiers
from secagg.psi.many.follower import FollowerSession
from secagg.psi.many.leader import LeaderSession
from secagg.psi.many.sides import following, leading
from secagg.psi.many.terms import FEWEST, MOST, ManyReveal, ManyTerms
from secagg.psi.outcome import Outcome
from secagg.psi.powers import Powers, Progress
from secagg.psi.sides import learned
from secagg.psi.terms import SESSION_SIZE, IntersectionPolicy


@dataclass(frozen=True, kw_only=True, eq=False)
class ManyIntersection:
    """What all of several parties share.

    Attributes:
        count: records that all have.
        rows: party -> its rows, int64, shape (count,), all in one order; of the leader alone if only it was
            to learn.
        digest: of that order, 32 bytes, as every party computes it that learns the order.
        counts: party -> how many identifiers were given, missing, repeated.
        sent: party -> bytes that it sent.
    """

    count: int
    rows: Mapping[SiloId, NDArray[np.int64]] = field(repr=False)
    digest: bytes
    counts: Mapping[SiloId, Counts]
    sent: Mapping[SiloId, int]


def intersect_many(
    ids: Mapping[SiloId, Iterable[Key]],
    *,
    leader: SiloId | None = None,
    reveal: ManyReveal = "all",
    rule: Rule | None = None,
    duplicates: Duplicates = "refuse",
    policy: IntersectionPolicy | None = None,
    cores: int | None = None,
    progress: Progress | None = None,
) -> ManyIntersection:
    """Find the records that all of three to ten parties have, by the protocol that they run.

    Nobody learns what only some of them share, nor how much that is.

    Args:
        ids: party -> its identifiers; see ``read_identifiers``.
        leader: the party that learns first and computes most; the first one if None.
        reveal: ``"all"`` or ``"leader"``; see ``ManyTerms``.
        rule: how identifiers are read; ``Rule()`` if None.
        duplicates: what becomes of an identifier that several rows of one party have.
        policy: limits of each; ``IntersectionPolicy()`` if None.
        cores: threads to compute with; None for one for each usable core.
        progress: told how many points were computed.

    Raises:
        InputRefused: an identifier is none, or repeats and is refused.
        MissingExtra: rbcl or PyNaCl is not installed.
        ParameterError: fewer than three or more than ten parties, a leader that is none of them, a word that
            there is not.
        PolicyRefused: a set is too large, or fewer are shared than may be revealed.

    Guarantees:
        Rows are those of the set intersection of what ``read_identifiers`` gives.
        ``ids[p][rows[p][i]]`` is one identifier for every party p, for each i.
        Every message travels in the bytes of the wire.
    """
    rule, policy = rule or Rule(), policy or IntersectionPolicy()
    # A list is refused too, which a type checker holds to be impossible.
    if not hasattr(ids, "items") or len(ids) < FEWEST:
        raise ParameterError(
            f"give the identifiers of {FEWEST} to {MOST} parties: a mapping, name -> identifiers"
        )
    leader = next(iter(ids)) if leader is None else leader
    if leader not in ids:
        raise ParameterError(f"the leader {leader!r} is none of the parties: {', '.join(ids)}")
    terms = ManyTerms(
        session=os.urandom(SESSION_SIZE),
        leader=leader,
        followers=tuple(name for name in ids if name != leader),
        reveal=reveal,
        rule=rule,
        smallest_intersection=policy.smallest_intersection,
    )
    read = {
        name: read_identifiers(each, rule=rule, duplicates=duplicates, name=f"ids of {name}")
        for name, each in ids.items()
    }
    powers = Powers(cores=cores, progress=progress)
    sides: dict[SiloId, Side[Outcome | None]] = {
        name: following(FollowerSession(terms, name, read[name], policy=policy, powers=powers))
        for name in terms.followers
    }
    sides[leader] = leading(LeaderSession(terms, read[leader], policy=policy, powers=powers))
    sent: Counter[SiloId] = Counter()
    outcomes = together(sides, watch=lambda sender, _, frame: sent.update({sender: wire.size_of(frame)}))
    outcome = learned(outcomes[leader])
    if outcome.digest is None:
        raise ProtocolError("the leader ended without an order")
    rows = {
        name: each.rows
        for name in terms.parties
        if (each := outcomes[name]) is not None and each.rows is not None
    }
    return ManyIntersection(
        count=outcome.count,
        rows=rows,
        digest=outcome.digest,
        counts={name: each.counts for name, each in read.items()},
        sent=dict(sent),
    )
