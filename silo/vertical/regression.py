"""Regression in a vertical job: one party's sides of training and of scoring, and its part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from secagg.conversation import Side
from secagg.errors import EnvironmentFault
from secagg.names import SiloId
from secagg.vertical.checkpoints import Checkpoints
from secagg.vertical.linear.parts import ModelPart
from secagg.vertical.linear.prediction import PredictionTerms, prediction_side
from secagg.vertical.linear.terms import Settings, Terms
from secagg.vertical.linear.training import training_side
from secagg.vertical.linear.words import report_of, seen_in_prediction
from secagg.vertical.report import Report
from silo.vertical.learner import Fitted, Own, Predicted, Trained


class _Part(msgspec.Struct, frozen=True):
    """A party's own coefficients; the intercept is the label party's."""

    columns: tuple[str, ...]
    coefficients: tuple[float, ...]
    intercept: float
    exponent: int


@dataclass(frozen=True)
class Regression:
    """See ``secagg.vertical.linear``.

    Args:
        settings: of the training.
    """

    settings: Settings

    def fit(self, own: Own, checkpoints: Checkpoints) -> Side[Fitted]:
        """See ``Learner``."""
        terms = self._terms(own, Trained(own.alignment, len(own.X)))
        learned = yield from training_side(own.name, terms, own.columns, own.X, own.y, checkpoints)
        part = _Part(
            columns=learned.part.columns,
            coefficients=tuple(learned.part.coefficients.tolist()),
            intercept=learned.part.intercept,
            exponent=learned.part.exponent,
        )
        return Fitted(part=msgspec.msgpack.encode(part), report=report_of(terms, {own.name: learned}, ()))

    def predict(self, part: bytes, trained: Trained, own: Own, to: SiloId) -> Side[Predicted]:
        """See ``Learner``."""
        terms, held = self._terms(own, trained), _read(part)
        asked = PredictionTerms(model=terms.digest, records=own.alignment, rows=len(own.X), to=to)
        mine = ModelPart(
            party=own.name,
            columns=held.columns,
            coefficients=np.array(held.coefficients),
            intercept=held.intercept,
            settings=self.settings,
            parties=own.parties,
            label_party=own.label_party,
            exponent=held.exponent,
            model=terms.digest,
        )
        scores = yield from prediction_side(mine, asked, own.X)
        seen = tuple(seen_in_prediction(terms, to, len(own.X)))
        return Predicted(scores=scores, report=Report("Regression: who saw what in a prediction", seen))

    def shown(self, part: bytes, columns: tuple[str, ...]) -> dict[str, Any]:
        """See ``Learner``."""
        held = _read(part)
        own = {"coefficients": dict(zip(columns, held.coefficients, strict=True))}
        return own | ({"intercept": held.intercept} if held.intercept else {})

    def _terms(self, own: Own, trained: Trained) -> Terms:
        return Terms(
            settings=self.settings,
            records=trained.alignment,
            rows=trained.count,
            parties=own.parties,
            label_party=own.label_party,
        )


def _read(part: bytes) -> _Part:
    try:
        return msgspec.msgpack.decode(part, type=_Part)
    except msgspec.MsgspecError:  # Its text may quote what it read.
        raise EnvironmentFault("the part of the model that is kept here is of another version") from None
