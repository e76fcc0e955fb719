"""Logistic regression where the label party sees joint sums, and the others see their own gradients only.

A feature party's coefficients are always a sum of multiples of its own gradients. For each of its gradients
it tells the label party the sum of its columns along it, a number a row; with several feature parties these
are masked and only their joint sums are seen. The label party then has a small logistic regression of its
own: its columns, and those sums. It solves it, tells the multiples, and hides the residuals; every feature
party learns its next gradient from them (``secagg.vertical.lattice``), which is shorter or a new direction.
With exact arithmetic that ends, between two parties, after as many directions as the other has columns.

**What the label party sees** beyond its own data: these sums, and inner products of gradients. After as many
directions as a partner has columns, it knows them up to a linear map: that is the price of the exact link,
and reports count it. **What a feature party sees**: its own gradients and the multiples.

Source: Yang, Ren, Zhou, Liu 2019, "Parallel distributed logistic regression for vertical federated learning
without third-party coordinator" (residuals under the label party's key); Narkiss, Zibulevsky 2005,
"Sequential subspace optimization" (minimising over the span of all gradients).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from secagg.conversation import Side, hear, say
from secagg.errors import FaultySilo
from secagg.names import RandomSource, RealVector, SiloId
from secagg.vertical.checkpoints import Checkpoints
from secagg.vertical.lattice.product import Matrix, rounded_to
from secagg.vertical.linear import received
from secagg.vertical.linear.coordinates import Coordinates
from secagg.vertical.linear.learned import Learned
from secagg.vertical.linear.links import logistic
from secagg.vertical.linear.messages import MOST_EXPONENT, Dots, Point, Verdict
from secagg.vertical.linear.newton import minimise
from secagg.vertical.linear.parts import ModelPart
from secagg.vertical.linear.products import Products, Roles
from secagg.vertical.linear.start import begin
from secagg.vertical.linear.state import pack, unpack
from secagg.vertical.linear.sums import hear_sums, send_sums
from secagg.vertical.linear.terms import Terms
from secagg.vertical.report import Seen

SUM_BITS = 57
"""Fraction bits of sums along a direction of length 1. Squares of a row add up to 1 / CURVATURE at most, so
that no sum is beyond 4 lengths. The shorter a direction, the finer: its slope is the square of its length."""
CURVATURE = 0.1
"""What a row typically weighs: between 1/4, where nothing is known, and nothing, where all is."""


def residual_bits(rows: int) -> int:
    """Return the fraction bits of residuals, which lie between -1 and 1; columns need the rest."""
    return min(26, 46 - rows.bit_length())


def label_side(
    name: SiloId,
    terms: Terms,
    columns: Sequence[str],
    features: NDArray[np.float64],
    labels: RealVector,
    checkpoints: Checkpoints,
    random: RandomSource = os.urandom,
) -> Side[Learned]:
    """Return the label party's side.

    Args:
        name: of the label party.
        terms: see there.
        columns: names of its columns.
        features: its columns in the order of the alignment, shape (rows, columns).
        labels: 0 or 1, shape (rows,).
        checkpoints: its own.
        random: where its keys come from.
    """
    partners, settings = terms.feature_parties, terms.settings
    start = yield from begin(name, terms, features.shape[1] + 1, checkpoints, random)
    roles = Roles(holders=(name,), askers={p: start.columns[p] for p in partners})
    products = Products(name, roles, roles.layout(terms.rows), start.masks, random)
    yield from products.meet()

    askers = sum(roles.askers.values())
    bits = residual_bits(terms.rows)
    shortest = terms.shortest(askers, bits=bits, curvature=CURVATURE, holders=1)
    own = np.vstack((features.T, np.ones(terms.rows)))
    own_penalty = np.append(np.full(features.shape[1], settings.l2), 0.0)
    at, penalties, exponents = np.zeros(len(own)), np.zeros((0, 0)), np.zeros(0)
    if start.state is not None:
        at, penalties, exponents = unpack(start.state)
    sums = own
    for known in exponents:  # Told once more: who was there before keeps no copy of them.
        told = yield from hear_sums(terms.rows, SUM_BITS - int(known), senders=partners)
        sums = np.vstack((sums, told))

    while True:
        directions = len(sums) - len(own)
        penalty = np.diag(np.append(own_penalty, np.zeros(directions)))
        penalty[len(own) :, len(own) :] = penalties
        at = minimise(sums, penalty, labels, np.append(at, np.zeros(len(sums) - len(at))))
        for partner in partners:
            yield from say(partner, Point(tuple(at[len(own) :].tolist()), 1.0, "go"))
        residuals = logistic(at @ sums) - labels
        yield from products.multiply(directions, rounded_to(residuals, bits), None)
        penalties, length = yield from _hear_dots(partners, penalties)
        word: Literal["further", "converged", "stopped"] = "further"
        if length <= shortest:
            word = "converged"
        elif directions + 1 >= settings.steps:
            word = "stopped"
        exponent = max(math.frexp(length)[1], -MOST_EXPONENT)
        for partner in partners:
            yield from say(partner, Verdict(word, exponent))
        if word != "further":
            break
        told = yield from hear_sums(terms.rows, SUM_BITS - exponent, senders=partners)
        sums, exponents = np.vstack((sums, told)), np.append(exponents, exponent)
        checkpoints.save(directions + 1, pack(at, penalties, exponents))

    part = ModelPart(
        party=name,
        columns=tuple(columns),
        coefficients=at[: len(own) - 1],
        intercept=float(at[len(own) - 1]),
        settings=settings,
        parties=terms.parties,
        label_party=name,
        exponent=0,
        model=terms.digest,
    )
    seen = _seen_by_label_party(terms, start.columns, directions)
    return Learned(
        part=part, columns=start.columns, gradients=directions + 1, converged=word == "converged", seen=seen
    )


def feature_side(
    name: SiloId,
    terms: Terms,
    columns: Sequence[str],
    features: NDArray[np.float64],
    checkpoints: Checkpoints,
    random: RandomSource = os.urandom,
) -> Side[Learned]:
    """Return a feature party's side; arguments as of ``label_side``."""
    label_party, settings, width = terms.label_party, terms.settings, features.shape[1]
    start = yield from begin(name, terms, width, checkpoints, random)
    roles = Roles(holders=(label_party,), askers={p: start.columns[p] for p in terms.feature_parties})
    layout = roles.layout(terms.rows)
    products = Products(name, roles, layout, start.masks, random)
    yield from products.meet()

    mine = Coordinates(name, features, intercept=False, l2=settings.l2, curvature=CURVATURE)
    hidden_bits = residual_bits(terms.rows)
    integers, bits = mine.round(layout, bound=1 << hidden_bits, values=width * settings.steps)
    matrix = Matrix(integers, layout)

    def tell_sums(number: int, direction: RealVector, exponent: int) -> Side[None]:
        senders = terms.feature_parties
        sums = mine.design @ direction
        bits = SUM_BITS - exponent
        yield from send_sums(sums, bits, number, masks=start.masks, to=label_party, senders=senders)

    gradients, exponents = np.zeros((0, width)), np.zeros(0)
    if start.state is not None:
        gradients, exponents = unpack(start.state)
    for number, gradient in enumerate(gradients):
        yield from tell_sums(number, gradient, int(exponents[number]))

    while True:
        count = len(gradients)
        heard = yield from hear(label_party, Point)
        point = np.array(received.numbers(label_party, heard.multiples, count)) @ gradients
        found = yield from products.multiply(count, None, matrix)
        gradient = np.ldexp(found.astype(np.float64), -bits - hidden_bits) + mine.penalty(point)
        gradients = np.vstack((gradients, gradient))
        dots = (*(gradients @ mine.penalty(gradient)).tolist(), float(gradient @ gradient))
        yield from say(label_party, Dots(dots))
        decided = yield from hear(label_party, Verdict)
        if decided.word != "further":
            break
        if math.frexp(math.sqrt(dots[-1]))[1] > decided.exponent:
            raise FaultySilo(label_party, "it says that all gradients together are shorter than this one")
        exponents = np.append(exponents, decided.exponent)
        checkpoints.save(count + 1, pack(gradients, exponents))
        yield from tell_sums(count, gradient, decided.exponent)

    part = ModelPart(
        party=name,
        columns=tuple(columns),
        coefficients=mine.coefficients(point),
        intercept=0.0,
        settings=settings,
        parties=terms.parties,
        label_party=label_party,
        exponent=0,
        model=terms.digest,
    )
    seen = _seen_by_feature_party(name, terms, width, count + 1)
    return Learned(
        part=part,
        columns=start.columns,
        gradients=count + 1,
        converged=decided.word == "converged",
        seen=seen,
    )


def _hear_dots(
    partners: Sequence[SiloId], penalties: NDArray[np.float64]
) -> Side[tuple[NDArray[np.float64], float]]:
    """Return the penalties' products of all gradients, and the length of the newest."""
    count = len(penalties) + 1
    total = np.zeros(count + 1)
    for partner in partners:
        said = yield from hear(partner, Dots)
        numbers = received.numbers(partner, said.products, count + 1)
        if min(numbers[-2:]) < 0:
            raise FaultySilo(partner, "it sent a square that is below zero")
        total += numbers
    grown = np.zeros((count, count))
    grown[:-1, :-1] = penalties
    grown[-1] = grown[:, -1] = total[:-1]
    return grown, math.sqrt(total[-1])


def _seen_by_label_party(terms: Terms, columns: Mapping[SiloId, int], directions: int) -> tuple[Seen, ...]:
    name, partners = terms.label_party, terms.feature_parties
    told = directions + 1
    products = told * (told + 1) // 2 + told
    whose = partners[0] if len(partners) == 1 else "all others together, masked apart"
    return (
        Seen(
            party=name,
            what=f"a sum of columns a row and direction, of {whose}",
            clear=terms.rows * directions,
        ),
        *(Seen(party=name, what=f"inner products of gradients of {p}", clear=products) for p in partners),
        *(Seen(party=name, what=f"gradients of {p}", protected=told * columns[p]) for p in partners),
    )


def _seen_by_feature_party(name: SiloId, terms: Terms, width: int, gradients: int) -> tuple[Seen, ...]:
    multiples = gradients * (gradients - 1) // 2
    return (
        Seen(party=name, what="gradients of its own columns", clear=width * gradients),
        Seen(party=name, what="multiples of its gradients that make a step", clear=multiples),
        Seen(party=name, what=f"residuals of {terms.label_party}", protected=terms.rows * gradients),
    )
