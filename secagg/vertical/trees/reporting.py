"""Who saw what in a training of boosted trees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from secagg.names import SiloId
from secagg.vertical.report import Report, Seen
from secagg.vertical.trees.feature import FeatureOutcome
from secagg.vertical.trees.label import LabelOutcome
from secagg.vertical.trees.settings import TreeTerms


def describe(terms: TreeTerms, label: LabelOutcome, features: Mapping[SiloId, FeatureOutcome]) -> Report:
    """Return the report of one training."""
    seen = label_saw(terms, label)
    for name, outcome in features.items():
        seen += feature_saw(name, outcome)
    return report_of(terms, seen)


def label_saw(terms: TreeTerms, label: LabelOutcome) -> list[Seen]:
    """Return what the label party saw."""
    seen: list[Seen] = []
    for name in terms.others(terms.label_party):
        seen += [
            Seen(
                party=terms.label_party,
                what=f"sums of gradients and Hessians in bins of {name}'s columns",
                clear=label.sums[name],
            ),
            Seen(
                party=terms.label_party,
                what=f"to which side a row goes where {name} splits",
                clear=label.sides[name],
            ),
        ]
    return seen


def feature_saw(name: SiloId, outcome: FeatureOutcome) -> list[Seen]:
    """Return what one feature party saw."""
    return [
        Seen(party=name, what="in which node of a tree a row is", clear=outcome.placed),
        Seen(party=name, what="gradients and Hessians of rows", protected=outcome.encrypted),
    ]


def report_of(terms: TreeTerms, seen: Iterable[Seen]) -> Report:
    """Return the report of what was seen, by all parties or by some."""
    least = terms.settings.min_child_rows
    label_party = terms.label_party
    notes = (
        "all parties are taken to keep to the protocol (semi-honest)",
        (
            f"no sum is of a node of fewer than {least} rows; but {label_party} knows each row's gradient, "
            "and a bin with few of a node's rows can tell it which they are"
        ),
        f"sides tell {label_party} the order of rows in a column, the better the more often it is split",
        "rows of one node are alike in what predicts labels: feature parties see which are together",
        f"{label_party} sees how many bins each column that varies has; no name, unit or threshold",
    )
    return Report("Boosted trees: who saw what in training", tuple(seen), notes)
