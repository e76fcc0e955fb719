"""Regression where nobody sees a row's sum: the expected label is a polynomial of it.

With u_p the sum of party p's columns in a row, and y the label, the gradient of party p is its columns times
``constant - y + first u + third u^3``, u the sum of all u_q. What p needs of another party q is linear in
vectors that q has, with matrices that p has:

- degree 1: its columns times ``first u_q``, and from the label party times ``constant - y`` too;
- degree 3, two parties, by ``u^3 = u_q^3 + 3 u_q^2 u_p + 3 u_q u_p^2 + u_p^3``: also its columns times
  ``third u_q^3``, its columns times u_p times ``3 third u_q^2``, and its columns times u_p^2 times ``3 third
  u_q``. That is one product with a vector three times as long.

Every party hides its vectors under its own key, learns the whole products, and what it adds itself
(``secagg.vertical.linear.products``). The label party decides where to go from inner products of gradients
(``secagg.vertical.linear.descent``).

**What each party sees**: its own gradients, the label party inner products of all gradients, the others what
multiples of their gradients make a step. Source of the product: ``secagg.vertical.lattice.product``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from secagg.conversation import Side, hear, say
from secagg.errors import FaultySilo
from secagg.names import RandomSource, RealVector, SiloId
from secagg.vertical.checkpoints import Checkpoints
from secagg.vertical.linear import received
from secagg.vertical.linear.coordinates import Coordinates
from secagg.vertical.linear.descent import Lead
from secagg.vertical.linear.labels import Scale
from secagg.vertical.linear.learned import Learned
from secagg.vertical.linear.messages import Dots, Point, Unit
from secagg.vertical.linear.parts import ModelPart
from secagg.vertical.linear.pieces import Pieces, vector_bits
from secagg.vertical.linear.products import Products, Roles
from secagg.vertical.linear.start import begin
from secagg.vertical.linear.state import pack, unpack
from secagg.vertical.linear.terms import Terms
from secagg.vertical.report import Seen


def side(
    name: SiloId,
    terms: Terms,
    columns: Sequence[str],
    features: NDArray[np.float64],
    labels: RealVector | None,
    checkpoints: Checkpoints,
    random: RandomSource = os.urandom,
) -> Side[Learned]:
    """Return a party's side.

    Args:
        name: of the party.
        terms: see there.
        columns: names of its columns.
        features: its columns in the order of the alignment, shape (rows, columns).
        labels: of the label party, shape (rows,); None at the others.
        checkpoints: its own.
        random: where its keys come from.
    """
    others, settings, label_party = terms.others(name), terms.settings, terms.label_party
    width = features.shape[1] + (labels is not None)
    start = yield from begin(name, terms, width, checkpoints, random)
    roles = Roles(holders=terms.parties, askers=start.columns)
    layout = roles.layout(terms.rows * settings.degree)
    products = Products(name, roles, layout, start.masks, random)
    yield from products.meet()
    scale = yield from _agree_on_scale(name, terms, labels)
    curvature, bits = settings.polynomial.first, vector_bits(terms.rows, settings.degree)
    mine = Coordinates(name, features, intercept=labels is not None, l2=settings.l2, curvature=curvature)
    pieces = Pieces(settings, mine, layout, bits=bits, values=width * settings.steps * len(others))
    target: RealVector | float = 0.0
    lead: Lead | None = None
    if labels is not None:
        target = settings.polynomial.constant - scale.scaled(labels)
        coordinates = sum(start.columns.values())
        lead = Lead(
            settings, terms.shortest(coordinates, bits=bits, curvature=curvature, holders=len(others))
        )
    gradients = np.zeros((0, width))
    if start.state is not None:
        gradients, heard = unpack(start.state)
        if lead is not None:
            lead.hear_again(heard)

    while True:
        count = len(gradients)
        told = yield from _next_point(terms, lead, count)
        if count > 1:
            gradients[-1] = told.kept * gradients[-1] + (1 - told.kept) * gradients[-2]
        point = np.array(told.multiples) @ gradients
        if told.word != "go":
            break
        sums = mine.design @ point
        found = yield from products.multiply(count, pieces.hidden(sums, target), pieces.matrix(sums))
        gradient = np.ldexp(found.astype(np.float64), -pieces.places - bits)
        gradient += mine.design.T @ pieces.own(sums, target) + mine.penalty(point)
        gradients = np.vstack((gradients, gradient))
        dots = gradients @ gradient
        if lead is not None:
            lead.hear(dots + (yield from _hear_dots(others, count + 1)))
        checkpoints.save(count + 1, pack(gradients, np.zeros((0, 0)) if lead is None else lead.heard))
        if lead is None:
            yield from say(label_party, Dots(tuple(dots.tolist())))

    coefficients = scale.back(mine.coefficients(point))
    part = ModelPart(
        party=name,
        columns=tuple(columns),
        coefficients=coefficients[: features.shape[1]],
        intercept=0.0 if labels is None else float(coefficients[-1]) + scale.centre,
        settings=settings,
        parties=terms.parties,
        label_party=label_party,
        exponent=scale.exponent,
        model=terms.digest,
    )
    seen = _seen(name, terms, start.columns, count)
    return Learned(
        part=part, columns=start.columns, gradients=count, converged=told.word == "converged", seen=seen
    )


def _next_point(terms: Terms, lead: Lead | None, count: int) -> Side[Point]:
    if lead is None:
        told = yield from hear(terms.label_party, Point)
        received.numbers(terms.label_party, (*told.multiples, told.kept), count + 1)
        return told
    point = lead.point()
    for other in terms.feature_parties:
        yield from say(other, point)
    return point


def _hear_dots(others: Sequence[SiloId], count: int) -> Side[RealVector]:
    total = np.zeros(count)
    for other in others:
        said = yield from hear(other, Dots)
        numbers = received.numbers(other, said.products, count)
        if numbers[-1] < 0:
            raise FaultySilo(other, "it sent a square that is below zero")
        total += numbers
    return total


def _agree_on_scale(name: SiloId, terms: Terms, labels: RealVector | None) -> Side[Scale]:
    if labels is None:
        if terms.settings.model == "logistic":
            return Scale()
        told = yield from hear(terms.label_party, Unit)
        return Scale(told.exponent)
    scale = Scale.of(terms.settings.model, labels)
    for other in terms.others(name) if terms.settings.model == "linear" else ():
        yield from say(other, Unit(scale.exponent))
    return scale


def _seen(name: SiloId, terms: Terms, columns: Mapping[SiloId, int], gradients: int) -> tuple[Seen, ...]:
    triangle = gradients * (gradients + 1) // 2
    seen = [Seen(party=name, what="gradients of its own columns", clear=columns[name] * gradients)]
    if name == terms.label_party:
        seen += [
            Seen(party=name, what=f"inner products of gradients of {other}", clear=triangle)
            for other in terms.others(name)
        ]
    else:
        seen.append(Seen(party=name, what="multiples of its gradients that make a step", clear=triangle))
        if terms.settings.model == "linear":
            seen.append(Seen(party=name, what="the size of the largest label, up to a factor of 2", clear=1))
    for other in terms.others(name):
        what = "labels and sums of columns" if other == terms.label_party else "sums of columns"
        seen += [
            Seen(
                party=name,
                what=f"{what} of {other}",
                protected=terms.rows * terms.settings.degree * gradients,
            ),
            Seen(party=name, what=f"gradients of {other}", protected=columns[other] * gradients),
        ]
    return tuple(seen)
