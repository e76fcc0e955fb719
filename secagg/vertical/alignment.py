"""Records that all parties have, found by private set intersection and put into one order.

``align`` runs every party in this process. Between silos each party has the alignment of its own rows only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg.errors import ParameterError, ProtocolError
from secagg.names import RealVector, SiloId
from secagg.psi.identifiers import Counts, Duplicates, Rule
from secagg.psi.intersection import intersect
from secagg.psi.many.intersection import intersect_many
from secagg.psi.powers import Progress
from secagg.psi.terms import IntersectionPolicy
from secagg.vertical.party import Party


@dataclass(frozen=True, kw_only=True, eq=False)
class Alignment:
    """Which rows of each party are one record.

    Attributes:
        parties: in the order given; at most one has labels.
        rows: party -> int64, shape (count,): its rows, in the order that all have.
        digest: of that order, 32 bytes, as all parties compute it.
        counts: party -> how many of its rows were given, missing, repeated.
    """

    parties: tuple[Party, ...]
    rows: Mapping[SiloId, NDArray[np.int64]] = field(repr=False)
    digest: bytes
    counts: Mapping[SiloId, Counts] = field(repr=False)

    @property
    def count(self) -> int:
        """Records that all have."""
        return len(self.rows[self.parties[0].name])

    @property
    def names(self) -> tuple[SiloId, ...]:
        """Names of the parties, in order."""
        return tuple(party.name for party in self.parties)

    @property
    def label_party(self) -> SiloId:
        """Name of the party that has labels.

        Raises:
            ParameterError: none has.
        """
        return self._labelled[0]

    def features(self, name: SiloId) -> NDArray[np.float64]:
        """Return the rows of one party's columns, shape (count, columns), in the order that all have."""
        party = next(party for party in self.parties if party.name == name)
        return party.X[self.rows[name]]

    def labels(self) -> RealVector:
        """Return the labels, shape (count,), in that order.

        Raises:
            ParameterError: no party has labels.
        """
        name, labels = self._labelled
        return labels[self.rows[name]]

    @property
    def _labelled(self) -> tuple[SiloId, RealVector]:
        for party in self.parties:
            if party.y is not None:
                return party.name, party.y
        raise ParameterError("no party has labels: give y to the one that has them")


def align(
    parties: Sequence[Party],
    *,
    rule: Rule | None = None,
    duplicates: Duplicates = "refuse",
    policy: IntersectionPolicy | None = None,
    progress: Progress | None = None,
) -> Alignment:
    """Find the records that all parties have, by the protocol that silos run.

    Args:
        parties: 2 to 10; at most one has labels.
        rule: how identifiers are read; ``Rule()`` if None.
        duplicates: what becomes of an identifier that several rows of one party have.
        policy: limits of each party; ``IntersectionPolicy()`` if None.
        progress: told how many points were computed.

    Raises:
        InputRefused: an identifier is none, or repeats and is refused.
        MissingExtra: rbcl or PyNaCl is not installed.
        ParameterError: too few or too many parties, one name twice, or several have labels.
        PolicyRefused: a set is too large, or fewer are shared than may be revealed.

    Guarantees:
        ``ids[rows[p][i]]`` is one identifier at every party p, for each i.
        With three parties or more, nobody learns what only some of them share.
    """
    names = [party.name for party in parties]
    if len(set(names)) != len(names):
        raise ParameterError("two parties have one name")
    labelled = [party.name for party in parties if party.y is not None]
    if len(labelled) > 1:
        raise ParameterError(f"one party has the labels; here {' and '.join(labelled)} do")
    if len(parties) == 2:
        a, b = parties
        two = intersect(a.ids, b.ids, rule=rule, duplicates=duplicates, policy=policy, progress=progress)
        if two.rows_a is None or two.rows_b is None or two.digest is None:
            raise ProtocolError("the parties ended without a result")
        rows = {a.name: two.rows_a, b.name: two.rows_b}
        digest, counts = two.digest, {a.name: two.counts_a, b.name: two.counts_b}
    else:
        many = intersect_many(
            {party.name: party.ids for party in parties},
            rule=rule,
            duplicates=duplicates,
            policy=policy,
            progress=progress,
        )
        rows, digest, counts = dict(many.rows), many.digest, dict(many.counts)
    return Alignment(parties=tuple(parties), rows=rows, digest=digest, counts=counts)
