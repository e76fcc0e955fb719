"""Attack ``vertical_linear_masks``: learn whose is what from a sum of several, or from what is opened.

The label party opens products for its partner, and asks several partners for sums of their columns. A partner
of several is sent what each of the others opened."""

from __future__ import annotations

from collections import defaultdict
from typing import Any
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray

from secagg.conversation import together
from secagg.messages import Part
from secagg.vertical.checkpoints import InMemory
from secagg.vertical.lattice.ciphertexts import PLAIN_BITS, centred
from secagg.vertical.lattice.product import Matrix, unmasked
from secagg.vertical.linear import open_link, products
from secagg.vertical.linear.masks import Masks
from secagg.vertical.linear.messages import Opened, Sums
from secagg.vertical.linear.sums import send_sums
from secagg.vertical.linear.terms import Settings, Terms
from secagg.vertical.linear.training import training_side
from tests.vertical.regressions import aligned, drawn, read


class Trained:
    """A training of which all messages, and what each party knows of itself, are kept."""

    def __init__(self, link: Any, parties: int) -> None:
        records = aligned(*drawn(100, 6), parties)
        terms = Terms(
            settings=Settings(link=link, steps=2),
            records=records.digest,
            rows=100,
            parties=records.names,
            label_party="bank",
        )
        self.said: dict[tuple[str, str], list[Part]] = defaultdict(list)
        self.sums: list[NDArray[np.float64]] = []
        self.products: list[NDArray[np.int64]] = []

        def keep_sums(sums: NDArray[np.float64], *rest: Any, **named: Any) -> Any:
            self.sums.append(sums)
            return send_sums(sums, *rest, **named)

        def keep_products(*arguments: Any) -> NDArray[np.int64]:
            found = unmasked(*arguments)
            self.products += [found] if len(found) else []
            return found

        sides = {
            party.name: training_side(party.name, terms, party.columns, party.X, party.y, InMemory())
            for party in records.parties
        }
        with (
            mock.patch.object(open_link, "send_sums", keep_sums),
            mock.patch.object(products, "unmasked", keep_products),
        ):
            together(sides, watch=lambda sender, to, frame: self.said[sender, to].append(read(frame)))

    def sent(self, sender: str, to: str, kind: type[Any]) -> list[NDArray[np.uint64]]:
        """Return the vectors of all messages of one kind."""
        found = [each for each in self.said[sender, to] if isinstance(each, kind)]
        return [getattr(each, each.__struct_fields__[0]).array() for each in found]


def opened_is_the_gradient() -> bool:
    """Attack: take what was opened for the partner for its gradient, of two parties."""
    trained = Trained("open", 2)
    opened = trained.sent("bank", "insurer", Opened)
    assert len(opened) == len(trained.products) == 2
    return any(
        np.array_equal(centred(words), exact) for words, exact in zip(opened, trained.products, strict=True)
    )


def sum_is_one_partys() -> bool:
    """Attack: take what one of two partners sent for the sum of its columns."""
    trained = Trained("open", 3)
    (sent,) = trained.sent("insurer", "bank", Sums)
    assert len(trained.sums) == 2
    return any(abs(np.corrcoef(sent.view(np.int64), own)[0, 1]) > 0.9 for own in trained.sums)


def products_come_apart() -> bool:
    """Attack: take what each of two holders opened for the products with its own vector.

    Products of a hundred rows are far smaller than the modulus; with what the asker masked it knows.
    """
    trained, masks = None, []
    original = Matrix.masked_product

    def keep_masks(self: Any, *arguments: Any) -> Any:
        masked, drawn_masks = original(self, *arguments)
        masks.append(drawn_masks)
        return masked, drawn_masks

    with mock.patch.object(Matrix, "masked_product", keep_masks):
        trained = Trained("poly", 3)
    opened = [*trained.sent("bank", "shop", Opened), *trained.sent("insurer", "shop", Opened)]
    apart = [centred(words - mask) for words in opened for mask in masks if len(mask) == len(words)]
    return any(bool(np.abs(each).max() < 2.0 ** (PLAIN_BITS - 1) / 100) for each in apart)


def test_vertical_linear_masks() -> None:
    assert not opened_is_the_gradient(), "the holder reads the asker's gradient"
    assert not sum_is_one_partys(), "a sum shows one party's part"
    assert not products_come_apart(), "products show whose vector they are of"


def no_words(size: int, *_: Any) -> NDArray[np.uint64]:
    return np.zeros(size, np.uint64)


def no_masks(_self: Any, vector: NDArray[np.uint64], _number: int, **_: Any) -> NDArray[np.uint64]:
    return vector


def none_of_products(self: Any, vector: NDArray[np.uint64], number: int, **named: Any) -> NDArray[np.uint64]:
    return vector if len(vector) < 10 else masked(self, vector, number, **named)


masked = Masks.masked


@pytest.mark.parametrize(
    ("defence", "mutant", "told"),
    [
        ("secagg.vertical.lattice.product.words", no_words, "reads the asker's gradient"),
        ("secagg.vertical.linear.masks.Masks.masked", no_masks, "a sum shows"),
        ("secagg.vertical.linear.masks.Masks.masked", none_of_products, "products show"),
    ],
)
def test_vertical_linear_masks_mutant(
    monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Any, told: str
) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match=told):
        test_vertical_linear_masks()
