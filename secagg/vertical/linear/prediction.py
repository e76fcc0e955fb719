"""Joint prediction: each party sums its columns by its part of a model, and one gets the scores.

With several other parties their sums are masked, and the one that gets scores sees what they add up to; a
single other party's sum is in clear to it. Nobody else learns anything.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg.conversation import Side, Watch, hear, say, together
from secagg.errors import InputRefused, ParameterError, ProtocolError
from secagg.hazmat.framing import digest
from secagg.names import RandomSource, RealVector, SiloId
from secagg.vertical.alignment import Alignment
from secagg.vertical.checkpoints import InMemory, agreed_step
from secagg.vertical.linear.links import logistic
from secagg.vertical.linear.masks import Masks
from secagg.vertical.linear.messages import Joined
from secagg.vertical.linear.parts import ModelPart
from secagg.vertical.linear.sums import hear_sums, send_sums

SUM_BITS = 32
"""Fraction bits of sums, in units of labels."""


@dataclass(frozen=True, kw_only=True)
class PredictionTerms:
    """One prediction.

    Attributes:
        model: that all parts of it have.
        records: digest of the alignment.
        rows: of it.
        to: who gets the scores.
    """

    model: bytes = field(repr=False)
    records: bytes = field(repr=False)
    rows: int
    to: SiloId

    @property
    def digest(self) -> bytes:
        """What all parties mean, 32 bytes."""
        return digest("vertical prediction", self.model, self.records, self.rows, self.to)


def prediction_side(
    part: ModelPart,
    terms: PredictionTerms,
    features: NDArray[np.float64],
    random: RandomSource = os.urandom,
) -> Side[RealVector | None]:
    """Return one party's side of a prediction.

    Args:
        part: the party's part of the model.
        terms: what all agreed on.
        features: its columns in the order of the alignment, finite, shape (rows, columns).
        random: where the key of masks comes from.

    Returns:
        Scores in that order, at the party that gets them: probabilities of a logistic model, else expected
        labels; None at the others.

    Raises:
        FaultySilo: another party agreed on other terms, or sent what nobody can have meant.
        InputRefused: other columns than the part is for.
        ParameterError: parts of another model, or ``to`` is no party of it.
    """
    if terms.to not in part.parties or terms.model != part.model:
        raise ParameterError(f"{part.party} has a part of another model, or {terms.to} has none of it")
    if features.shape != (terms.rows, len(part.columns)):
        raise InputRefused("shape", f"{part.party}: {terms.rows} rows of {len(part.columns)} columns are due")
    return _predict(part, terms, features @ part.coefficients + part.intercept, random)


def predict(
    parts: Mapping[SiloId, ModelPart],
    alignment: Alignment,
    *,
    to: SiloId | None = None,
    watch: Watch | None = None,
) -> RealVector:
    """Return scores in the order of an alignment, as the party that gets them has them.

    Args:
        parts: party -> its part of one model.
        alignment: of the same parties and columns; labels are not needed.
        to: who gets the scores; the label party of the training if None.
        watch: told of every frame.

    Raises:
        InputRefused: other columns than the model is for.
        ParameterError: other parties, parts of several models, or ``to`` is no party.
    """
    if not parts or set(alignment.names) != set(parts):
        raise ParameterError(f"the model has parts of {', '.join(parts) or 'nobody'}; align the same parties")
    for party in alignment.parties:
        if party.columns != parts[party.name].columns:
            raise InputRefused("layout", f"{party.name}: other columns, or another order, than in training")
    first = next(iter(parts.values()))
    receiver = to or first.label_party
    terms = PredictionTerms(model=first.model, records=alignment.digest, rows=alignment.count, to=receiver)
    sides = {name: prediction_side(part, terms, alignment.features(name)) for name, part in parts.items()}
    scores = together(sides, watch=watch)[receiver]
    if scores is None:
        raise ProtocolError("the party that gets the scores ended without them")
    return scores


def _predict(
    part: ModelPart, terms: PredictionTerms, mine: RealVector, random: RandomSource
) -> Side[RealVector | None]:
    others = tuple(party for party in part.parties if party != part.party)
    senders = tuple(party for party in part.parties if party != terms.to)
    yield from agreed_step(terms.digest, others, InMemory())
    bits = SUM_BITS - part.exponent
    if part.party == terms.to:
        return _scores(part, mine + (yield from hear_sums(terms.rows, bits, senders=senders)))
    masks = Masks(part.party, terms.digest, random)
    fellows = tuple(party for party in senders if party != part.party)
    for fellow in fellows:
        yield from say(fellow, Joined(len(part.columns), masks.public))
    for fellow in fellows:
        masks.meet(fellow, (yield from hear(fellow, Joined)).mask)
    yield from send_sums(mine, bits, 0, masks=masks, to=terms.to, senders=senders)
    return None


def _scores(part: ModelPart, sums: RealVector) -> RealVector:
    if part.settings.model == "linear":
        return sums
    if part.settings.link == "open":
        return logistic(sums)
    return np.clip(part.settings.polynomial(sums), 0.0, 1.0)
