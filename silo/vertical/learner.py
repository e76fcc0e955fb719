"""What the flow of a vertical job asks of a way of learning: one party's side of training and of scoring."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from secagg.conversation import Side
from secagg.names import RealVector, SiloId
from secagg.vertical.checkpoints import Checkpoints
from secagg.vertical.report import Report


@dataclass(frozen=True, kw_only=True, eq=False)
class Own:
    """One party's rows of the shared records.

    Attributes:
        name: of this party.
        parties: all, in the order of the job.
        label_party: which has the labels.
        columns: names of its columns.
        X: its columns, shape (count, columns), in the order of records that all have.
        y: labels, shape (count,), at the label party in training; else None.
        alignment: digest of that order.
    """

    name: SiloId
    parties: tuple[SiloId, ...]
    label_party: SiloId
    columns: tuple[str, ...]
    X: NDArray[np.float64] = field(repr=False)
    y: RealVector | None = field(repr=False)
    alignment: bytes

    @property
    def others(self) -> tuple[SiloId, ...]:
        """The other parties."""
        return tuple(party for party in self.parties if party != self.name)


@dataclass(frozen=True)
class Trained:
    """Which records a model was trained on: digest of their order, and how many."""

    alignment: bytes
    count: int


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What training ends with at one party.

    Attributes:
        part: of the model, this party's own; secret.
        report: who saw what.
    """

    part: bytes = field(repr=False)
    report: Report


@dataclass(frozen=True, kw_only=True, eq=False)
class Predicted:
    """What joint prediction ends with at one party.

    Attributes:
        scores: shape (count,), at the one party that learns them; else None.
        report: who saw what.
    """

    scores: RealVector | None = field(repr=False)
    report: Report


class Learner(Protocol):
    """A way of learning.

    Guarantees:
        Sides that are dropped and made anew from their checkpoints end with the same bytes.
    """

    def fit(self, own: Own, checkpoints: Checkpoints) -> Side[Fitted]:
        """Return this party's side of training."""
        ...

    def predict(self, part: bytes, trained: Trained, own: Own, to: SiloId) -> Side[Predicted]:
        """Return this party's side of scoring the records of ``own``; ``to`` learns the scores."""
        ...

    def shown(self, part: bytes, columns: tuple[str, ...]) -> dict[str, Any]:
        """Return this party's own part in words and numbers, for its operator alone."""
        ...
