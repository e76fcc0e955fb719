"""Attack ``vertical_linear_wire``: look through all frames of a training for what one party has.

Columns, labels, identifiers, what is hidden in each row, sums of columns of one party among several,
gradients and coefficients: none is in any frame, whoever it is for, raw or in the protocol's integers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray

from secagg.conversation import together
from secagg.vertical import Alignment, Party
from secagg.vertical.checkpoints import InMemory
from secagg.vertical.lattice.product import hide
from secagg.vertical.linear import open_link, products
from secagg.vertical.linear.open_link import residual_bits
from secagg.vertical.linear.pieces import vector_bits
from secagg.vertical.linear.prediction import PredictionTerms, prediction_side
from secagg.vertical.linear.state import unpack
from secagg.vertical.linear.terms import Settings, Terms
from secagg.vertical.linear.training import training_side
from tests.adversary.planted import Views, encodings
from tests.vertical.regressions import NAMES, drawn

ROWS = 100
SETTINGS = {
    "open": Settings(steps=3),
    "poly": Settings(link="poly", steps=3),
    "linear": Settings(model="linear", link="poly", steps=3),
}


class Remembered(InMemory):
    """Keeps every state, for the attacker's referee."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[bytes] = []

    def save(self, step: int, state: bytes) -> None:
        super().save(step, state)
        self.states.append(state)


@contextmanager
def remembering(module: Any, name: str, into: list[Any], take: Callable[..., Any]) -> Iterator[None]:
    """Write down of every call of a function what ``take`` makes of its arguments and its result."""
    original = getattr(module, name)

    def call(*arguments: Any, **named: Any) -> Any:
        result = original(*arguments, **named)
        into.append(take(result, *arguments))
        return result

    with mock.patch.object(module, name, call):
        yield


def found(settings: Settings) -> list[str]:
    """Attack: train three parties and predict, and name the secrets that some frame shows."""
    x, y = drawn(ROWS, 9)
    ids = [f"customer-{at}-{at * 7919}" for at in range(ROWS)]
    parties = tuple(
        Party(name, x[:, 3 * at : 3 * at + 3], ids, y=y if at == 0 else None)
        for at, name in enumerate(NAMES[:3])
    )
    rows = {party.name: np.arange(ROWS) for party in parties}
    records = Alignment(parties=parties, rows=rows, digest=bytes(32), counts={})
    terms = Terms(
        settings=settings, records=bytes(32), rows=ROWS, parties=records.names, label_party=NAMES[0]
    )
    views, kept = Views(), {name: Remembered() for name in records.names}
    sides = {
        party.name: training_side(party.name, terms, party.columns, party.X, party.y, kept[party.name])
        for party in parties
    }
    hidden: list[NDArray[Any]] = []
    sums: list[tuple[NDArray[np.float64], int]] = []
    opened: list[NDArray[np.int64]] = []
    with (
        remembering(products, "hide", hidden, lambda _, _key, vector, _layout: vector),
        remembering(open_link, "send_sums", sums, lambda _, along, bits, *_rest: (along, bits)),
        remembering(products, "unmasked", opened, lambda result, *_: result),
    ):
        learned = together(sides, watch=views.watch)
    agreed = PredictionTerms(model=terms.digest, records=bytes(32), rows=ROWS, to=NAMES[0])
    scoring = {p.name: prediction_side(learned[p.name].part, agreed, p.X) for p in parties}
    together(scoring, watch=views.watch)
    assert set(views.of) == set(records.names)

    bits = residual_bits(ROWS) if settings.link == "open" else vector_bits(ROWS, 1)
    gradients = [matrix for each in kept.values() for state in each.states for matrix in unpack(state)[:1]]
    own = [learned[p.name].part.coefficients for p in parties]
    sums += [(p.X @ learned[p.name].part.coefficients, 32) for p in parties[1:]]
    secrets: dict[str, list[bytes]] = {
        "identifiers": [each.encode() for each in ids],
        "columns": [e for p in parties for m in (p.X, p.X.T) for e in encodings(m, fractions=(bits, 40))],
        "labels": [y.astype(kind)[:40].tobytes() for kind in ("f8", "f4", "i8", "i4", "i1", "?")],
        "what is hidden in rows": [
            e for v in hidden for e in encodings(np.ldexp(v[:ROWS].astype(float), -bits), fractions=(bits,))
        ],
        "sums of one of several": [e for v, places in sums for e in encodings(v, fractions=(places,))],
        "gradients": [e for m in gradients[1:] for e in encodings(m[-1:])],
        "products": [
            e
            for v in opened
            if len(v)
            for e in (*encodings(v.astype(float)), v.tobytes(), (v % 2**60).tobytes())
        ],
        "coefficients": [e for c in own for e in encodings(c)],
    }
    assert all(secrets.values())
    return [name for name, patterns in secrets.items() if views.show(patterns)]


@pytest.mark.parametrize("link", ["open", "poly", pytest.param("linear", marks=pytest.mark.full)])
def test_vertical_linear_wire(link: str) -> None:
    assert found(SETTINGS[link]) == [], "a frame shows what it should not"


def hidden_badly(key: Any, vector: NDArray[np.int32], layout: Any) -> Any:
    seed, seconds = hide(key, vector, layout)
    seconds.reshape(-1)[: len(vector)] = vector % 2**29
    return seed, seconds


def no_masks(_self: Any, vector: NDArray[np.uint64], _number: int, **_: Any) -> NDArray[np.uint64]:
    return vector


def zeros(size: int, *_: Any) -> NDArray[np.uint64]:
    return np.zeros(size, np.uint64)


@pytest.mark.parametrize(
    ("defence", "mutant", "link"),
    [
        ("secagg.vertical.lattice.product.words", zeros, "open"),
        ("secagg.vertical.linear.products.hide", hidden_badly, "open"),
        ("secagg.vertical.linear.masks.Masks.masked", no_masks, "open"),
    ],
)
def test_vertical_linear_wire_mutant(
    monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Any, link: str
) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match="a frame shows"):
        test_vertical_linear_wire(link)
