"""Trainings that are interrupted go on bit for bit; what nobody can have meant names who sent it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg import wire
from secagg.conversation import Side, Watch, together
from secagg.errors import FaultySilo, MalformedMessage, ParameterError
from secagg.hazmat.agreement import AgreementKey
from secagg.messages import Part, Said
from secagg.payload import Payload
from secagg.vertical.alignment import Alignment
from secagg.vertical.checkpoints import Checkpoints, InMemory
from secagg.vertical.lattice.ciphertexts import PLAIN
from secagg.vertical.linear.learned import Learned
from secagg.vertical.linear.masks import Masks
from secagg.vertical.linear.messages import (
    Dots,
    Hidden,
    Joined,
    MaskedProducts,
    Opened,
    Point,
    PublicKey,
    Sums,
    Unit,
    Verdict,
)
from secagg.vertical.linear.prediction import PredictionTerms, prediction_side
from secagg.vertical.linear.state import pack, unpack
from secagg.vertical.linear.terms import Settings, Terms
from secagg.vertical.linear.training import training_side
from tests.counts import FULL
from tests.vertical.regressions import KINDS, Killed, aligned, changed, drawn, killed_at, read

LINKS: dict[str, tuple[Settings, int]] = {
    "open": (Settings(steps=4), 2),
    "open, three": (Settings(steps=3), 3),
    "poly": (Settings(link="poly", steps=4), 2),
    "poly, three": (Settings(link="poly", steps=3), 3),
    "cubic": (Settings(link="poly", degree=3, reach=8.0, steps=3), 2),
    "linear": (Settings(model="linear", link="poly", steps=3), 2),
}
Sides = dict[str, Side[Learned]]


def sides_of(
    settings: Settings, records: Alignment, kept: dict[str, Checkpoints] | None = None, **others: Settings
) -> Sides:
    """Return a side for each party; ``others`` agreed on other settings."""
    sides = {}
    for party in records.parties:
        terms = Terms(
            settings=others.get(party.name, settings),
            records=records.digest,
            rows=records.count,
            parties=records.names,
            label_party=records.label_party,
        )
        labels = records.labels() if party.name == records.label_party else None
        features = records.features(party.name)
        checkpoints = (kept or {}).get(party.name) or InMemory()
        sides[party.name] = training_side(party.name, terms, party.columns, features, labels, checkpoints)
    return sides


def bits(learned: dict[str, Learned]) -> dict[str, tuple[bytes, float, int, bool]]:
    """Return all that a training gave, so that equal means equal in every bit."""
    return {
        name: (each.part.coefficients.tobytes(), each.part.intercept, each.gradients, each.converged)
        for name, each in learned.items()
    }


# --- interrupted trainings ---------------------------------------------------------------------------


@pytest.mark.parametrize("link", LINKS)
def test_a_killed_training_goes_on_bit_for_bit(link: str) -> None:
    settings, parties = LINKS[link]
    records = aligned(*drawn(120, 6), parties)
    frames = [0]

    def counted(*_: Any) -> None:
        frames[0] += 1

    whole = bits(together(sides_of(settings, records), watch=counted))
    # Killed where every step and every kind of message is met, and in the full run at every frame of two.
    often = 1 if FULL and link in {"open", "poly"} else 1 + frames[0] // (12 if FULL else 4)
    for at in range(0, frames[0], often):
        kept: dict[str, Checkpoints] = {name: InMemory() for name in records.names}
        with pytest.raises(Killed):
            together(sides_of(settings, records, kept), watch=killed_at(at))
        assert bits(together(sides_of(settings, records, kept))) == whole, f"killed at frame {at}"


def test_a_training_that_is_killed_after_every_step_still_ends() -> None:
    settings, parties = LINKS["open, three"]
    records = aligned(*drawn(120, 6), parties)
    whole = bits(together(sides_of(settings, records)))
    kept: dict[str, Checkpoints] = {name: InMemory() for name in records.names}
    steps = []
    for _ in range(20):
        steps.append(max(kept["bank"].load(), default=0))
        seen: Watch = killed_at_step(steps[-1] + 1)
        try:
            learned = together(sides_of(settings, records, kept), watch=seen)
        except Killed:
            continue
        assert bits(learned) == whole
        break
    else:
        pytest.fail("it does not end")
    assert steps == [0, 1, 2]


def killed_at_step(step: int) -> Watch:
    """Return a watch that kills all parties before the point of a step is told."""

    def watch(_sender: str, _to: str, frame: Any) -> None:
        message = read(frame)
        if isinstance(message, Point) and len(message.multiples) >= step:
            raise Killed

    return watch


def test_a_party_that_lost_its_checkpoints_begins_anew_with_all_others() -> None:
    settings, parties = LINKS["poly"]
    records = aligned(*drawn(120, 6), parties)
    whole = bits(together(sides_of(settings, records)))
    kept: dict[str, Checkpoints] = {name: InMemory() for name in records.names}
    together(sides_of(settings, records, kept))
    kept["insurer"] = InMemory()
    assert bits(together(sides_of(settings, records, kept))) == whole


def test_parties_that_agreed_on_other_settings_do_not_train() -> None:
    records = aligned(*drawn(120, 6))
    with pytest.raises(FaultySilo, match="agreed on other records, settings or parties"):
        together(sides_of(Settings(), records, insurer=Settings(l2=2.0)))


@given(st.lists(st.lists(st.floats(), min_size=1, max_size=5), max_size=3))
def test_states_come_back_bit_for_bit(rows: list[list[float]]) -> None:
    matrices = [np.array(row) for row in rows]
    again = unpack(pack(*matrices, np.zeros((0, 3))))
    assert [m.tobytes() for m in again] == [m.tobytes() for m in (*matrices, np.zeros((0, 3)))]
    assert again[-1].shape == (0, 3)


# --- what nobody can have meant ---------------------------------------------------------------------


def words(dtype: str, length: int, value: int = 0) -> Payload:
    return Payload.of(np.full(length, value, dtype))


def garbled(payload: Payload, largest: int) -> list[Payload]:
    """Return payloads that are short, long, of another type, or have a value that is not allowed."""
    array = payload.array()
    out_of_range = array.copy()
    out_of_range[-1] = largest
    other = "u4" if payload.dtype == "u8" else "u8"
    found = [array[:-1], np.append(array, array[:1]), array.astype(other)]
    found += [out_of_range] if largest else []
    return [Payload.of(np.ascontiguousarray(each)) for each in found]


def garbage(message: Part) -> list[Part]:
    """Return messages of the same kind that nobody can have meant."""
    replace: Callable[..., Any] = msgspec.structs.replace
    match message:
        case PublicKey(second=payload):
            return [replace(message, second=each) for each in garbled(payload, 2**32 - 1)]
        case Hidden(seconds=payload):
            return [replace(message, seconds=each) for each in garbled(payload, 2**30)]
        case MaskedProducts(halves=payload):
            return [replace(message, halves=each) for each in garbled(payload, 2**30)]
        case Opened(products=payload):
            return [replace(message, products=each) for each in garbled(payload, PLAIN)]
        case Sums(sums=payload):
            return [replace(message, sums=each) for each in garbled(payload, 0)]
        case Dots(products=products):
            wrong = [products[:-1], (*products, 0.0), (*products[:-1], -1.0)]
            wrong += [(*products[:-1], bad) for bad in (np.nan, np.inf, 1e300)]
            return [replace(message, products=each) for each in wrong]
        case Point(multiples=multiples):
            return [
                replace(message, multiples=(*multiples, 0.0)),
                replace(message, multiples=(np.nan,) * len(multiples), kept=np.nan),
            ]
        case Joined():
            other = AgreementKey.generate().public
            low, high = bytes(32), b"\xff" * 32
            return [*(replace(message, mask=m) for m in (low, high)), Joined(100, other)]
        case Verdict():
            return [Verdict("further", -100)]
        case Unit():
            return []
    raise AssertionError(type(message))


def tampered(
    settings: Settings, records: Alignment, kind: str, choice: int, culprit: str, occurrence: int
) -> Sides:
    """Return sides of which one sends garbage, once; KeyError if it sends no such message."""
    sides, seen = sides_of(settings, records), count()

    def change(_to: str, message: Part) -> Part:
        if type(message).__name__ != kind or next(seen) != occurrence:
            return message
        return garbage(message)[choice]

    sides[culprit] = changed(sides[culprit], change)
    return sides


SENT = [
    ("open", "bank", "PublicKey", 4),
    ("open", "bank", "Hidden", 4),
    ("open", "bank", "Opened", 4),
    ("open", "bank", "Point", 1),
    ("open", "bank", "Verdict", 1),
    ("open", "insurer", "MaskedProducts", 4),
    ("open", "insurer", "Dots", 6),
    ("open", "insurer", "Sums", 3),
    ("open", "insurer", "Joined", 3),
    ("open", "bank", "Joined", 2),
    ("poly", "insurer", "Hidden", 4),
    ("poly", "insurer", "Opened", 4),
    ("poly", "bank", "MaskedProducts", 4),
    ("poly", "insurer", "Dots", 6),
    ("poly", "bank", "Point", 2),
    ("poly", "bank", "Joined", 3),
]


@pytest.mark.parametrize(("link", "culprit", "kind", "ways"), SENT)
def test_garbage_names_who_sent_it(link: str, culprit: str, kind: str, ways: int) -> None:
    records = aligned(*drawn(120, 6))
    for choice in range(ways):
        with pytest.raises(FaultySilo) as caught:
            together(tampered(LINKS[link][0], records, kind, choice, culprit, occurrence=0))
        assert caught.value.silo == culprit


def test_every_message_is_garbled_somewhere() -> None:
    assert {kind for _, _, kind, _ in SENT} == set(KINDS) - {"Unit"}
    # Of which nothing is wrong that the decoder lets through.
    for exponent in (-513, 513):
        with pytest.raises(MalformedMessage):
            wire.decode_as(*wire.encode(Unit(exponent)), Unit)


@pytest.mark.parametrize("link", ["open", "poly"])
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"Unit"}))
def test_another_message_than_the_one_due_names_who_sent_it(link: str, kind: str) -> None:
    records = aligned(*drawn(120, 6))
    for culprit in records.names:
        sides, sent = sides_of(LINKS[link][0], records), [False]

        def change(_to: str, message: Part, sent: list[bool] = sent) -> Part:
            if type(message).__name__ != kind:
                return message
            sent[0] = True
            return Unit(0)

        sides[culprit] = changed(sides[culprit], change)
        blamed = ""
        try:
            together(sides)
        except FaultySilo as fault:
            blamed = fault.silo
        assert blamed == (culprit if sent[0] else "")


def test_garbage_in_a_prediction_names_who_sent_it() -> None:
    x, y = drawn(120, 6)
    for parties in (2, 3):
        records = aligned(x, y, parties)
        parts = {n: each.part for n, each in together(sides_of(Settings(steps=1), records)).items()}
        terms = PredictionTerms(model=parts["bank"].model, records=records.digest, rows=120, to="bank")
        for kind in ("Sums", "Joined") if parties == 3 else ("Sums",):
            for choice in range(2):
                sides = {n: prediction_side(part, terms, records.features(n)) for n, part in parts.items()}

                def change(_to: str, message: Part, kind: str = kind, choice: int = choice) -> Part:
                    return garbage(message)[choice] if type(message).__name__ == kind else message

                sides["insurer"] = changed(sides["insurer"], change)
                with pytest.raises(FaultySilo) as caught:
                    together(sides)
                assert caught.value.silo == "insurer"


def test_messages_show_nothing() -> None:
    assert all(issubclass(kind, Said) for kind in KINDS.values())
    assert repr(Dots((1.5, 2.5))) == "Dots()"
    assert repr(Point((1.5,), 1.0, "go")) == "Point()"


def test_a_side_is_of_one_party_of_its_terms() -> None:
    records = aligned(*drawn(120, 6))
    terms = Terms(
        settings=Settings(), records=bytes(32), rows=120, parties=("bank", "insurer"), label_party="bank"
    )
    x, y = records.features("bank"), records.labels()
    with pytest.raises(ParameterError, match="and nobody else"):
        training_side("insurer", terms, ("a", "b", "c"), x, y, InMemory())
    with pytest.raises(ParameterError, match="and nobody else"):
        training_side("bank", terms, ("a", "b", "c"), x, None, InMemory())
    stranger = training_side("shop", terms, ("a", "b", "c"), x, None, InMemory())
    with pytest.raises(ParameterError, match="none of the parties"):
        next(stranger)


# --- masks -------------------------------------------------------------------------------------------


@given(
    parties=st.integers(2, 4),
    values=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4),
    number=st.integers(0, 2**31),
)
def test_masks_of_all_senders_vanish_in_their_sum(parties: int, values: list[int], number: int) -> None:
    names = [f"p{i}" for i in range(parties)]
    masks = {name: Masks(name, bytes(32)) for name in names}
    for one in names:
        for other in names:
            if one != other:
                masks[one].meet(other, masks[other].public)
    vector = np.array(values, np.uint64)
    sent = [masks[name].masked(vector, number, to="leader", senders=names) for name in names]
    np.testing.assert_array_equal(sum(sent[1:], sent[0]), vector * np.uint64(parties))
    for each in sent:
        assert (each != vector).all(), "a vector is sent as it is"
    again = masks["p0"].masked(vector, number + 1, to="leader", senders=names)
    elsewhere = masks["p0"].masked(vector, number, to="other", senders=names)
    assert len({each.tobytes() for each in (sent[0], again, elsewhere)}) == 3
