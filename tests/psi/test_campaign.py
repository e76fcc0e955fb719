"""Campaigns: a set asked about many times for what queries cost; when they end, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.errors import FaultySilo, InputRefused, ParameterError, PolicyRefused
from secagg.messages import Part
from secagg.payload import Payload
from secagg.psi import Campaign, IntersectionPolicy, Rule, intersect
from secagg.psi.campaign_messages import Asking, Joining
from secagg.psi.campaign_receiver import HeldTags
from secagg.psi.campaign_terms import CampaignTerms
from secagg.psi.messages import Evaluated, Matched, Query, Revealed, Tags
from secagg.psi.sizes import padded
from tests.counts import count
from tests.psi.campaigns import Clock, insurer

INSURER = list(range(100, 300))


@settings(max_examples=count(8, full=50), deadline=None)
@given(st.data())
def test_every_query_is_an_intersection(data: st.DataObject) -> None:
    theirs = data.draw(st.sets(st.integers(0, 60)).map(sorted))
    reveal = data.draw(st.sampled_from(["receiver", "both"]))
    campaign = insurer(theirs, reveal=reveal)
    for _ in range(data.draw(st.integers(1, 3))):
        mine = data.draw(st.sets(st.integers(0, 60)).map(sorted))
        receiver = data.draw(st.sampled_from(["bank", "shop"]))
        learned, told = campaign.ask(mine, receiver)
        assert learned.rows is not None
        assert {mine[row] for row in learned.rows} == set(mine) & set(theirs)
        assert told.count == learned.count == len(learned.rows)
        if reveal == "both":
            assert told.rows is not None
            assert [theirs[row] for row in told.rows] == [mine[row] for row in learned.rows]
            assert told.digest == learned.digest
        else:
            assert told.rows is None


def test_a_set_is_asked_about_many_times_in_one_call_each() -> None:
    points: list[int] = []
    ids = [f"A-{number}" for number in range(500)]
    with Campaign(
        ids, expires=2000, budget=10_000, clock=Clock(), reveal="both", cores=1, progress=points.append
    ) as campaign:
        assert sum(points) == padded(500)
        points.clear()
        first = campaign.intersect(["a-3 ", "B-1", "a-7"])
        assert first.rows_b is not None
        assert sorted(first.rows_b) == [3, 7]
        assert first.counts_b.given == 500
        assert sum(points) == 3 * 64, "a query costs more than its own points"
        again = campaign.intersect(["a-4", "a-5"])
        assert again.rows_a is not None
        assert sorted(again.rows_a) == [0, 1]
        assert again.bytes_b < first.bytes_b - 16 * 500
        assert "A-3" not in repr(campaign)
    with pytest.raises(PolicyRefused, match="the campaign has ended"):
        campaign.intersect(["a-4"])


def test_a_campaign_reads_as_intersect_does() -> None:
    ids = ["x", "X ", None, "y"]
    with pytest.raises(InputRefused, match="come again"):
        Campaign(ids, expires=2000, budget=100, clock=Clock())
    with Campaign(
        ids, expires=2000, budget=100, clock=Clock(), duplicates="drop", rule=Rule(spaces="remove"), cores=1
    ) as campaign:
        found = campaign.intersect(["Y", "x"])
    once = intersect(["Y", "x"], ids, duplicates="drop", rule=Rule(spaces="remove"), cores=1)
    assert found.count == once.count == 1
    assert found.counts_b == once.counts_b


def test_nothing_is_answered_when_it_has_ended() -> None:
    campaign = insurer(INSURER)
    campaign.ask([150])
    campaign.clock.now = 1999.9
    campaign.ask([150])
    campaign.clock.now = 2000.0
    with pytest.raises(PolicyRefused, match="the campaign has ended"):
        campaign.ask([150])
    # The exponent is gone: a clock that is put back brings nothing back.
    campaign.clock.now = 1000.0
    with pytest.raises(PolicyRefused, match="the campaign has ended"):
        campaign.ask([150])
    with pytest.raises(PolicyRefused, match="the campaign has ended"):
        insurer(INSURER, expires=1000)


def test_a_receiver_that_takes_its_time_until_it_has_ended_is_not_answered() -> None:
    campaign = insurer(INSURER)

    def late(message: Part) -> Part:
        if isinstance(message, Query):
            campaign.clock.now = 2000.0
        return message

    with pytest.raises(PolicyRefused, match="the campaign has ended"):
        campaign.ask([150], change=late)
    assert Evaluated not in {type(message) for _, message in campaign.said}


def test_the_budget_is_for_all_receivers_and_all_queries() -> None:
    campaign = insurer(INSURER, budget=64 + 72 + 63)
    campaign.ask([150], "bank")
    campaign.ask(range(70), "shop")
    for receiver in ("bank", "shop", "clinic"):
        with pytest.raises(PolicyRefused, match="a query of 64 is more than the 63 that are left") as refused:
            campaign.ask([150], receiver)
        assert refused.value.rule == "queries"


def test_each_query_has_the_limits_of_both() -> None:
    campaign = insurer(INSURER, policy=IntersectionPolicy(largest_set=64, smallest_intersection=2))
    with pytest.raises(PolicyRefused, match="brings 72 records"):
        campaign.ask(range(70))
    with pytest.raises(PolicyRefused, match="fewer than 2"):
        campaign.ask([150])
    with pytest.raises(PolicyRefused, match="fewer than 3"):
        campaign.ask([150, 151], policy=IntersectionPolicy(smallest_intersection=3))
    assert Revealed not in {type(message) for _, message in campaign.said}
    with pytest.raises(PolicyRefused, match="insurer brings 208 records"):
        campaign.ask([150, 151], policy=IntersectionPolicy(largest_set=64))


@pytest.mark.parametrize(
    "other",
    [
        {"campaign": bytes(32)},
        {"sender": "insurer", "rule": Rule(case="keep")},
        {"expires": 1999},
        {"reveal": "both"},
    ],
)
@pytest.mark.parametrize("joined", [False, True])
def test_other_terms_are_refused_by_name(other: dict[str, Any], joined: bool) -> None:
    campaign = insurer(INSURER, campaign=bytes(31) + b"1")
    if joined:
        campaign.ask([150])
    agreed: dict[str, Any] = {"campaign": bytes(31) + b"1", "sender": "insurer", "expires": 2000, **other}
    with pytest.raises(FaultySilo, match="bank: it agreed on another campaign"):
        campaign.ask([150], terms=CampaignTerms(**agreed))


def test_tags_of_another_set_are_refused() -> None:
    campaign = insurer(INSURER)
    campaign.ask([150])
    held = campaign.held["bank"]
    campaign.held["bank"] = HeldTags(held.said, bytes(32))
    with pytest.raises(FaultySilo, match="bank: it has tags of another set"):
        campaign.ask([150])


def changed(kind: type[Part], name: str, new: Callable[[Any], Any]) -> Callable[[Part], Part]:
    return lambda message: (
        msgspec.structs.replace(message, **{name: new(getattr(message, name))})
        if isinstance(message, kind)
        else message
    )


def cut(payload: Payload) -> Payload:
    return Payload.of(payload.array()[32:].copy())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (changed(Tags, "tags", cut), "insurer: its tags are not whole, or not padded"),
        (changed(Tags, "tags", lambda old: Payload.of(old.array()[::-1].copy())), "insurer: .* ascending"),
        (changed(Evaluated, "points", cut), "insurer: it evaluated another number"),
        (changed(Revealed, "places", cut), "insurer: it told places of another number"),
        (changed(Query, "points", cut), "bank: its query is not of whole points"),
        (changed(Query, "terms", lambda _: bytes(32)), "bank: it agreed on another session"),
        (changed(Matched, "matches", cut), "bank: it told matches of another number"),
        (
            lambda message: Joining(bytes(32)) if isinstance(message, Query) else message,
            "bank: it did not say",
        ),
        (
            lambda message: Asking(bytes(32), bytes(32)) if isinstance(message, Evaluated) else message,
            "insurer: ",
        ),
    ],
)
def test_who_leaves_the_protocol_is_named(change: Callable[[Part], Part], text: str) -> None:
    with pytest.raises(FaultySilo, match=text):
        insurer(INSURER).ask([150], change=change)


@pytest.mark.parametrize(
    ("agreed", "text"),
    [
        ({"campaign": b"short"}, "32 bytes"),
        ({"reveal": "count"}, "must be one of receiver, both in a campaign"),
        ({"expires": 0}, "expires is 0"),
        ({"expires": 1.5}, "expires is 1.5"),
        ({"rule": None}, "must be a Rule"),
        ({"budget": 0}, "budget is 0"),
    ],
)
def test_what_makes_no_campaign_is_refused(agreed: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        insurer(INSURER, **agreed)


def test_a_receiver_and_a_sender_of_one_name_are_refused() -> None:
    campaign = insurer(INSURER)
    with pytest.raises(ParameterError, match="two parties are needed"):
        campaign.sender.terms.of("insurer")


def test_reprs_show_nothing() -> None:
    campaign = insurer(INSURER)
    campaign.ask([150])
    shown = [
        repr(campaign.sender),
        repr(campaign.held["bank"].said),
        *(repr(each) for _, each in campaign.said),
    ]
    assert all("150" not in text and len(text) < 60 for text in shown)
    sizes = {each.points.size for _, each in campaign.said if isinstance(each, Query)}
    assert sizes == {64 * 32}
    np.testing.assert_array_equal(np.sort(campaign.sender.tags), campaign.sender.tags)
