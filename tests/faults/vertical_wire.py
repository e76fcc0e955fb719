"""Searches what silos heard and the coordinator forwarded in a vertical job for what is one silo's alone.

Identifiers are looked for as text and as points: everybody can hash all there are, and the terms under which
stand in the query. Labels, first gradients and residuals are looked for as rows in the common order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.hazmat.curve import POINT_SIZE, hash_to_points
from secagg.names import SiloId
from secagg.psi.identifiers import read_identifiers
from secagg.psi.powers import SUITE
from secagg.vertical import Party
from secagg.vertical.lattice.product import rounded_to
from secagg.vertical.linear.links import logistic
from secagg.vertical.linear.newton import minimise
from secagg.vertical.linear.open_link import residual_bits
from secagg.vertical.linear.terms import Settings
from secagg.vertical.trees.gradients import Fixed, first_score, gradients
from tests.adversary.planted import Views
from tests.faults.vertical_world import NAMES

ROWS = 64
"""Rows of labels, gradients and residuals that are looked for together."""
QUERY = re.compile(rb"Query.{0,16}?\xc4\x20(.{32})", re.DOTALL)
"""The header of a query, with the terms."""


def leaks(
    heard: Mapping[SiloId, bytes],
    forwarded: bytes,
    *,
    job: bytes,
    tables: Sequence[Mapping[SiloId, Party]],
    order: NDArray[np.int64],
) -> list[str]:
    """Return what was found of whom, and who saw it.

    Args:
        heard: by each silo, once its channel was opened.
        forwarded: by the coordinator.
        job: digest of the job, which silos tell each other and nobody else.
        tables: of both.
        order: rows of the party with labels that are shared, in the common order.
    """
    found = ["the coordinator reads what silos say"] if job in forwarded else []
    terms = set(QUERY.findall(b"".join(heard.values())))
    assert terms, "no query was heard"
    for owner, other in zip(NAMES, reversed(NAMES), strict=True):
        assert job in heard[other], "what is said in clear is not found where it is heard"
        secrets = [each for table in tables for each in secrets_of(table[owner], terms, order)]
        for who, seen in ((other, heard[other]), ("the coordinator", forwarded)):
            view = Views()
            view.of[who] = bytearray(seen)
            found += [f"{who} sees {what} of {owner}" for what, values in secrets if view.show(values)]
    return found


def secrets_of(
    held: Party, terms: set[bytes], order: NDArray[np.int64]
) -> Iterator[tuple[str, Sequence[bytes]]]:
    """Yield what nobody but its owner may see, as it would look in a frame."""
    yield "identifiers", [str(key).encode() for key in held.ids]
    points = (hash_to_points(read_identifiers(held.ids).encoded, SUITE + each) for each in terms)
    yield "points", [one[at : at + POINT_SIZE] for one in points for at in range(0, len(one), POINT_SIZE)]
    yield "values", [value.tobytes() for value in held.X.ravel().astype("<f8")]
    if held.y is not None:
        labels = held.y[order]
        some = labels[:ROWS]
        packed = [np.packbits(some > 0, bitorder=each).tobytes() for each in ("big", "little")]
        yield "labels", [*(some.astype(kind).tobytes() for kind in ("u1", "<u4", "<i8", "<f8")), *packed]
        derivatives = gradients("logistic", np.full(len(labels), first_score("logistic", labels)), labels)
        yield "gradients", forms(derivatives[0], Fixed.of(derivatives).integers[0])
        left = first_residuals(held.X[order], labels)
        yield "residuals", forms(left, rounded_to(left, residual_bits(len(labels))))


def first_residuals(columns: NDArray[np.float64], labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what a regression leaves of the labels that has the columns of their owner alone."""
    own = np.vstack((columns.T, np.ones(len(labels))))
    penalty = np.diag([*np.full(len(own) - 1, Settings().l2), 0.0])
    return logistic(minimise(own, penalty, labels, np.zeros(len(own))) @ own) - labels


def forms(reals: NDArray[np.float64], fixed: NDArray[Any]) -> list[bytes]:
    """Return how a run of numbers would look."""
    kinds: list[NDArray[Any]] = [reals, -reals, reals.astype("<f4"), fixed.astype("<i8")]
    if np.abs(fixed).max() < 2**31:
        kinds.append(fixed.astype("<i4"))
    return [each[:ROWS].tobytes() for each in kinds]


def without_labels(party: Party) -> Party:
    return Party(party.name, party.X, party.ids, columns=party.columns)
