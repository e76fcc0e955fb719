"""Boosted trees in a vertical job: one party's sides of training and of scoring, and its part."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import msgspec

from secagg.conversation import Side
from secagg.errors import EnvironmentFault
from secagg.names import SiloId
from secagg.vertical.checkpoints import Checkpoints
from secagg.vertical.report import Report, Seen
from secagg.vertical.trees.feature import FeatureParty
from secagg.vertical.trees.label import LabelParty
from secagg.vertical.trees.model import Forest, Splits
from secagg.vertical.trees.reporting import feature_saw, label_saw, report_of
from secagg.vertical.trees.scoring import ScoreTerms, ScoringParty
from secagg.vertical.trees.settings import Settings, TreeTerms
from silo.vertical.learner import Fitted, Own, Predicted, Trained


class _Part(msgspec.Struct, frozen=True):
    """A party's own splits and, at the label party, the trees."""

    splits: Splits
    forest: Forest | None


@dataclass(frozen=True)
class BoostedTrees:
    """See ``secagg.vertical.trees``.

    Args:
        settings: how trees are grown.
    """

    settings: Settings

    def fit(self, own: Own, checkpoints: Checkpoints) -> Side[Fitted]:
        """See ``Learner``."""
        terms = TreeTerms(
            alignment=own.alignment,
            parties=own.parties,
            label_party=own.label_party,
            settings=self.settings,
        )
        if own.y is None:
            grown = yield from FeatureParty(own.name, own.X, terms, checkpoints).side()
            part, seen = _Part(grown.splits, None), feature_saw(own.name, grown)
        else:
            ended = yield from LabelParty(own.name, own.X, own.y, terms, checkpoints).side()
            part, seen = _Part(ended.splits, ended.forest), label_saw(terms, ended)
        return Fitted(part=msgspec.json.encode(part), report=report_of(terms, seen))

    def predict(self, part: bytes, trained: Trained, own: Own, to: SiloId) -> Side[Predicted]:
        """See ``Learner``."""
        held = _read(part)
        asked = ScoreTerms(
            alignment=own.alignment,
            model=held.splits.model,
            parties=own.parties,
            label_party=own.label_party,
            to=to,
        )
        party = ScoringParty(own.name, own.X, held.splits, asked, forest=held.forest)
        scores = yield from party.side()
        return Predicted(scores=scores, report=_report(asked, held.forest, len(own.X)))

    def shown(self, part: bytes, columns: tuple[str, ...]) -> dict[str, Any]:
        """See ``Learner``."""
        held = _read(part)
        times = Counter(columns[at] for at in held.splits.columns)
        trees = {} if held.forest is None else {"trees": len(held.forest.trees)}
        return {**trees, "splits": dict(times.most_common())}


def _report(asked: ScoreTerms, forest: Forest | None, rows: int) -> Report:
    """Return who saw what in a prediction, as a party with this part knows it."""
    to, label_party = asked.to, asked.label_party
    seen = [Seen(party=to, what="a score of each record", clear=rows)]
    if to == label_party and forest is not None:
        seen += [
            Seen(
                party=to,
                what=f"to which side a row goes where {name} splits",
                clear=rows * forest.splits_of(at),
            )
            for at, name in enumerate(asked.parties)
            if name != to
        ]
    notes = [f"{to} sees to which side each record goes at every split of the others, and not why"]
    if to != label_party:
        notes.append(f"{to} got the trees and the weights of their leaves; thresholds stay at their parties")
    return Report("Boosted trees: who saw what in a prediction", tuple(seen), tuple(notes))


def _read(part: bytes) -> _Part:
    try:
        return msgspec.json.decode(part, type=_Part)
    except msgspec.MsgspecError:  # Its text may quote what it read.
        raise EnvironmentFault("the part of the model that is kept here is of another version") from None
