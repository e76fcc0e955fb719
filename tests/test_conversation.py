"""Sides of a protocol, driven together."""

from __future__ import annotations

import pytest

from secagg.conversation import Side, hear, say, together
from secagg.errors import FaultySilo, ProtocolError
from secagg.messages import Part
from secagg.payload import Frame


class Ping(Part, frozen=True, tag=True):
    number: int


class Pong(Part, frozen=True, tag=True):
    number: int


def asks(times: int) -> Side[list[int]]:
    heard = []
    for number in range(times):
        yield from say("b", Ping(number))
    for _ in range(times):
        pong = yield from hear("b", Pong)
        heard.append(pong.number)
    return heard


def answers(times: int) -> Side[list[int]]:
    heard = []
    for _ in range(times):
        ping = yield from hear("a", Ping)
        heard.append(ping.number)
        yield from say("a", Pong(ping.number + 100))
    return heard


def test_frames_arrive_in_the_order_sent_and_each_side_returns_what_it_learned() -> None:
    carried: list[tuple[str, str]] = []

    def watch(sender: str, to: str, frame: Frame) -> None:
        carried.append((sender, to))

    learned = together({"a": asks(3), "b": answers(3)}, watch=watch)
    assert learned == {"a": [100, 101, 102], "b": [0, 1, 2]}
    assert sorted(carried) == [("a", "b")] * 3 + [("b", "a")] * 3


def test_another_message_than_the_one_due_names_who_sent_it() -> None:
    def wrong() -> Side[list[int]]:
        yield from say("a", Ping(1))
        return []

    with pytest.raises(FaultySilo, match="b: it did not say what was due") as caught:
        together({"a": asks(1), "b": wrong()})
    assert caught.value.silo == "b"


def test_sides_that_wait_for_each_other_are_told_so() -> None:
    closed = []

    def waits(other: str) -> Side[list[int]]:
        try:
            yield from hear(other, Ping)
        finally:
            closed.append(other)
        return []

    with pytest.raises(ProtocolError, match="all wait: a for b, b for a"):
        together({"a": waits("b"), "b": waits("a")})
    assert sorted(closed) == ["a", "b"]


@pytest.mark.parametrize("to", ["a", "nobody"])
def test_nothing_is_sent_to_oneself_or_a_stranger(to: str) -> None:
    def side() -> Side[list[int]]:
        yield from say(to, Ping(1))
        return []

    with pytest.raises(ProtocolError, match=f"a sends to {to}"):
        together({"a": side(), "b": answers(0)})
