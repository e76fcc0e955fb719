"""Who saw what of a split network, in words and numbers."""

from __future__ import annotations

from collections.abc import Sequence

from secagg.vertical.report import Report, Seen
from secagg.vertical.split.settings import PredictionTerms, SplitTerms

DELTA = 1e-5
"""At which the epsilon of noise is told."""

_MEANINGFUL = 10.0
"""An epsilon above it promises nothing that anybody could count on."""


def split_report(training: SplitTerms, predictions: Sequence[PredictionTerms] = ()) -> Report:
    """Return who saw what in one training and the predictions that came after it."""
    seen = _of_training(training)
    for terms in predictions:
        seen += _of_prediction(terms)
    after = f", and {len(predictions)} predictions" if len(predictions) > 1 else ", and a prediction"
    title = f"split network over {training.count:,} records{after if predictions else ''}"
    shared = tuple(_shared_top(terms) for terms in predictions if terms.to != training.label_party)
    return Report(title, tuple(seen), (*_notes(training), *dict.fromkeys(shared)))


def prediction_report(terms: PredictionTerms) -> Report:
    """Return who saw what in one prediction."""
    training = terms.training
    notes = () if terms.to == training.label_party else (_shared_top(terms),)
    return Report(f"split network: {terms.count:,} records scored", tuple(_of_prediction(terms)), notes)


def _of_training(terms: SplitTerms) -> list[Seen]:
    settings = terms.settings
    numbers = terms.count * settings.rounds * settings.width
    embeddings = f"each record's embedding, clipped and noised, in each of {settings.rounds} rounds, of "
    gradient = (
        f"gradients at its embeddings, clipped and noised, in each of {settings.rounds} rounds, of labels "
        f"each turned round once with probability {settings.label_flip:g}"
    )
    return [
        *(
            Seen(party=terms.label_party, what=embeddings + other, clear=numbers)
            for other in terms.feature_parties
        ),
        *(Seen(party=other, what=gradient, clear=numbers) for other in terms.feature_parties),
    ]


def _of_prediction(terms: PredictionTerms) -> list[Seen]:
    training, width = terms.training, terms.training.settings.width
    return [
        Seen(party=terms.to, what="a score of each record", clear=terms.count),
        *(
            Seen(
                party=terms.to,
                what=f"each record's embedding, clipped and noised, of {other}",
                clear=terms.count * width,
            )
            for other in training.others(terms.to)
        ),
    ]


def _notes(terms: SplitTerms) -> tuple[str, ...]:
    settings = terms.settings
    once, all_rounds = (settings.embedding_epsilon(times, DELTA) for times in (1, settings.rounds))
    auc = 1 - settings.label_flip
    label = (
        f"one label, over the whole training: epsilon {settings.label_epsilon:.2f}, delta 0; to whoever "
        f"knows all else, what left tells it from its opposite with an AUC of {auc:.2f} at the most. "
        "A training anew adds to it"
    )
    embedding = (
        f"an embedding leaves with noise of {settings.embedding_noise:g} times its largest norm in each "
        f"number: epsilon {once:.3g} a release, {all_rounds:.3g} over the training, at delta {DELTA:g}, "
        "without what the bottom learned of the record"
    )
    gradient = (
        f"a gradient leaves with noise of {settings.gradient_noise:g} times its largest norm in each number"
    )
    if all_rounds > _MEANINGFUL:
        embedding += "; that hides details, and not who a record is of"
    columns = (
        "what a party's own columns tell of labels, once they were taught, no noise takes from that party"
    )
    return label, embedding, gradient, columns


def _shared_top(terms: PredictionTerms) -> str:
    return (
        f"{terms.to} got the weights of the top, which were trained on the labels as they are: what they "
        "tell of labels that were trained on, nothing bounds"
    )
