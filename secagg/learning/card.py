"""The card beside a model file: what made it, who could read what, and how to know that it is the file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secagg.learning.history import Record, final_metrics, rounds_of
from secagg.report import privacy_sentence


def model_card(records: Sequence[Record], model: Path, *, parameters: int) -> dict[str, Any]:
    """Return the card of ``model``, the file to which the last model was written, for ``json.dump``.

    Args:
        records: of the run; at least one round.
        model: an existing file.
        parameters: weights in it.

    Raises:
        OSError: the file cannot be read.

    Guarantees:
        Every figure is of opened sums: nothing in a card belongs to one silo but whether it took part.
    """
    reports = [record.report for record in records]
    last = reports[-1]
    with model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "card": 1,
        "model": {
            "file": model.name,
            "sha256": digest,
            "parameters": parameters,
        },
        "rounds": rounds_of(records),
        "scheme": last.scheme,
        "silos": last.n,
        "colluders": last.c,
        "threshold": last.t,
        "smallest_sum": min(len(report.survivors) for report in reports),
        "who_can_read_one_update": min(reports, key=lambda r: len(r.survivors)).who_can_read,
        "differential_privacy": None if last.spent is None else last.spent.card(),
        "privacy": privacy_sentence(last.spent),
        "worst_error": max(report.worst_error for report in reports if report.kind == "train"),
        "lost": [
            {"sum": report.title, "silo": silo, "where": where}
            for report in reports
            for silo, where in report.dropouts.items()
        ],
        "metrics": dict(final_metrics(records)),
    }
