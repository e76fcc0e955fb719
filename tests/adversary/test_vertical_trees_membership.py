"""Attack ``vertical_trees_membership``: find out of a sum which rows it is of.

The label party knows all that it encrypted. It guesses which rows a cell has, makes the sum by itself, and
compares it with what came back: the half of a ciphertext that no plaintext is in is a function of the rows
alone. Rows of one gradient have one plaintext, so that sums which open alike must be told apart by this, or
by nothing. It also compares differences of two sums, in which what hides both alike would be gone.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secagg.names import RandomSource
from secagg.vertical.trees.cells import Binned
from secagg.vertical.trees.lattice import SECRETS, SENT, SENT_BITS, STRIDE, PublicKey
from secagg.vertical.trees.ring import (
    LIMBS,
    Integers,
    N,
    Points,
    carried,
    coefficients,
    rounded,
    transform_folded,
)
from secagg.vertical.trees.secret import SecretKey
from secagg.vertical.trees.sums import EncryptedRows, selection

ROWS = 600
COLUMN: NDArray[np.float64] = (np.arange(ROWS)[:, None] % 2).astype(float)
"""Which of two cells a row is in: what is to be found out."""
NODES = (np.arange(0, 400), np.arange(100, 600))


def first_half(sent: NDArray[np.uint8]) -> Integers:
    """Return the coefficients of a in a sum."""
    words = np.zeros((N, 8), np.uint8)
    words[:, :SENT] = sent[0].reshape(-1, SENT)[:N]
    return words.view("<i8")[:, 0]


def made(own: EncryptedRows, column: NDArray[np.float64]) -> Integers:
    """Return the same as the label party makes it if the feature party had ``column``."""
    picked = transform_folded(selection(Binned.of(column, 2), 0, 1, own._blocks))
    total = np.matmul(picked.transpose(2, 0, 1), own._points)[:, 0].T
    return rounded(carried(coefficients(total).reshape(1 + SECRETS, LIMBS, N)[0]), SENT_BITS)


def near(one: Integers, other: Integers) -> bool:
    """Whether two halves are the same but for rounding."""
    apart = (one - other + 2) % (1 << SENT_BITS)
    return bool((apart <= 4).all())


def told_apart() -> list[str]:
    """Attack: return which guesses a sum confirmed."""
    key = SecretKey()
    # All rows have one gradient: every guess opens to the same sums, if it has as many rows.
    nodes = [COLUMN[rows] for rows in NODES]
    own = [EncryptedRows(*key.encrypt(np.ones((SECRETS, len(node)), np.int64)), len(node)) for node in nodes]
    came = [
        rows.sums(Binned.of(node, 2), key.public, random=os.urandom)
        for rows, node in zip(own, nodes, strict=True)
    ]
    for sent, node in zip(came, nodes, strict=True):
        assert key.open(sent.reshape(-1), 1)[:, :2].tolist() == [[len(node) // 2] * 2] * 2
    guess = COLUMN.copy()
    guess[[110, 111]] = guess[[111, 110]]  # Two rows changed places.
    found = []
    for name, column in (("the rows", COLUMN), ("others", guess)):
        mine = [made(one, column[rows]) for one, rows in zip(own, NODES, strict=True)]
        if any(near(first_half(sent), one) for sent, one in zip(came, mine, strict=True)):
            found.append(f"a sum is of {name}")
        if near(first_half(came[0]) - first_half(came[1]), mine[0] - mine[1]):
            found.append(f"a difference is of {name}")
    return found


def test_vertical_trees_membership() -> None:
    assert told_apart() == [], "a sum tells which rows are in a bin"


def no_zero(_: PublicKey, __: RandomSource) -> tuple[Any, Any, Any]:
    return 0, 0, np.zeros((LIMBS, SECRETS, STRIDE), np.int64)


def same_zero() -> Any:
    """Return a ``zero`` that is fresh once."""
    fresh, kept = PublicKey.zero, list[tuple[Points, Integers, Integers]]()

    def zero(self: PublicKey, random: RandomSource) -> tuple[Points, Integers, Integers]:
        if not kept:
            kept.append(fresh(self, random))
        return kept[0]

    return zero


def no_secret(shape: tuple[int, ...], _: RandomSource) -> Integers:
    return np.zeros(shape, np.int64)


@pytest.mark.parametrize(
    ("defence", "mutant"),
    [
        ("secagg.vertical.trees.lattice.PublicKey.zero", no_zero),
        ("secagg.vertical.trees.lattice.PublicKey.zero", same_zero()),
        ("secagg.vertical.trees.lattice.ternary", no_secret),
    ],
)
def test_vertical_trees_membership_mutant(monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Any) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match="a sum tells which rows are in a bin"):
        test_vertical_trees_membership()
