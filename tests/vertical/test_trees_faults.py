"""A party that leaves the protocol of boosted trees is named, by the first honest one that it meets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from secagg.conversation import Side, say, together
from secagg.errors import FaultySilo
from secagg.messages import Part
from secagg.payload import Payload
from secagg.vertical.checkpoints import InMemory
from secagg.vertical.trees import messages
from secagg.vertical.trees.feature import FeatureParty
from secagg.vertical.trees.label import LabelParty
from secagg.vertical.trees.messages import NOWHERE
from secagg.vertical.trees.model import Tree, to_json
from secagg.vertical.trees.scoring import ScoreTerms, ScoringParty
from secagg.vertical.trees.settings import Settings, TreeTerms
from tests.vertical.trees import aligned, tampered

ROWS, LEAST = 61, 5
RANDOM = np.random.default_rng(3)
LABEL_COLUMNS, COLUMNS = RANDOM.normal(size=(ROWS, 1)), RANDOM.normal(size=(ROWS, 3))
LABELS = (COLUMNS[:, 0] + COLUMNS[:, 1] > 0).astype(float)
TERMS = TreeTerms(
    alignment=bytes(32),
    parties=("bank", "shop"),
    label_party="bank",
    settings=Settings(trees=2, depth=3, bins=6, min_child_rows=LEAST),
)


def sides() -> dict[str, Side[Any]]:
    return {
        "bank": LabelParty("bank", LABEL_COLUMNS, LABELS, TERMS, InMemory()).side(),
        "shop": FeatureParty("shop", COLUMNS, TERMS, InMemory()).side(),
    }


def array(payload: Payload) -> NDArray[Any]:
    return payload.array().copy()


def longer(payload: Payload) -> Payload:
    return Payload.of(np.append(array(payload), np.uint8(0)))


def shorter(payload: Payload) -> Payload:
    return Payload.of(array(payload)[:-1].copy())


def of_ones(payload: Payload) -> Payload:
    return Payload.of(np.full(payload.length, 255, np.uint8))


def as_words(payload: Payload) -> Payload:
    return Payload.of(array(payload).astype(np.uint32))


def flipped(payload: Payload) -> Payload:
    changed = array(payload)
    changed[-1] ^= 0x80  # Of a number that is sent back, its highest bit.
    return Payload.of(changed)


def payload_changed(field: str, change: Callable[[Payload], Payload]) -> Callable[[Any], Part | None]:
    def changed(said: Any) -> Part | None:
        payload = getattr(said, field)
        return None if payload is None else msgspec.structs.replace(said, **{field: change(payload)})

    return changed


def level_changed(
    change: Callable[[NDArray[np.uint8]], None], *, later: bool
) -> Callable[[Any], Part | None]:
    """Change the nodes of the root's level, or of the one after it."""
    seen = 0

    def changed(said: messages.Level) -> Part | None:
        nonlocal seen
        seen += 1
        if said.nodes is None or seen != 1 + later:
            return None
        places = array(said.nodes)
        change(places)
        return messages.Level(Payload.of(places))

    return changed


def to(value: int, rows: slice | int) -> Callable[[NDArray[np.uint8]], None]:
    def change(places: NDArray[np.uint8]) -> None:
        places[rows] = value

    return change


def all_but_few_left(places: NDArray[np.uint8]) -> None:
    places[:] = 0
    places[: LEAST - 1] = 1


def cannot_be_split(places: NDArray[np.uint8]) -> None:
    places[:] = NOWHERE
    places[:LEAST], places[LEAST : 2 * LEAST] = 0, 1


def chosen(*splits: tuple[int, int, int]) -> Callable[[Any], Part]:
    return lambda _: messages.Chosen(splits)


def bits_set(said: messages.Sums) -> Part:
    return messages.Sums(bytes([255] * len(said.allowed)), said.sums)


def bits_longer(said: messages.Sums) -> Part:
    return messages.Sums(said.allowed + b"\0", said.sums)


def no_sums(said: messages.Sums) -> Part:
    return messages.Sums(said.allowed, None)


def other_kind(_: Any) -> Part:
    return messages.Brought((2,))


LABEL_FAULTS: list[tuple[type[Part], Callable[[Any], Part | None], str]] = [
    (messages.KeyShown, payload_changed("zeros", longer), "its key: the bytes are no public key"),
    (messages.KeyShown, payload_changed("zeros", as_words), "its key: the bytes are no public key"),
    (messages.KeyShown, payload_changed("zeros", of_ones), "its key: a coefficient is not below"),
    (messages.Gradients, payload_changed("ciphertexts", shorter), "its gradients: the bytes are no cipher"),
    (messages.Gradients, payload_changed("ciphertexts", as_words), "its gradients: the bytes are no cipher"),
    (messages.Gradients, payload_changed("ciphertexts", of_ones), "its gradients: a coefficient is not"),
    (messages.Gradients, other_kind, "it did not say what was due"),
    (messages.Level, payload_changed("nodes", longer), "nodes of other rows"),
    (messages.Level, payload_changed("nodes", as_words), "nodes of other rows"),
    (messages.Level, level_changed(to(1, 0), later=False), "a node that there is not"),
    (messages.Level, level_changed(to(NOWHERE, 0), later=False), "the root lacks rows"),
    (messages.Level, level_changed(to(NOWHERE, slice(None)), later=False), "a level has no node"),
    (messages.Level, level_changed(to(2, 0), later=True), "a node that there is not"),
    (messages.Level, level_changed(to(0, slice(None)), later=True), "a side of a split is missing"),
    (messages.Level, level_changed(to(NOWHERE, 0), later=True), "some rows of a split were left out"),
    (messages.Level, level_changed(all_but_few_left, later=True), "fewer rows than the 5"),
    (messages.Level, level_changed(cannot_be_split, later=True), "nodes that cannot be split"),
    (messages.Chosen, chosen((1, 0, 1)), "splits nodes that there are not"),
    (messages.Chosen, chosen((0, 0, 1), (0, 0, 2)), "splits nodes that there are not, or one twice"),
    (messages.Chosen, chosen((0, 3, 1)), "splits where this party does not allow it"),
    (messages.Chosen, chosen((0, 0, 5)), "splits where this party does not allow it"),
    (messages.Chosen, chosen((0, 0, 6)), "splits where this party does not allow it"),
]
FEATURE_FAULTS: list[tuple[type[Part], Callable[[Any], Part | None], str]] = [
    (messages.Brought, lambda _: messages.Brought((6, 6)), "it allows splits of other nodes or cells"),
    (messages.Brought, lambda _: messages.Brought((6, 6, 5)), "it allows"),
    (messages.Brought, lambda _: messages.Brought((2,) * 65_000), "it allows splits of other nodes or cells"),
    (messages.Sums, bits_longer, "it allows splits of other nodes or cells"),
    (messages.Sums, bits_set, "it allows"),
    (messages.Sums, no_sums, "sums of other cells"),
    (messages.Sums, payload_changed("sums", longer), "sums of other cells"),
    (messages.Sums, payload_changed("sums", as_words), "sums of other cells"),
    (
        messages.Sums,
        payload_changed("sums", flipped),
        "sums of cells that there are not|not the sum of",
    ),
    (
        messages.Sums,
        payload_changed("sums", of_ones),
        "sums of cells that there are not|not the sum of",
    ),
    (messages.Sums, other_kind, "it did not say what was due"),
    (messages.Sides, payload_changed("left", longer), "sides of other rows"),
    (messages.Sides, payload_changed("left", as_words), "sides of other rows"),
    (messages.Sides, payload_changed("left", of_ones), "it told sides of more rows"),
    (
        messages.Sides,
        payload_changed("left", lambda p: Payload.of(array(p) ^ np.array([255] * 7 + [0], np.uint8))),
        "do not add up to its sums",
    ),
]


@pytest.mark.parametrize(("kind", "change", "text"), LABEL_FAULTS)
def test_a_label_party_that_leaves_the_protocol_is_named(
    kind: type[Part], change: Callable[[Any], Part | None], text: str
) -> None:
    both = sides()
    both["bank"] = tampered(both["bank"], kind, change)
    with pytest.raises(FaultySilo, match=rf"^bank: .*({text})") as caught:
        together(both)
    assert caught.value.silo == "bank"


@pytest.mark.parametrize(("kind", "change", "text"), FEATURE_FAULTS)
def test_a_feature_party_that_leaves_the_protocol_is_named(
    kind: type[Part], change: Callable[[Any], Part | None], text: str
) -> None:
    both = sides()
    both["shop"] = tampered(both["shop"], kind, change)
    with pytest.raises(FaultySilo, match=rf"^shop: .*({text})") as caught:
        together(both)
    assert caught.value.silo == "shop"


def test_a_level_too_deep_is_refused() -> None:
    def once_more(said: messages.Level) -> Part | None:
        return messages.Level(Payload.of(np.zeros(ROWS, np.uint8))) if said.nodes is None else None

    both = sides()
    both["bank"] = tampered(both["bank"], messages.Level, once_more)
    with pytest.raises(FaultySilo, match=r"^bank: it told nodes of other rows, or of a level too deep"):
        together(both)


ALIGNMENT = aligned({"bank": LABEL_COLUMNS, "shop": COLUMNS}, LABELS, label="bank")
PARTS = together(sides())
FOREST, BANK, SHOP = PARTS["bank"].forest, PARTS["bank"].splits, PARTS["shop"].splits


def scoring(receiver: str) -> dict[str, Side[Any]]:
    terms = ScoreTerms(
        alignment=bytes(32), model=FOREST.model, parties=FOREST.parties, label_party="bank", to=receiver
    )
    return {
        "bank": ScoringParty("bank", LABEL_COLUMNS, BANK, terms, forest=FOREST).side(),
        "shop": ScoringParty("shop", COLUMNS, SHOP, terms).side(),
    }


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (payload_changed("left", longer), "answered for other splits or rows"),
        (payload_changed("left", as_words), "answered for other splits or rows"),
        (payload_changed("left", of_ones), "answered for more rows"),
        (other_kind, "it did not say what was due"),
    ],
)
def test_who_answers_wrongly_is_named(change: Callable[[Any], Part | None], text: str) -> None:
    assert SHOP.columns
    both = scoring("bank")
    both["shop"] = tampered(both["shop"], messages.Answers, change)
    with pytest.raises(FaultySilo, match=rf"^shop: .*{text}"):
        together(both)


def other_model() -> Payload:
    other = msgspec.structs.replace(FOREST, model=b"\1" * 32)
    return Payload.of(np.frombuffer(to_json(other), np.uint8))


def fewer_splits() -> Payload:
    other = msgspec.structs.replace(FOREST, trees=(Tree((), ((1, 0.0),)),))
    return Payload.of(np.frombuffer(to_json(other), np.uint8))


@pytest.mark.parametrize(
    ("forest", "text"),
    [
        (Payload.of(np.frombuffer(b"{}", np.uint8)), "the bytes are no Forest"),
        (other_model(), "trees of another training"),
        (fewer_splits(), "trees of another training"),
    ],
)
def test_who_sends_other_trees_is_named(forest: Payload, text: str) -> None:
    both = scoring("shop")
    both["bank"] = tampered(both["bank"], messages.Trees, lambda _: messages.Trees(forest))
    with pytest.raises(FaultySilo, match=rf"^bank: .*{text}"):
        together(both)


def test_texts_and_reprs_show_no_data() -> None:
    shown = [repr(part) for part in (FOREST, BANK, SHOP, PARTS["bank"], PARTS["shop"])]
    values = [str(t)[:8] for t in SHOP.thresholds] + [str(w)[:8] for t in FOREST.trees for _, w in t.leaves]
    assert not [value for value in values for text in shown if value in text]
    assert repr(messages.Chosen(((0, 7, 3),))) == "Chosen()"


def test_an_unexpected_first_word_is_refused() -> None:
    def rubbish() -> Side[Any]:
        yield from say("bank", messages.Brought((2,)))

    both = sides()
    both["shop"] = rubbish()
    with pytest.raises(FaultySilo, match=r"^shop: it did not say what was due"):
        together(both)
