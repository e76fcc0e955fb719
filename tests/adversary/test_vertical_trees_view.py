"""Attack ``vertical_trees_view``: look for what is another's in every frame of a training and a prediction.

Labels, scores, gradients, thresholds, column values and identifiers are planted so that their bytes and
digits are known, and looked for in all frames that another party sees, in the forms in which they could
stand there.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secagg.errors import FaultySilo
from secagg.payload import Frame, Payload
from secagg.vertical import GradientBoosting
from secagg.vertical.trees.feature import FeatureParty
from secagg.vertical.trees.gradients import Fixed, first_score, gradients
from tests.adversary.mutants import rows_in_clear
from tests.vertical.trees import aligned

ROWS = 240
RANDOM = np.random.default_rng(0)
COLUMNS = {name: RANDOM.normal(size=(ROWS, 3)) for name in ("bank", "shop", "clinic")}
LABELS = np.where(COLUMNS["shop"][:, 0] + COLUMNS["clinic"][:, 1] > 0.3, 1.0, 0.0)


def forms(values: NDArray[np.float64]) -> set[bytes]:
    """Return how numbers could stand in a frame, each, and in single precision two after the other."""
    found = set()
    for value, after in zip(values, np.roll(values, -1), strict=True):
        found |= {np.float64(value).tobytes(), np.float64(value).astype(">f8").tobytes()}
        found |= {np.array([value, after], "<f4").tobytes(), np.array([value, after], ">f4").tobytes()}
        found |= {repr(float(value))[:9].encode()}
    return found


def rows_of(integers: NDArray[np.int64]) -> set[bytes]:
    """Return how a run of integers, one after the other, could stand in a frame."""
    some = integers[:64]
    kinds = ["<i8", ">i8", "<i4", ">i4"] + (["u1"] if 0 <= some.min() <= some.max() < 256 else [])
    return {some.astype(kind).tobytes() for kind in kinds} | {
        np.packbits(some > 0, bitorder=order).tobytes() for order in ("big", "little")
    }


def found_in(data: bytes, secrets: set[bytes]) -> bool:
    """Whether one of ``secrets``, each of 8 bytes or more, is in ``data``."""
    begins = np.array([int.from_bytes(secret[:8], "little") for secret in secrets], np.uint64)
    words = np.lib.stride_tricks.sliding_window_view(np.frombuffer(data.ljust(8, b"\0"), np.uint8), 8)
    met = np.isin(np.ascontiguousarray(words).view("<u8")[:, 0], begins)
    return bool(met.any()) and any(secret in data for secret in secrets)


def secrets_of(owner: str) -> dict[str, set[bytes]]:
    """Return what nobody but ``owner`` may see."""
    found = {
        "a value of its columns": forms(COLUMNS[owner].reshape(-1)) | forms(COLUMNS[owner].T.reshape(-1)),
        "an identifier": {f"record-{at}".encode() for at in range(ROWS)},
    }
    if owner == "bank":
        scores = np.full(ROWS, first_score("logistic", LABELS))
        derivatives = gradients("logistic", scores, LABELS)
        found["its labels"] = rows_of(LABELS.astype(np.int64))
        found["gradients"] = forms(derivatives[0]) | rows_of(Fixed.of(derivatives).integers[0])
    return found


def leaks() -> list[str]:
    """Attack: return what was found of whom, and who saw it."""
    frames: list[tuple[str, bytes]] = []

    def watch(_: str, receiver: str, frame: Frame) -> None:
        header, payload = frame
        frames.append((receiver, bytes(header) + (b"" if payload is None else bytes(payload[:]))))

    alignment = aligned(COLUMNS, LABELS, label="bank")
    model = GradientBoosting(trees=1, depth=3, bins=8)
    secrets = {name: secrets_of(name) for name in COLUMNS}
    with suppress(FaultySilo):  # A mutant can make sums wrong; what was sent was sent.
        model.fit(alignment, watch=watch)
        trained = len(frames)
        for to in COLUMNS:
            model.predict(alignment, to=to, watch=watch)
        assert trained < len(frames)
        assert min(len(model.splits(name).columns) for name in ("shop", "clinic")) > 0
    found = set()
    for receiver, data in frames:
        for owner, kinds in secrets.items():
            if owner != receiver:
                found |= {
                    f"{receiver} sees {kind} of {owner}"
                    for kind, values in kinds.items()
                    if found_in(data, values)
                }
    return sorted(found)


def test_vertical_trees_view() -> None:
    assert leaks() == []


_summed = FeatureParty._summed


def with_cuts(self: FeatureParty, *given: Any) -> Payload | None:
    """Send where columns are cut, too."""
    sums = _summed(self, *given)
    cuts = np.concatenate(self._binned.cuts).view(np.uint8)
    return None if sums is None else Payload.of(np.concatenate([sums.array(), cuts]))


@pytest.mark.parametrize(
    ("defence", "mutant", "found"),
    [
        ("secagg.vertical.trees.secret.SecretKey.encrypt", rows_in_clear, "gradients of bank"),
        (
            "secagg.vertical.trees.feature.FeatureParty._summed",
            with_cuts,
            "a value of its columns of shop",
        ),
    ],
)
def test_vertical_trees_view_mutant(
    monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Any, found: str
) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match=found):
        test_vertical_trees_view()
