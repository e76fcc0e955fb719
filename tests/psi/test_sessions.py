"""What a session does with a partner that leaves the protocol: a clear error that names it, and no result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from secagg import wire
from secagg.errors import (
    FaultySilo,
    MalformedMessage,
    ParameterError,
    PolicyRefused,
    UnexpectedMessage,
    UsageError,
)
from secagg.hazmat.curve import POINT_SIZE
from secagg.messages import Said
from secagg.payload import Payload
from secagg.psi.identifiers import Rule, read_identifiers
from secagg.psi.messages import (
    NOWHERE,
    Counted,
    Evaluated,
    FromReceiver,
    FromSender,
    Matched,
    Query,
    Revealed,
    Tags,
    Withheld,
)
from secagg.psi.powers import Powers
from secagg.psi.sender import SenderSession
from secagg.psi.sides import sending
from secagg.psi.sizes import padded
from secagg.psi.tags import TAG_SIZE
from secagg.psi.terms import IntersectionPolicy, IntersectionTerms, Reveal
from tests.psi.parties import parties

MINE, THEIRS = [str(i) for i in range(100)], [str(i) for i in range(50, 150)]


def payload(message: Any) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = getattr(message, message.__struct_fields__[-1]).array().copy()
    return array


def with_array(message: Any, array: np.ndarray[Any, Any]) -> Any:
    changed: Any = replace(
        message, **{message.__struct_fields__[-1]: Payload.of(np.ascontiguousarray(array))}
    )
    return changed


def counted(count: int) -> Counted:
    return Counted(count.to_bytes(4, "little"))


def of_low_order(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array[:POINT_SIZE] = 0
    return array


def not_canonical(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array[POINT_SIZE - 1] |= 0x80
    return array


def first_matched(array: np.ndarray[Any, Any]) -> int:
    return int(np.flatnonzero(array)[0])


def told_twice(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    known = np.flatnonzero(array != NOWHERE)
    array[known[0]] = array[known[1]]
    return array


def matched_twice(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    known = np.flatnonzero(array)
    array[known[0]] = array[known[1]]
    return array


def beyond(value: int) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    def change(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        array[first_matched(array)] = value
        return array

    return change


def some_padding(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Match every tag that is left, padding too."""
    free = np.flatnonzero(array == 0)
    unused = np.setdiff1d(np.arange(1, 105, dtype=np.uint32), array)
    array[free[: len(unused)]] = unused[: len(free)]
    return array


RECEIVERS: list[Any] = [
    pytest.param(Query, lambda a: a[:-POINT_SIZE], "not padded", id="a point less"),
    pytest.param(Query, lambda a: a[:-1], "whole points", id="half a point"),
    pytest.param(Query, lambda a: a.view(np.uint32), "whole points", id="another type"),
    pytest.param(Query, of_low_order, "low order", id="low order"),
    pytest.param(Query, not_canonical, "canonical", id="not canonical"),
    pytest.param(Query, lambda a: np.tile(a[:POINT_SIZE], len(a) // POINT_SIZE), "twice", id="one point"),
    pytest.param(Matched, lambda a: a[:-1], "another number", id="a match less"),
    pytest.param(Matched, lambda a: a.astype(np.uint64), "another number", id="wide matches"),
    pytest.param(Matched, beyond(10_000), "a tag that there is not", id="a tag beyond"),
    pytest.param(Matched, matched_twice, "a tag twice", id="twice"),
    pytest.param(Matched, some_padding, "padding", id="padding"),
]
SENDERS: list[Any] = [
    pytest.param(Evaluated, lambda a: a[:-POINT_SIZE], "another number of points", id="a point less"),
    pytest.param(Evaluated, of_low_order, "low order", id="low order"),
    pytest.param(Evaluated, not_canonical, "canonical", id="not canonical"),
    pytest.param(Evaluated, lambda a: np.tile(a[:POINT_SIZE], len(a) // POINT_SIZE), "twice", id="one point"),
    pytest.param(Evaluated, lambda a: a.astype(np.uint64), "another number of points", id="wide points"),
    pytest.param(Tags, lambda a: a[:-TAG_SIZE], "not padded", id="a tag less"),
    pytest.param(Tags, lambda a: a[:-1], "not whole", id="half a tag"),
    pytest.param(Tags, lambda a: a[::-1], "ascending", id="not in order"),
    pytest.param(Tags, lambda a: np.zeros_like(a), "ascending", id="one tag for all"),
    pytest.param(Tags, lambda a: a.view(np.uint32), "not whole", id="another type"),
    pytest.param(Revealed, lambda a: a[:-1], "another number of points", id="a place less"),
    pytest.param(Revealed, lambda a: a.astype(np.uint64), "another number of points", id="wide places"),
    pytest.param(Revealed, lambda a: np.full_like(a, NOWHERE), "other places", id="none told"),
    pytest.param(Revealed, lambda a: np.where(a == NOWHERE, 0, a), "other places", id="all told"),
    pytest.param(Revealed, lambda a: np.where(a == NOWHERE, a, 5000), "other places", id="a place beyond"),
    pytest.param(Revealed, told_twice, "a place twice", id="twice"),
]


@pytest.mark.parametrize(("kind", "change", "text"), RECEIVERS)
def test_a_faulty_receiver_is_named(kind: type[Said], change: Any, text: str) -> None:
    faulty(kind, change, text, "bank")


@pytest.mark.parametrize(("kind", "change", "text"), SENDERS)
def test_a_faulty_sender_is_named(kind: type[Said], change: Any, text: str) -> None:
    faulty(kind, change, text, "insurer")


def faulty(kind: type[Said], change: Any, text: str, name: str) -> None:
    both = parties(
        MINE,
        THEIRS,
        change=lambda said: with_array(said, change(payload(said))) if isinstance(said, kind) else said,
    )
    with pytest.raises(FaultySilo, match=text) as raised:
        both.run()
    assert raised.value.silo == name
    assert not (both.sender if name == "bank" else both.receiver).outcome


@pytest.mark.parametrize("reveal", ["receiver", "count"])
def test_who_is_to_tell_less_may_not_tell_which(reveal: Reveal) -> None:
    both = parties(MINE, THEIRS, reveal=reveal)
    query = both.receiver.open()
    replies = both.sender.receive(query)
    matches = np.zeros(len(payload(query)) // POINT_SIZE, np.uint32)
    matches[:2] = 1, 2
    assert len(replies) == 2
    with pytest.raises(FaultySilo, match=r"was not to|number only"):
        both.sender.receive(Matched(Payload.of(matches)))


def test_more_than_there_are_cannot_be_counted() -> None:
    both = parties(MINE, THEIRS, reveal="count")
    both.sender.receive(both.receiver.open())
    with pytest.raises(FaultySilo, match="counted more"):
        both.sender.receive(counted(101))


def test_a_message_that_is_not_due_is_refused_and_names_its_sender() -> None:
    both = parties(MINE, THEIRS)
    with pytest.raises(UnexpectedMessage, match="Tags from insurer is not due"):
        both.receiver.receive(Tags(Payload.of(np.zeros(64 * TAG_SIZE, np.uint8))))
    with pytest.raises(UnexpectedMessage, match="Matched from bank is not due"):
        both.sender.receive(Matched(Payload.of(np.zeros(64, np.uint32))))
    with pytest.raises(UnexpectedMessage, match="Counted from bank is not due"):
        both.sender.receive(counted(1))
    query = both.receiver.open()
    both.sender.receive(query)
    with pytest.raises(UnexpectedMessage, match="Query from bank is not due"):
        both.sender.receive(query)  # A second query under one exponent would be a second set.
    with pytest.raises(UsageError, match="begun before"):
        both.receiver.open()


@pytest.mark.parametrize("reveal", ["both", "receiver", "count"])
@pytest.mark.parametrize("whose", ["receiver", "sender"])
def test_too_few_are_shown_to_nobody(whose: str, reveal: Reveal) -> None:
    few: dict[str, Any] = {whose: IntersectionPolicy(smallest_intersection=51)}
    both = parties(MINE, THEIRS, reveal=reveal, **few)
    with pytest.raises(PolicyRefused, match="smallest intersection: fewer than 51 records are shared"):
        both.run()
    assert not both.sender.outcome
    # Of a number alone the receiver has nothing to wait for: the sender's refusal comes after it.
    assert (both.receiver.outcome is None) == (whose == "receiver" or reveal != "count")
    if whose == "sender":
        with pytest.raises(PolicyRefused, match="smallest intersection: insurer says no more"):
            both.receiver.receive(Withheld("smallest intersection"))
    else:
        with pytest.raises(PolicyRefused, match="smallest intersection: bank says no more"):
            both.sender.receive(Withheld("smallest intersection"))
    assert both.receiver.outcome is both.sender.outcome is None
    enough: dict[str, Any] = {whose: IntersectionPolicy(smallest_intersection=50)}
    both = parties(MINE, THEIRS, reveal=reveal, **enough)
    both.run()
    assert both.receiver.outcome is not None
    assert both.receiver.outcome.count == 50


def test_after_a_refusal_nothing_more_is_taken_or_said() -> None:
    """Guarantee of both sessions."""
    both = parties(MINE, THEIRS, receiver=IntersectionPolicy(smallest_intersection=51))
    evaluated, tags = both.sender.receive(both.receiver.open())
    assert isinstance(evaluated, Evaluated)
    assert isinstance(tags, Tags)
    both.receiver.receive(evaluated)
    with pytest.raises(PolicyRefused):
        both.receiver.receive(tags)
    with pytest.raises(PolicyRefused):
        both.sender.receive(Withheld("smallest intersection"))
    # Another set of tags would be another question, and matches after all an answer.
    with pytest.raises(UnexpectedMessage):
        both.receiver.receive(tags)
    with pytest.raises(UnexpectedMessage):
        both.sender.receive(Matched(Payload.of(np.ones(104, np.uint32))))
    for session in (both.receiver, both.sender):
        assert repr(session._state) == "Ended()"


def test_parties_that_agreed_on_different_things_are_told_so() -> None:
    one, other = parties(MINE, THEIRS), parties(MINE, THEIRS)
    with pytest.raises(
        FaultySilo, match="bank: it agreed on another session, other parties, rules or results"
    ):
        other.sender.receive(one.receiver.open())


@pytest.mark.parametrize("whose", ["receiver", "sender"])
def test_a_set_larger_than_is_allowed_is_refused(whose: str) -> None:
    few: dict[str, Any] = {whose: IntersectionPolicy(largest_set=64)}
    partner = {"receiver": "insurer", "sender": "bank"}[whose]
    with pytest.raises(PolicyRefused, match=f"largest set: {partner} brings 104 records, padded; 64 are"):
        parties(MINE, THEIRS, **few).run()
    parties(MINE[:64], THEIRS[:64], **few).run()


@pytest.mark.parametrize("reveal", ["both", "receiver", "count"])
def test_who_has_a_result_keeps_it(reveal: Reveal) -> None:
    both = parties(MINE, THEIRS, reveal=reveal)
    both.run()
    late = Withheld("smallest intersection")
    if reveal == "count":  # Here it may be the sender's answer to the number.
        with pytest.raises(PolicyRefused):
            both.receiver.receive(late)
    else:
        with pytest.raises(UnexpectedMessage):
            both.receiver.receive(late)
        assert both.receiver.outcome is not None
    with pytest.raises(UnexpectedMessage):
        both.sender.receive(late)
    assert both.sender.outcome is not None


def test_two_points_that_differ_by_one_of_low_order_are_one() -> None:
    """Their powers are the same, and would be counted twice."""

    def twins(said: Said) -> Said:
        if not isinstance(said, Evaluated):
            return said
        points = payload(said)
        u = int.from_bytes(points[:POINT_SIZE].tobytes(), "little")
        # Adding the point (0, 0) of order 2 takes u to 1/u.
        points[POINT_SIZE : 2 * POINT_SIZE] = np.frombuffer(
            pow(u, -1, 2**255 - 19).to_bytes(POINT_SIZE, "little"), np.uint8
        )
        return Evaluated(Payload.of(points))

    with pytest.raises(FaultySilo, match="insurer: a point comes twice"):
        parties(MINE, THEIRS, change=twins).run()


def test_what_cannot_be_agreed_on_is_refused() -> None:
    right: dict[str, Any] = {"session": bytes(32), "receiver": "a", "sender": "b"}
    for wrong, text in (
        ({"session": bytes(31)}, "a session is 32 bytes"),
        ({"sender": "a"}, "two parties are needed"),
        ({"reveal": "all"}, "must be one of both, receiver, count"),
        ({"session": "s" * 32}, "a session is 32 bytes"),
        ({"rule": "fold"}, "must be a Rule"),
    ):
        with pytest.raises(ParameterError, match=text):
            IntersectionTerms(**right | wrong)
    policies: list[dict[str, Any]] = [
        {"largest_set": 0},
        {"largest_set": 2**40},
        {"smallest_intersection": -1},
    ]
    for policy in policies:
        with pytest.raises(ParameterError, match="must be at"):
            IntersectionPolicy(**policy)


def test_everything_agreed_on_changes_every_point() -> None:
    right: dict[str, Any] = {"session": bytes(32), "receiver": "a", "sender": "b"}
    other: list[dict[str, Any]] = [
        {},
        {"session": b"\1" * 32},
        {"receiver": "c"},
        {"sender": "c"},
        {"reveal": "count"},
        {"rule": Rule(case="keep")},
        {"rule": Rule(spaces="keep")},
    ]
    assert len({IntersectionTerms(**right | each).digest for each in other}) == len(other)


def test_frames_of_one_party_are_not_taken_from_the_other() -> None:
    both = parties(MINE, THEIRS)
    query = both.receiver.open()
    evaluated, tags = both.sender.receive(query)
    with pytest.raises(MalformedMessage):
        wire.decode_as(*wire.encode(query), FromSender)
    for reply in (evaluated, tags):
        with pytest.raises(MalformedMessage):
            wire.decode_as(*wire.encode(reply), FromReceiver)
        with pytest.raises(MalformedMessage):
            wire.decode_from_silo(*wire.encode(reply))


def test_a_sender_computes_its_own_set_before_it_is_asked() -> None:
    computed: list[int] = []
    powers = Powers(cores=1, progress=computed.append)
    here = parties(range(100), range(50, 150))
    terms, policy = here.sender.terms, IntersectionPolicy()
    sender = SenderSession(terms, read_identifiers(range(50, 150)), policy=policy, powers=powers)
    next(sending(sender))
    assert sum(computed) == padded(100)
    here.sender = sender
    here.run()
    assert sum(computed) == 2 * padded(100), "each point once"
    assert here.receiver.outcome is not None
    assert here.receiver.outcome.count == 50
