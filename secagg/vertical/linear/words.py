"""Who saw what in a regression, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from secagg.names import SiloId
from secagg.vertical.linear.learned import Learned
from secagg.vertical.linear.terms import Terms
from secagg.vertical.report import Report, Seen


def report_of(terms: Terms, learned: Mapping[SiloId, Learned], predicted: Sequence[Seen]) -> Report:
    """Return the report of a training, and of predictions since, as all parties know it, or as some do."""
    s = terms.settings
    name = "Linear regression" if s.model == "linear" else f"Logistic regression, link {s.link}"
    one = next(iter(learned.values()))
    gradients = one.gradients
    seen = (*(row for party in terms.parties if party in learned for row in learned[party].seen), *predicted)
    title = f"{name}: {terms.rows:,} records, {gradients} gradients"
    return Report(title, seen, tuple(_notes(terms, one)))


def seen_in_prediction(terms: Terms, to: SiloId, rows: int) -> list[Seen]:
    """Return what one prediction showed."""
    others = terms.others(to)
    whose = (
        f"the sum of columns of {others[0]}" if len(others) == 1 else "the joint sum of the others' columns"
    )
    return [
        Seen(party=to, what=f"predicting: the score of each record, and {whose} in it", clear=rows),
        *(Seen(party=other, what="predicting: nothing of others") for other in others),
    ]


def _notes(terms: Terms, learned: Learned) -> Iterator[str]:
    s, gradients = terms.settings, learned.gradients
    yield "This holds if all parties follow the protocol; one that does not can learn residuals, and labels."
    if not learned.converged:
        yield f"Training stopped after {gradients} gradients of {s.steps}, short of the tolerance."
    label_party, partners = terms.label_party, terms.feature_parties
    if s.link == "poly":
        yield "Nobody saw a sum of columns, a residual or another party's gradient in clear."
        return
    directions = gradients - 1
    columns = sum(learned.columns[partner] for partner in partners)
    if len(partners) > 1:
        yield f"{label_party} saw joint sums of the others only; with one of them it can take them apart."
    if directions >= columns:
        yield (
            f"{directions} directions are as many as the others' {columns} columns: {label_party} knows "
            "them up to a linear map. Take link='poly' where that is too much."
        )
    else:
        yield f"{label_party} knows {directions} of {columns} dimensions of the other parties' columns."
