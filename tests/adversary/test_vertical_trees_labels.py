"""Attack ``vertical_trees_labels``: read labels off encrypted gradients.

The feature party keeps all that it was sent in a training. It reads ciphertexts as if nothing hid their
rows; it looks for rows with one ciphertext, since rows of one label have one gradient in the first tree;
and it subtracts ciphertexts of two trees, where what hides them alike would be gone and only changes of
gradients were left.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secagg.errors import FaultySilo
from secagg.hazmat.prg import add_streams
from secagg.payload import Frame
from secagg.vertical import GradientBoosting
from secagg.vertical.trees import messages
from secagg.vertical.trees.lattice import SECRETS, STRIDE
from secagg.vertical.trees.ring import PACKED, Integers, N, carried, rounded, unpacked
from secagg.vertical.trees.secret import SecretKey
from tests.vertical.trees import aligned, decoded

ROWS = 300
RANDOM = np.random.default_rng(0)
COLUMNS = {"bank": RANDOM.normal(size=(ROWS, 2)), "shop": RANDOM.normal(size=(ROWS, 3))}
LABELS = (COLUMNS["bank"][:, 0] + COLUMNS["shop"][:, 0] > 0.2).astype(float)
TOP = 44
"""Upper bits of a coefficient that are read as a number."""


def uploads() -> list[Integers]:
    """Return ciphertexts of gradients at the root of each tree, at coefficients of rows: (LIMBS, rows)."""
    seen: list[Integers] = []

    def watch(_: str, receiver: str, frame: Frame) -> None:
        said = decoded(frame)
        if receiver == "shop" and isinstance(said, messages.Gradients):
            sent = unpacked(said.ciphertexts.array().reshape(-1, SECRETS, N, PACKED))
            seen.append(sent[0, 0, :, ::STRIDE][:, :ROWS])

    with suppress(FaultySilo):  # A mutant can make sums wrong; the attacker has what it was sent.
        GradientBoosting(trees=2, depth=1, bins=4).fit(aligned(COLUMNS, LABELS, label="bank"), watch=watch)
    return seen


def agreement(guess: NDArray[np.bool_]) -> float:
    """Return how far a guess of two classes is from chance, 0 to 1; an attacker can name them either way."""
    return abs(2 * float((guess == (LABELS == 1)).mean()) - 1)


def best_guess() -> float:
    """Attack: return the agreement of the best guess."""
    sent = uploads()
    guesses = []
    for one in [*sent, *(carried(after - before) for before, after in pairwise(sent))]:
        numbers = rounded(one, TOP)
        signed = np.where(numbers >> (TOP - 1), numbers - (1 << TOP), numbers)
        guesses += [signed > 0, signed > np.median(signed)]
        values, kinds = np.unique(numbers, return_inverse=True)
        if len(values) <= 2:
            guesses.append(kinds == 0)
    return max(map(agreement, guesses))


def test_vertical_trees_labels() -> None:
    # By chance one of six guesses of 300 rows is 0.25 off once in ten thousand.
    assert best_guess() < 0.25, "ciphertexts tell labels"


def bare(_: SecretKey, public: Integers) -> Integers:
    return np.zeros((SECRETS, *public.shape), np.int64)


def no_secret(shape: tuple[int, ...], _: Any) -> Integers:
    return np.zeros(shape, np.int64)


def one_stream(total: Any, *, plus: Sequence[bytes], **_: Any) -> None:
    add_streams(total, plus=[bytes(32)] * len(plus))


@pytest.mark.parametrize(
    ("defence", "mutant"),
    [
        ("secagg.vertical.trees.secret.SecretKey._masked", bare),
        ("secagg.vertical.trees.secret.ternary", no_secret),
        ("secagg.vertical.trees.ring.add_streams", one_stream),
    ],
)
def test_vertical_trees_labels_mutant(monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Any) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match="ciphertexts tell labels"):
        test_vertical_trees_labels()
