"""Attack ``vertical_linear_noise``: read an asker's columns from a product's errors, or from its ciphertext.

The holder knows the errors of its own ciphertexts, and those of the product are what columns make of them.
It also knows the first halves, and those of the product are what columns make of these. It gets more here
than in the protocol: ciphertexts as they are before they are narrowed, which cuts most of the errors off."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray

from secagg.vertical.lattice import product
from secagg.vertical.lattice.ciphertexts import PLAIN, SecretKey
from secagg.vertical.lattice.product import Layout, Matrix, hide
from secagg.vertical.lattice.ring import MODULUS, PRIMES, WIDE, Limbs, narrowed
from secagg.vertical.lattice.sampling import uniform

ROWS = 8
LAYOUT = Layout(ROWS, ROWS)
COLUMN = np.array([[123_456], [-654_321], [42], [-999_999], [500_000], [1], [-77_777], [314_159]], np.int32)
UNIT = pow(PLAIN, -1, MODULUS)


def integers(limbs: Limbs) -> list[int]:
    """Return what residues, shape (primes, n), are of, modulo q."""
    bases = [MODULUS // p * pow(MODULUS // p, -1, p) for p in PRIMES]
    return [sum(int(r) * b for r, b in zip(column, bases, strict=True)) % MODULUS for column in limbs.T]


def centred(value: int) -> int:
    """Return a number modulo q that is nearest to 0."""
    return (value + MODULUS // 2) % MODULUS - MODULUS // 2


def error_of(phase: int) -> int:
    """Return the error of a phase, whatever is hidden under it."""
    # t times it is the plaintext and t times the error, so that the plaintext is the rest.
    scaled = centred(PLAIN * phase)
    plain = next(m for m in (scaled % PLAIN, scaled % PLAIN - PLAIN) if abs(m) < PLAIN)
    return min((centred(phase - m * UNIT) for m in (plain, plain + PLAIN, plain - PLAIN)), key=abs)


class Holder:
    """A holder that keeps what it drew, and of the asker's reply both wide halves."""

    def __init__(self) -> None:
        self.key = SecretKey()
        self.public = self.key.public()
        self.matrix = Matrix(COLUMN, LAYOUT)

    def round(self) -> tuple[Limbs, NDArray[np.float64], Limbs, Limbs]:
        """Return its own first half, its errors in each row, and the halves of the product."""
        seed, seconds = hide(self.key, np.zeros(ROWS, np.int32), LAYOUT)
        first = uniform(seed, 1, WIDE)[0]
        phase = WIDE.inverse(WIDE.difference(seconds[0], WIDE.product(first, self.key._secret)))
        errors = np.array([centred(value) for value in integers(phase[:, :ROWS])], np.float64)
        wide: list[Limbs] = []

        def kept(limbs: Limbs) -> Limbs:
            wide.append(limbs)
            return narrowed(limbs)

        with mock.patch.object(product, "narrowed", kept):
            self.matrix.masked_product(self.public, (seed, seconds))
        return first, errors, wide[0], wide[1]


def column_from_errors() -> NDArray[np.float64]:
    """Attack: solve for the column by what it made of known errors, in three times as many rounds as rows."""
    holder, known, seen = Holder(), [], []
    for _ in range(3 * ROWS):
        _, errors, first, second = holder.round()
        masks = WIDE.inverse(WIDE.product(WIDE.forward(first), holder.key._secret))[:, LAYOUT.places]
        phase = integers(WIDE.difference(second, masks)[:, :1])[0]
        known.append(errors)
        seen.append(float(error_of(phase)))
    solved: NDArray[np.float64] = np.linalg.lstsq(np.array(known), np.array(seen), rcond=None)[0]
    return solved


def column_from_first_half() -> list[int]:
    """Attack: divide the first half of the product by that of the hidden vector."""
    holder = Holder()
    own, _, first, _ = holder.round()
    limbs = zip(own.tolist(), PRIMES, strict=True)
    inverses = np.array([[pow(v, -1, p) if v else 0 for v in limb] for limb, p in limbs], np.uint32)
    quotient = WIDE.inverse(WIDE.product(WIDE.forward(first), inverses))
    return [centred(value) for value in integers(quotient[:, :ROWS])][::-1]


def test_vertical_linear_noise() -> None:
    off = np.abs(column_from_errors() - COLUMN[:, 0]).max() / np.abs(COLUMN).max()
    assert off > 2.0**40, "errors tell of the column"
    assert column_from_first_half() != COLUMN[:, 0].tolist(), "the first half tells the column"


def no_flood(count: int, ring: Any, _random: Any) -> Limbs:
    return np.zeros((len(ring.primes), count), np.uint32)


def no_polynomials(shape: tuple[int, ...], _random: Any) -> NDArray[np.int64]:
    return np.zeros(shape, np.int64)


@pytest.mark.parametrize(
    ("defences", "mutant", "told"),
    [
        (["secagg.vertical.lattice.product.flood"], no_flood, "errors tell"),
        (
            ["secagg.vertical.lattice.product.ternary", "secagg.vertical.lattice.product.errors"],
            no_polynomials,
            "the first half tells",
        ),
    ],
)
def test_vertical_linear_noise_mutant(
    monkeypatch: pytest.MonkeyPatch, defences: list[str], mutant: Any, told: str
) -> None:
    for defence in defences:
        monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match=told):
        test_vertical_linear_noise()
