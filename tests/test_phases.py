"""The barrier: one reply from each silo, counted once, until a quorum or a deadline."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import TooFewSilos, UnexpectedMessage
from secagg.phases import Gate

EXPECTED = frozenset("abcde")


def gate(quorum: int = 3, enough: int | None = None) -> Gate[int]:
    return Gate("Phase", EXPECTED, quorum=quorum, deadline=10.0, enough=enough)


def test_a_strangers_and_a_second_reply_change_nothing() -> None:
    """Guarantee."""
    barrier = gate()
    barrier.admit("a", 1)
    barrier.strike("b")
    for sender, text in (("x", "x is not awaited"), ("a", "a replied already"), ("b", "b has left")):
        with pytest.raises(UnexpectedMessage, match=text):
            barrier.admit(sender, 2)
        with pytest.raises(UnexpectedMessage, match=text):
            barrier.check(sender)
    assert barrier.replies == {"a": 1}
    assert barrier.waiting == set("cde")


def test_a_silo_that_was_lost_may_reply_and_one_that_was_struck_may_not() -> None:
    """Guarantee."""
    barrier = gate()
    barrier.lose("a")
    barrier.strike("b")
    assert barrier.waiting == set("cde")
    barrier.admit("a", 1)
    with pytest.raises(UnexpectedMessage, match="b has left"):
        barrier.admit("b", 1)
    barrier.lose("b")
    with pytest.raises(UnexpectedMessage, match="b has left"):
        barrier.admit("b", 1)
    assert barrier.replies == {"a": 1}
    assert barrier.waiting == set("cde")


def test_a_deadline_moves_later_and_never_earlier() -> None:
    barrier = gate()
    barrier.admit("a", 1)
    barrier.defer(12.0)
    barrier.defer(11.0)
    assert not barrier.closable(11.9)
    assert barrier.closable(12.0)


def test_it_closes_when_nobody_is_awaited_any_more() -> None:
    barrier = gate()
    for sender in "abc":
        barrier.admit(sender, 1)
    barrier.lose("d")
    assert not barrier.closable(9.9)
    barrier.lose("e")
    assert barrier.closable(0.0)
    assert barrier.close() == dict.fromkeys("abc", 1)


def test_it_closes_at_its_deadline() -> None:
    barrier = gate()
    for sender in "abc":
        barrier.admit(sender, 1)
    assert not barrier.closable(9.999)
    assert barrier.closable(10.0)
    assert set(barrier.close()) == set("abc")


def test_it_closes_with_enough() -> None:
    barrier = gate(enough=4)
    for sender in "abc":
        barrier.admit(sender, 1)
    assert not barrier.closable(0.0)
    barrier.admit("d", 1)
    assert barrier.closable(0.0)


def test_a_reply_outlives_its_silo() -> None:
    barrier = gate()
    barrier.admit("a", 1)
    barrier.lose("a")
    barrier.lose("x")
    assert barrier.replies == {"a": 1}
    assert barrier.waiting == set("bcde")


@given(
    st.lists(st.tuples(st.sampled_from("abcdexyz"), st.sampled_from(["replies", "lost", "struck"]))),
    st.integers(0, 5),
)
def test_a_quorum_counts_silos_and_never_messages(events: list[tuple[str, str]], quorum: int) -> None:
    """Guarantees: ``close`` gives ``quorum`` distinct expected silos at least, or says who is missing."""
    barrier = gate(quorum)
    for number, (sender, event) in enumerate(events):
        if event != "replies":
            {"lost": barrier.lose, "struck": barrier.strike}[event](sender)
            continue
        with suppress(UnexpectedMessage):
            barrier.admit(sender, number)
    first: dict[str, Any] = {}
    gone, struck = set(), set()
    for number, (sender, event) in enumerate(events):
        if event == "replies" and sender in EXPECTED and sender not in struck:
            first.setdefault(sender, number)
        elif event != "replies":
            gone.add(sender)
        if event == "struck":
            struck.add(sender)
    if len(first) >= quorum:
        assert barrier.close() == first
    else:
        with pytest.raises(TooFewSilos) as few:
            barrier.close()
        assert (few.value.have, few.value.need, few.value.phase) == (len(first), quorum, "Phase")
        assert few.value.missing == tuple(sorted(EXPECTED - first.keys()))
    assert barrier.waiting == EXPECTED - first.keys() - gone


# --- patience -----------------------------------------------------------------------------------------------


def patient() -> Gate[int]:
    return Gate("Phase", EXPECTED, quorum=3, deadline=10.0, patient=True)


def test_a_patient_gate_awaits_the_lost_while_there_is_no_quorum_without_them() -> None:
    barrier = patient()
    barrier.admit("a", 1)
    barrier.lose("b")
    barrier.lose("c")
    assert barrier.waiting == set("de"), "a, d and e are enough"
    barrier.lose("d")
    assert barrier.recalled == set("bcd")
    assert barrier.waiting == set("bcde")
    assert not barrier.closable(9.9)
    barrier.admit("b", 1)  # It is back.
    assert not barrier.recalled
    assert barrier.waiting == {"e"}
    barrier.admit("e", 1)
    assert barrier.closable(0.0)
    assert set(barrier.close()) == set("abe")


def test_a_patient_gate_closes_at_its_deadline() -> None:
    barrier = patient()
    for silo in EXPECTED:
        barrier.lose(silo)
    assert barrier.waiting == EXPECTED
    assert barrier.closable(10.0)
    with pytest.raises(TooFewSilos):
        barrier.close()


def test_a_patient_gate_awaits_nobody_where_too_many_have_left() -> None:
    barrier = patient()
    for silo in "abc":
        barrier.strike(silo)
    barrier.lose("d")
    assert not barrier.recalled
    assert barrier.waiting == {"e"}
    barrier.lose("e")
    assert barrier.closable(0.0)
