"""A party's side of a training, whatever the link: what a silo runs, and ``fit`` for all parties at once."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from secagg.conversation import Side
from secagg.errors import InputRefused, ParameterError
from secagg.names import RandomSource, RealVector, SiloId
from secagg.vertical.checkpoints import Checkpoints
from secagg.vertical.linear import hidden_link, open_link
from secagg.vertical.linear.labels import Scale
from secagg.vertical.linear.learned import Learned
from secagg.vertical.linear.terms import Terms


def training_side(
    name: SiloId,
    terms: Terms,
    columns: Sequence[str],
    features: NDArray[np.float64],
    labels: RealVector | None,
    checkpoints: Checkpoints,
    random: RandomSource = os.urandom,
) -> Side[Learned]:
    """Return one party's side of a training; it needs nothing of another party.

    Args:
        name: of the party.
        terms: what all agreed on.
        columns: names of its columns.
        features: its columns in the order of the alignment, finite, shape (rows, columns).
        labels: in that order, at the label party; None at the others.
        checkpoints: where it keeps how far it is, its own.
        random: where keys, masks and noise come from.

    Raises:
        FaultySilo: another party agreed on other terms, or sent what nobody can have meant.
        InputRefused: features or labels that cannot be trained on.
        ParameterError: too few rows for so many columns, or too many for the fixed point.
        RoundAborted: the loss has no minimum that can be found.

    Guarantees:
        What comes out is a function of data and terms: the same, bit for bit, wherever it was interrupted.
    """
    if features.shape != (terms.rows, len(columns)):
        raise InputRefused("shape", f"{name}: {terms.rows} rows of {len(columns)} columns are due")
    if (labels is None) != (name != terms.label_party):
        raise ParameterError(f"{terms.label_party} has the labels of this training, and nobody else")
    if labels is None:
        if terms.settings.link == "open":
            return open_link.feature_side(name, terms, columns, features, checkpoints, random)
        return hidden_link.side(name, terms, columns, features, None, checkpoints, random)
    if labels.shape != (terms.rows,):
        raise InputRefused("shape", f"{name}: {terms.rows} labels are due")
    Scale.of(terms.settings.model, labels)
    if terms.settings.link == "open":
        return open_link.label_side(name, terms, columns, features, labels, checkpoints, random)
    return hidden_link.side(name, terms, columns, features, labels, checkpoints, random)
