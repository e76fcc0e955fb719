"""Intersections of three to ten parties: what all have, in one order, and a clear end where one leaves."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from secagg.errors import (
    FaultySilo,
    InputRefused,
    ParameterError,
    PolicyRefused,
    UnexpectedMessage,
    UsageError,
)
from secagg.hazmat.curve import POINT_SIZE
from secagg.messages import Said
from secagg.payload import Payload
from secagg.psi import intersect_many
from secagg.psi.identifiers import Key, Rule, read_identifiers
from secagg.psi.many.follower import FollowerSession
from secagg.psi.many.leader import LeaderSession
from secagg.psi.many.messages import EvaluatedInOrder, Introduced, Shared, Table
from secagg.psi.many.terms import ManyTerms
from secagg.psi.messages import Query, Withheld
from secagg.psi.tags import TAG_SIZE
from secagg.psi.terms import IntersectionPolicy
from tests.counts import count
from tests.psi.parties import ONE_CORE
from tests.psi.sessions_of_many import Parties

SETS: Mapping[str, Iterable[Key]] = {"a": range(100), "b": range(50, 160), "c": range(60, 90)}
NAMES = "abcdefghij"


def terms_of(names: str, **changes: Any) -> ManyTerms:
    return ManyTerms(
        **{"session": os.urandom(32), "leader": names[0], "followers": tuple(names[1:])} | changes
    )


class Changing(Parties):
    """Parties of which one says something else than it should."""

    change: Callable[[str, Said], Said] = staticmethod(lambda _, said: said)

    def _frame(self, sender: str, message: Said) -> Any:
        return super()._frame(sender, self.change(sender, message))


def parties(
    sets: Mapping[str, Iterable[Key]] = SETS, *, leading: type[LeaderSession] = LeaderSession, **changes: Any
) -> Changing:
    policy = changes.pop("policy", IntersectionPolicy())
    terms = terms_of("".join(sets), **changes)
    read = {name: read_identifiers(each) for name, each in sets.items()}
    sessions = {
        name: FollowerSession(terms, name, read[name], policy=policy, powers=ONE_CORE)
        for name in terms.followers
    }
    leader = leading(terms, read[terms.leader], policy=policy, powers=ONE_CORE)
    return Changing(terms, leader, sessions)


# --- what it gives ------------------------------------------------------------------------------------------


@settings(max_examples=count(15, full=150))
@given(st.lists(st.lists(st.integers(0, 12), max_size=14), min_size=3, max_size=5))
def test_it_is_the_set_intersection(sets: list[list[int]]) -> None:
    """Guarantees of ``intersect_many``."""
    ids = dict(zip(NAMES, sets, strict=False))
    found = intersect_many(ids, duplicates="first", cores=1)
    expected = reduce(set.__and__, map(set, sets))
    assert found.count == len(expected)
    named = [[ids[name][row] for row in found.rows[name]] for name in ids]
    assert all(each == named[0] for each in named)
    assert set(named[0]) == expected


def test_ten_parties_find_what_all_have() -> None:
    sets = {name: [*range(40), *range(1000 * at, 1000 * at + 30)] for at, name in enumerate(NAMES, start=1)}
    found = intersect_many(sets, leader="f", cores=1)
    assert next(iter(found.rows)) == "f"
    assert {name: sorted(rows.tolist()) for name, rows in found.rows.items()} == {
        name: list(range(40)) for name in NAMES
    }
    assert set(found.sent) == set(NAMES)
    assert min(found.sent.values()) > 64 * POINT_SIZE


def test_of_what_the_leader_alone_learns_nothing_is_told() -> None:
    here = parties(reveal="leader")
    here.run()
    assert here.leader.outcome is not None
    for follower in here.followers.values():
        assert follower.outcome is None
        with pytest.raises(UnexpectedMessage):
            follower.receive("a", Withheld("smallest intersection"))


def test_a_follower_that_says_no_more_ends_it() -> None:
    here = parties()
    with pytest.raises(PolicyRefused, match="largest set: b says no more, by a limit of its own"):
        here.leader.receive("b", Withheld("largest set"))


def test_the_leader_alone_learns_if_so_agreed() -> None:
    found = intersect_many(SETS, reveal="leader", cores=1)
    assert set(found.rows) == {"a"}
    assert sorted(found.rows["a"].tolist()) == list(range(60, 90))


def test_all_who_learn_the_order_compute_one_digest() -> None:
    here = parties()
    here.run()
    outcomes = [here.leader.outcome, *(each.outcome for each in here.followers.values())]
    assert len({outcome.digest for outcome in outcomes if outcome is not None}) == 1
    assert all(outcome is not None and outcome.count == 30 for outcome in outcomes)


def test_no_size_tells_how_much_is_shared() -> None:
    sent = []
    for sets in (SETS, {"a": range(100), "b": range(200, 310), "c": range(400, 430)}):
        here = parties(sets)
        here.run()
        sent.append(here.sent)
    assert sent[0] == sent[1]


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"followers": ("b",)}, "2 parties; 3 to 10 can"),
        ({"followers": tuple("bcdefghijk")}, "11 parties; 3 to 10 can"),
        ({"followers": ("b", "a")}, "named twice"),
        ({"session": bytes(5)}, "a session is 32 bytes"),
        ({"reveal": "both"}, "must be one of all, leader"),
        ({"smallest_intersection": -1}, "must be at least 0"),
    ],
)
def test_what_cannot_be_agreed_on_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        terms_of("abc", **changes)


def test_what_is_handed_in_wrong_is_refused() -> None:
    with pytest.raises(ParameterError, match="the leader 'z' is none of the parties: a, b, c"):
        intersect_many(SETS, leader="z")
    for few in ({"a": [1], "b": [1]}, {}, [[1], [1], [1]]):
        with pytest.raises(ParameterError, match="3 to 10 parties: a mapping"):
            intersect_many(few)  # type: ignore[arg-type] # one is a list
    own, policy = read_identifiers([1]), IntersectionPolicy()
    for name in ("a", "z"):
        with pytest.raises(ParameterError, match=f"{name} is no follower here: b, c"):
            FollowerSession(terms_of("abc"), name, own, policy=policy, powers=ONE_CORE)
    with pytest.raises(InputRefused, match="ids of b: row 0 holds float"):
        intersect_many({"a": [1], "b": [1.5], "c": [1]})


def test_everything_agreed_on_changes_every_point() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"session": bytes(32)},
        {"leader": "d"},
        {"followers": ("c", "b")},
        {"reveal": "leader"},
        {"rule": Rule(case="keep")},
        {"smallest_intersection": 3},
    ]
    assert len({terms_of("abc", **{"session": b"\1" * 32} | each).digest for each in changes}) == len(changes)


def test_too_few_are_shown_to_nobody() -> None:
    with pytest.raises(PolicyRefused, match="fewer than 31 records are with all parties"):
        intersect_many(SETS, policy=IntersectionPolicy(smallest_intersection=31), cores=1)
    here = parties(smallest_intersection=31)
    with pytest.raises(PolicyRefused):
        here.run()
    for follower in here.followers.values():
        with pytest.raises(PolicyRefused, match="smallest intersection: a says no more"):
            follower.receive("a", Withheld("smallest intersection"))
        assert follower.outcome is None
    assert here.leader.outcome is None
    assert intersect_many(SETS, policy=IntersectionPolicy(smallest_intersection=30), cores=1).count == 30


def test_nobody_takes_part_below_its_own_limits() -> None:
    terms, own = terms_of("abc", smallest_intersection=4), read_identifiers([1])
    policy = IntersectionPolicy(smallest_intersection=5)
    with pytest.raises(PolicyRefused, match="4 are agreed on, 5 are needed here"):
        LeaderSession(terms, own, policy=policy, powers=ONE_CORE)
    with pytest.raises(PolicyRefused, match="4 are agreed on, 5 are needed here"):
        FollowerSession(terms, "b", own, policy=policy, powers=ONE_CORE)
    with pytest.raises(PolicyRefused, match="largest set: a brings 104 records"):
        parties(policy=IntersectionPolicy(largest_set=64)).run()
    with pytest.raises(PolicyRefused, match="largest set: b brings 112 records"):
        parties({**SETS, "a": range(64)}, policy=IntersectionPolicy(largest_set=64)).run()


def array(payload: Payload) -> Any:
    return payload.array().copy()


def low_order(points: Payload) -> Payload:
    found = array(points)
    found[:POINT_SIZE] = 0
    return Payload.of(found)


FAULTS: dict[str, tuple[str, type[Said], Callable[[Any], Said], str]] = {
    "leader: another session": (
        "a",
        Query,
        lambda m: replace(m, terms=bytes(32)),
        "agreed on another session",
    ),
    "leader: half a point": (
        "a",
        Query,
        lambda m: replace(m, points=Payload.of(array(m.points)[:-1])),
        "whole",
    ),
    "leader: low order": ("a", Query, lambda m: replace(m, points=low_order(m.points)), "low order"),
    "leader: no key": ("a", Introduced, lambda _: Introduced(bytes(32)), "low order"),
    "leader: fewer tags": (
        "a",
        Shared,
        lambda m: replace(m, tags=Payload.of(array(m.tags)[: 64 * TAG_SIZE])),
        "another number of records",
    ),
    "leader: no tags of theirs": (
        "a",
        Shared,
        lambda m: replace(m, key=bytes(32)),
        "fewer records than were agreed",
    ),
    "leader: tags": (
        "a",
        Shared,
        lambda m: replace(m, tags=Payload.of(array(m.tags)[::-1].copy())),
        "ascending",
    ),
    "follower: no key": ("b", Introduced, lambda _: Introduced(b"\xff" * 32), "canonical"),
    "follower: low order": (
        "b",
        EvaluatedInOrder,
        lambda m: EvaluatedInOrder(low_order(m.points)),
        "low order",
    ),
    "follower: a point less": (
        "b",
        EvaluatedInOrder,
        lambda m: EvaluatedInOrder(Payload.of(array(m.points)[:-POINT_SIZE])),
        "another number",
    ),
    "follower: a short table": (
        "c",
        Table,
        lambda m: replace(m, entries=Payload.of(array(m.entries)[:-2])),
        "another length",
    ),
    "follower: another size": ("c", Table, lambda m: replace(m, keys=m.keys + 1), "another length"),
    "follower: narrow entries": (
        "c",
        Table,
        lambda m: replace(m, entries=Payload.of(array(m.entries).astype(np.uint32))),
        "another length",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_who_leaves_the_protocol_is_named(name: str) -> None:
    sender, kind, wrong, text = FAULTS[name]
    here = parties(smallest_intersection=1)
    here.change = lambda who, said: wrong(said) if who == sender and isinstance(said, kind) else said
    with pytest.raises(FaultySilo, match=text) as raised:
        here.run()
    assert raised.value.silo == sender


def test_a_wrong_table_makes_nothing_shared_and_no_false_record() -> None:
    here = parties()
    here.change = lambda who, said: (
        replace(said, entries=Payload.of(array(said.entries)[::-1].copy()))
        if who == "c" and isinstance(said, Table)
        else said
    )
    here.run()
    assert here.leader.outcome is not None
    assert here.leader.outcome.count == 0


def test_what_is_not_due_is_refused_and_after_a_refusal_everything_is() -> None:
    here = parties()
    follower, key = here.followers["b"], here.leader.open()
    query = Query(bytes(32), Payload.of(np.zeros(64 * POINT_SIZE, np.uint8)))
    with pytest.raises(UnexpectedMessage, match="Query from a is not due"):
        follower.receive("a", query)  # Before the others are known.
    follower.receive("a", key)
    for sender in ("a", "b", "z"):
        with pytest.raises(UnexpectedMessage, match=f"Introduced from {sender} is not due"):
            follower.receive(sender, key)
    with pytest.raises(UnexpectedMessage, match="Table from c is not due"):
        here.leader.receive("c", Table(bytes(32), 64, Payload.of(np.zeros(8, np.uint64))))
    with pytest.raises(FaultySilo):
        follower.receive("c", Introduced(bytes(32)))
    with pytest.raises(UnexpectedMessage):
        follower.receive("c", here.followers["c"].open())
    with pytest.raises(UsageError, match="begun before"):
        follower.open()
    with pytest.raises(FaultySilo):
        here.leader.receive("b", Introduced(bytes(32)))
    with pytest.raises(UsageError, match="begun before"):
        here.leader.open()
