"""Searches what silos heard and the coordinator forwarded in a vertical job for what is one silo's alone.

Identifiers are looked for as text and as points: everybody can hash all there are, and the terms under which
stand in the query. Column values are looked for as they were read, and as the way of learning holds them: in
bins, or as the integers that a regression multiplies. Labels, first gradients and residuals are looked for as
rows in the common order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secagg.hazmat.curve import POINT_SIZE, hash_to_points
from secagg.names import SiloId
from secagg.psi.identifiers import read_identifiers
from secagg.psi.powers import SUITE
from secagg.vertical import Party
from secagg.vertical.lattice.product import rounded_to
from secagg.vertical.lattice.ring import WIDE
from secagg.vertical.linear.coordinates import Coordinates
from secagg.vertical.linear.links import logistic
from secagg.vertical.linear.newton import minimise
from secagg.vertical.linear.open_link import CURVATURE, residual_bits
from secagg.vertical.linear.pieces import Pieces, vector_bits
from secagg.vertical.linear.products import Roles
from secagg.vertical.linear.terms import Settings
from secagg.vertical.trees.cells import Binned
from secagg.vertical.trees.gradients import Fixed, first_score, gradients
from silo.vertical.job_file import VerticalJob
from tests.adversary.planted import Views, encodings
from tests.faults.vertical_world import NAMES

ROWS = 64
"""Rows of labels, gradients and residuals that are looked for together."""
RUN = 16
"""Rows of a column in bins or integers that are looked for together."""
QUERY = re.compile(rb"Query.{0,16}?\xc4\x20(.{32})", re.DOTALL)
"""The header of a query, with the terms."""
Secret: TypeAlias = tuple[str, Sequence[bytes]]
"""What nobody but its owner may see, as it would look in a frame."""


def leaks(
    heard: Mapping[SiloId, bytes],
    forwarded: bytes,
    *,
    job: VerticalJob,
    trained: Mapping[SiloId, Party],
    order: NDArray[np.int64] | None,
    scored: Mapping[SiloId, Party] | None = None,
) -> list[str]:
    """Return what was found of whom, and who saw it.

    Args:
        heard: by each silo, once its channel was opened.
        forwarded: by the coordinator.
        job: whose digest silos tell each other and nobody else.
        trained: what both learned from.
        order: rows of the party with labels that are shared, in the common order; None if training did not
            begin.
        scored: what both brought to a prediction.
    """
    found = ["the coordinator reads what silos say"] if job.digest in forwarded else []
    terms = set(QUERY.findall(b"".join(heard.values())))
    assert terms, "no query was heard"
    for owner, other in zip(NAMES, reversed(NAMES), strict=True):
        assert job.digest in heard[other], "what is said in clear is not found where it is heard"
        secrets = [*of_table(trained[owner], terms)]
        if order is not None:
            secrets += of_training(owner, trained, order, job)
        if scored is not None:
            secrets += of_table(scored[owner], terms)
        for who, seen in ((other, heard[other]), ("the coordinator", forwarded)):
            view = Views()
            view.of[who] = bytearray(seen)
            found += [f"{who} sees {what} of {owner}" for what, values in secrets if view.show(values)]
    return found


def of_table(held: Party, terms: set[bytes]) -> Iterator[Secret]:
    """Yield what stands in a party's table, whatever is made of it."""
    yield "identifiers", [str(key).encode() for key in held.ids]
    points = (hash_to_points(read_identifiers(held.ids).encoded, SUITE + each) for each in terms)
    yield "points", [one[at : at + POINT_SIZE] for one in points for at in range(0, len(one), POINT_SIZE)]
    values = held.X.ravel()
    single = [value.tobytes() for value in values.astype("<f8")]
    digits = [repr(value).encode() for value in values.tolist()]
    yield "values", [*single, *digits, *encodings(held.X), *encodings(held.X.T)]
    if held.y is not None:
        yield "labels", as_labels(held.y)


def of_training(
    owner: SiloId, trained: Mapping[SiloId, Party], order: NDArray[np.int64], job: VerticalJob
) -> Iterator[Secret]:
    """Yield what a job of trees or of a logistic regression makes of a party's columns and labels."""
    held, labelled = trained[owner], next(each for each in trained.values() if each.y is not None)
    row_of = {key: row for row, key in enumerate(held.ids)}
    rows = [row_of[labelled.ids[at]] for at in order]
    columns = held.X[rows]
    labels = None if held.y is None else held.y[rows]
    if labels is not None:
        yield "labels", as_labels(labels)
    if job.trees is not None:
        bins = Binned.of(columns, job.trees.bins).bins
        yield "bins", list(runs(bins, ("u1", "<u4", "<i8")))
        if labels is not None:
            loss = job.trees.loss
            derivatives = gradients(loss, np.full(len(labels), first_score(loss, labels)), labels)
            yield "gradients", forms(derivatives[0], Fixed.of(derivatives).integers[0])
    if job.logistic is not None:
        settings = job.logistic.settings()
        if labels is None or settings.link == "poly":
            design, integers = multiplied(owner, trained, columns, settings)
            yield (
                "columns in fixed point",
                [
                    *runs(design.T, ("<f8", "<f4")),
                    *runs(integers.T, ("<i4", "<i8")),
                    *(
                        run
                        for limb in WIDE.of_integers(integers.T.astype(np.int64)).swapaxes(0, 1)
                        for run in runs(limb, ("<u4",))
                    ),
                ],
            )
        if labels is not None:
            if settings.link == "open":
                left, bits = first_residuals(columns, labels, settings.l2), residual_bits(len(labels))
            else:
                left, bits = settings.polynomial.constant - labels, vector_bits(len(labels), settings.degree)
            yield "residuals", forms(left, rounded_to(left, bits))


def as_labels(labels: NDArray[np.float64]) -> list[bytes]:
    """Return how a run of labels would look."""
    some = labels[:ROWS]
    packed = [np.packbits(some > 0, bitorder=each).tobytes() for each in ("big", "little")]
    return [*(some.astype(kind).tobytes() for kind in ("u1", "<u4", "<i8", "<f4", "<f8")), *packed]


def runs(columns: NDArray[Any], kinds: Sequence[str]) -> Iterator[bytes]:
    """Yield how columns, shape (columns, rows), would look: in both directions, and row by row."""
    for lines in (*columns, *columns[:, ::-1], columns.T.reshape(-1)):
        for kind in kinds:
            whole = lines.astype(kind)
            yield from (whole[at : at + RUN].tobytes() for at in range(0, len(whole) - RUN + 1, RUN))


def multiplied(
    owner: SiloId, trained: Mapping[SiloId, Party], columns: NDArray[np.float64], settings: Settings
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Return the matrix of a regression that a party multiplies, as reals and as the integers that it is."""
    rows, hidden = len(columns), settings.link == "poly"
    askers = {name: each.X.shape[1] + (each.y is not None) for name, each in trained.items()}
    if not hidden:
        askers = {name: width for name, width in askers.items() if trained[name].y is None}
    layout = Roles(holders=(), askers=askers).layout(rows * settings.degree)
    mine = Coordinates(
        owner,
        columns,
        intercept=trained[owner].y is not None,
        l2=settings.l2,
        curvature=settings.polynomial.first if hidden else CURVATURE,
    )
    values = askers[owner] * settings.steps
    if hidden:
        bits = vector_bits(rows, settings.degree)
        places = Pieces(settings, mine, layout, bits=bits, values=values * (len(trained) - 1)).places
    else:
        _, places = mine.round(layout, bound=1 << residual_bits(rows), values=values)
    return mine.design, rounded_to(mine.design, places)


def first_residuals(
    columns: NDArray[np.float64], labels: NDArray[np.float64], l2: float
) -> NDArray[np.float64]:
    """Return what a regression leaves of the labels that has the columns of their owner alone."""
    own = np.vstack((columns.T, np.ones(len(labels))))
    penalty = np.diag([*np.full(len(own) - 1, l2), 0.0])
    return logistic(minimise(own, penalty, labels, np.zeros(len(own))) @ own) - labels


def forms(reals: NDArray[np.float64], fixed: NDArray[Any]) -> list[bytes]:
    """Return how a run of numbers would look."""
    kinds: list[NDArray[Any]] = [reals, -reals, reals.astype("<f4"), fixed.astype("<i8")]
    if np.abs(fixed).max() < 2**31:
        kinds.append(fixed.astype("<i4"))
    return [each[:ROWS].tobytes() for each in kinds]


def without_labels(party: Party) -> Party:
    return Party(party.name, party.X, party.ids, columns=party.columns)
