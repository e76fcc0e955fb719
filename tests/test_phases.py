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
    """Guarantee, with the third case beside it: a silo that was lost stays out."""
    barrier = gate()
    barrier.admit("a", 1)
    barrier.lose("b")
    for sender, text in (("x", "x is not awaited"), ("a", "a replied already"), ("b", "b has left")):
        with pytest.raises(UnexpectedMessage, match=text):
            barrier.admit(sender, 2)
        with pytest.raises(UnexpectedMessage, match=text):
            barrier.check(sender)
    assert barrier.replies == {"a": 1}
    assert barrier.waiting == set("cde")


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


@given(st.lists(st.tuples(st.sampled_from("abcdexyz"), st.booleans())), st.integers(0, 5))
def test_a_quorum_counts_silos_and_never_messages(events: list[tuple[str, bool]], quorum: int) -> None:
    """Guarantees: ``close`` gives ``quorum`` distinct expected silos at least, or says who is missing."""
    barrier = gate(quorum)
    for number, (sender, replies) in enumerate(events):
        if not replies:
            barrier.lose(sender)
            continue
        with suppress(UnexpectedMessage):
            barrier.admit(sender, number)
    first: dict[str, Any] = {}
    lost = set()
    for number, (sender, replies) in enumerate(events):
        if replies and sender in EXPECTED and sender not in lost:
            first.setdefault(sender, number)
        elif not replies and sender not in first:
            lost.add(sender)
    if len(first) >= quorum:
        assert barrier.close() == first
    else:
        with pytest.raises(TooFewSilos) as few:
            barrier.close()
        assert (few.value.have, few.value.need, few.value.phase) == (len(first), quorum, "Phase")
        assert few.value.missing == tuple(sorted(EXPECTED - first.keys()))
    assert barrier.waiting == EXPECTED - first.keys() - lost
