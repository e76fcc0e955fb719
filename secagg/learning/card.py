"""The card beside a model file: what made it, who could read what, and how to know that it is the file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from secagg.learning.history import History
from secagg.report import NO_DIFFERENTIAL_PRIVACY


def model_card(history: History, model: Path) -> dict[str, Any]:
    """Return the card of ``model``, the file to which ``history.model`` was written, for ``json.dump``.

    Args:
        history: of the run; at least one round.
        model: an existing file.

    Raises:
        OSError: the file cannot be read.

    Guarantees:
        Every figure is of opened sums: nothing in a card belongs to one silo but whether it took part.
    """
    reports = [record.report for record in history.records]
    last = reports[-1]
    return {
        "card": 1,
        "model": {
            "file": model.name,
            "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
            "parameters": int(history.model.size),
        },
        "rounds": len(history),
        "scheme": last.scheme,
        "silos": last.n,
        "colluders": last.c,
        "threshold": last.t,
        "smallest_sum": min(len(report.survivors) for report in reports),
        "who_can_read_one_update": min(reports, key=lambda r: len(r.survivors)).who_can_read,
        "differential_privacy": None,
        "privacy": NO_DIFFERENTIAL_PRIVACY,
        "worst_error": max(report.worst_error for report in reports if report.kind == "train"),
        "lost": [
            {"sum": report.title, "silo": silo, "where": where}
            for report in reports
            for silo, where in report.dropouts.items()
        ],
        "metrics": dict(history.final_metrics),
    }
