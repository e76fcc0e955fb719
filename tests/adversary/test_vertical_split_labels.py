"""Attack ``vertical_split_labels``: read labels from the gradients that a split network sends back.

A feature party looks at the norms of gradients, which in an unbalanced task differ with the label, and at
their directions: it knows some records of label 1, and takes for others those whose gradients point where
theirs do. It does so in each round, and with the mean of each record's gradients over all rounds.

Source: Li et al. 2022, *Label Leakage and Protection in Two-party Split Learning*, sections 3.1 and 3.2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secagg import wire
from secagg.errors import MalformedMessage
from secagg.payload import Frame, Payload
from secagg.vertical import SplitNetwork
from secagg.vertical.split import labels
from secagg.vertical.split.cut import Cut
from secagg.vertical.split.messages import Gradients
from secagg.vertical.split.settings import SplitSettings
from tests.vertical.split_networks import NAMES, Small, auc, fixed, split_task

KNOWN = 20
LIMIT = 0.55
BROKEN = 0.9
TRAININGS = 4


def gradients(training: int, settings: SplitSettings | None = None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return what the insurer is sent, shape (rounds, records, width), and the labels: 1 in 10."""
    train, _, _ = split_task("digit 8", parties=2, seed=training)
    sent: list[NDArray[Any]] = []

    def watch(_sender: str, receiver: str, frame: Frame) -> None:
        if receiver == NAMES[1]:
            try:
                message: Gradients = wire.decode_as(*frame, Gradients)
            except MalformedMessage:
                return
            sent.append(message.rows.array().reshape(train.count, -1))

    SplitNetwork(Small(), settings).fit(train, random=fixed(training), watch=watch)
    return np.array(sent), train.labels()


def by_norm(rows: NDArray[Any], truth: NDArray[Any]) -> float:
    return auc(truth, np.linalg.norm(rows, axis=1))


def by_direction(rows: NDArray[Any], truth: NDArray[Any]) -> float:
    known = np.flatnonzero(truth == 1)[:KNOWN]
    rest = np.delete(np.arange(len(truth)), known)
    directions = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return auc(truth[rest], directions[rest] @ rows[known].mean(axis=0))


def measured() -> dict[str, float]:
    """Return the AUC of each attack: the mean over trainings."""
    found: dict[str, list[float]] = {}
    for training in range(TRAININGS):
        rounds, truth = gradients(training)
        for name, attack in (("norm", by_norm), ("direction", by_direction)):
            each = [attack(rows, truth) for rows in rounds]
            found.setdefault(f"{name} in a round", []).append(float(np.mean(each)))
            found.setdefault(f"{name} over all rounds", []).append(attack(rounds.mean(axis=0), truth))
    return {name: float(np.mean(values)) for name, values in found.items()}


def test_vertical_split_labels() -> None:
    found = measured()
    for name, value in found.items():
        assert value <= LIMIT, f"labels are read by {name}"


def as_they_are(rows: NDArray[Any], *_: Any, **__: Any) -> NDArray[Any]:
    return rows


def seldom(truth: NDArray[Any], _flip: float, *, random: Any) -> NDArray[Any]:
    return labels_flipped(truth, 0.05, random=random)


def in_clear(_self: Cut, rows: NDArray[Any], **_: Any) -> Payload:
    return Payload.of(np.ascontiguousarray(rows).reshape(-1))


def with_noise_alone(self: Cut, rows: NDArray[Any], *, random: Any) -> Payload:
    generator = np.random.default_rng(int.from_bytes(random(8), "big"))
    return in_clear(self, rows + 0.01 * generator.normal(size=rows.shape))


def whatever_came(self: Cut, _sender: str, payload: Payload, size: int) -> NDArray[Any]:
    return payload.array().reshape(size, self._width)


labels_flipped = labels.flipped
DEFENCES = {
    "flipped": "secagg.vertical.split.training.flipped",
    "release": "secagg.vertical.split.cut.Cut.release",
    "received": "secagg.vertical.split.cut.Cut.received",
}


@pytest.mark.parametrize(
    ("mutants", "found"),
    [
        ({"flipped": as_they_are}, "direction"),  # Clipped, and with the noise there is.
        pytest.param({"flipped": seldom}, "direction", marks=pytest.mark.full),
        pytest.param(
            {"flipped": as_they_are, "release": with_noise_alone, "received": whatever_came},
            "norm|direction",
            marks=pytest.mark.full,
        ),
        ({"flipped": as_they_are, "release": in_clear, "received": whatever_came}, "norm"),
    ],
    ids=["labels as they are", "seldom turned", "noise without clipping", "nothing"],
)
def test_vertical_split_labels_mutant(
    monkeypatch: pytest.MonkeyPatch, mutants: dict[str, Any], found: str
) -> None:
    for name, mutant in mutants.items():
        monkeypatch.setattr(DEFENCES[name], mutant)
    with pytest.raises(AssertionError, match=f"labels are read by ({found})"):
        test_vertical_split_labels()


def test_both_attacks_read_labels_where_nothing_defends(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, mutant in (("flipped", as_they_are), ("release", in_clear), ("received", whatever_came)):
        monkeypatch.setattr(DEFENCES[name], mutant)
    found = measured()
    assert found["norm in a round"] >= BROKEN
    assert found["direction in a round"] >= BROKEN
