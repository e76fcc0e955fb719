"""A split network in a vertical job: one party's sides of training and of scoring, and its part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from secagg.conversation import Side
from secagg.names import SiloId
from secagg.vertical.checkpoints import Checkpoints
from secagg.vertical.split.parts import SplitPart
from secagg.vertical.split.prediction import prediction_side
from secagg.vertical.split.saw import prediction_report, split_report
from secagg.vertical.split.settings import PredictionTerms, SplitSettings, SplitTerms
from secagg.vertical.split.training import feature_side, label_side
from silo.split_torch import TorchNetworks
from silo.vertical.learner import Fitted, Own, Predicted, Trained


@dataclass(frozen=True)
class Network:
    """See ``secagg.vertical.split``; networks are small torch modules.

    Args:
        settings: how it is trained.
        built: arguments of ``TorchNetworks``.
    """

    settings: SplitSettings
    built: Mapping[str, Any]

    def fit(self, own: Own, checkpoints: Checkpoints) -> Side[Fitted]:
        """See ``Learner``."""
        terms = self._terms(own, Trained(own.alignment, len(own.X)))
        networks = TorchNetworks(**self.built)
        if own.y is None:
            side = feature_side(terms, own.name, own.X, networks=networks, checkpoints=checkpoints)
        else:
            side = label_side(terms, own.X, own.y, networks=networks, checkpoints=checkpoints)
        part = yield from side
        return Fitted(part=part.to_bytes(), report=split_report(terms))

    def predict(self, part: bytes, trained: Trained, own: Own, to: SiloId) -> Side[Predicted]:
        """See ``Learner``."""
        terms, networks = self._terms(own, trained), TorchNetworks(**self.built)
        asked = PredictionTerms(training=terms, alignment=own.alignment, count=len(own.X), to=to)
        mine = SplitPart.from_bytes(part, terms, networks)
        scores = yield from prediction_side(asked, own.name, mine, own.X, networks=networks)
        return Predicted(scores=scores, report=prediction_report(asked))

    def shown(self, part: bytes, columns: tuple[str, ...]) -> dict[str, Any]:
        """See ``Learner``."""
        return {"columns": len(columns), "bytes of weights": len(part)}

    def _terms(self, own: Own, trained: Trained) -> SplitTerms:
        return SplitTerms(
            alignment=trained.alignment,
            count=trained.count,
            parties=own.parties,
            label_party=own.label_party,
            settings=self.settings,
        )
