"""Attack ``psi_campaign``: make more of a set that is asked about many times than each query tells.

A receiver holds on to the tags of one campaign and looks for them in the next, or has the older campaign
evaluate the newer one's points. It asks on when the campaign has ended, asks about everybody in small
queries, and reads from places which records are shared where that is withheld. The sender looks for what two
queries of a receiver have in common."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from secagg.errors import PolicyRefused
from secagg.hazmat.curve import POINT_SIZE, Exponent, hash_to_points
from secagg.names import RandomSource
from secagg.payload import Payload
from secagg.psi.campaign_sender import CampaignSender
from secagg.psi.campaign_terms import CampaignTerms
from secagg.psi.identifiers import read_identifiers
from secagg.psi.messages import Evaluated, Query, Tags
from secagg.psi.powers import SUITE
from secagg.psi.receiver import Asked
from secagg.psi.tags import TAG, tags_of
from secagg.psi.terms import IntersectionPolicy
from tests.psi.campaigns import Insurer, insurer

INSURED = list(range(1050, 1150))


def said(campaign: Insurer, kind: type) -> list[Any]:
    return [message for _, message in campaign.said if isinstance(message, kind)]


def linked(older: Insurer, newer: Insurer) -> bool:
    """Tell whether a receiver of both campaigns finds a record of the one in the other."""
    for each in (older, newer):
        each.ask(INSURED[:5])
    tags = [set(said(each, Tags)[0].tags.array().view(TAG).tolist()) for each in (older, newer)]
    if tags[0] & tags[1]:
        return True
    # The older campaign is asked about points of the newer one: a receiver chooses what it sends.
    terms = newer.sender.terms.digest
    points = hash_to_points(read_identifiers(INSURED[:64]).encoded, SUITE + terms)

    def change(message: Any) -> Any:
        if isinstance(message, Query):
            return Query(message.terms, Payload.of(np.frombuffer(points, np.uint8)))
        return message

    with suppress(PolicyRefused):
        older.ask(INSURED[:5], "thief", change=change)
    evaluated = said(older, Evaluated)[-1].points.array().tobytes()
    return bool(set(tags_of(evaluated, terms).tolist()) & tags[1])


def asked_in_small_queries(campaign: Insurer) -> set[int]:
    """Return whom a receiver finds that asks about all there are, 64 at a time."""
    found: set[int] = set()
    for start in range(1000, 1640, 64):
        some = list(range(start, start + 64))
        with suppress(PolicyRefused):
            learned, _ = campaign.ask(some)
            assert learned.rows is not None
            found |= {some[row] for row in learned.rows}
    return found


def answered_after_its_end(campaign: Insurer) -> bool:
    campaign.clock.now = 2001.0
    with suppress(PolicyRefused):
        campaign.ask(INSURED[:5])
    return bool(said(campaign, Evaluated))


def placed() -> float:
    """Return how many of the shared records a receiver finds by place that is not told which they are."""
    campaign = insurer(INSURED, policy=IntersectionPolicy(smallest_intersection=60))
    knew: list[Asked] = []

    def watch(message: Any) -> Any:
        if isinstance(message, Evaluated):
            knew.append(campaign.asking.gi_frame.f_locals["session"]._state)
        return message

    with suppress(PolicyRefused):
        campaign.ask(list(range(1000, 1100)), change=watch)
    (evaluated,), (tags,), (asked,) = said(campaign, Evaluated), said(campaign, Tags), knew
    points = asked.exponent.inverse.powers(evaluated.points.array().tobytes())
    mine = tags_of(points, campaign.sender.terms.digest)
    matches = np.isin(mine, tags.tags.array().view(TAG))
    assert matches.sum() == 50
    return float(np.mean((asked.order[matches] >= 50) & (asked.order[matches] < 100)))


def seen_twice(campaign: Insurer) -> bool:
    """Tell whether the sender sees that two queries ask about the same."""
    campaign.ask(INSURED)
    campaign.ask(INSURED)
    first, second = (
        {bytes(data[at : at + POINT_SIZE]) for at in range(0, len(data), POINT_SIZE)}
        for data in (query.points.array().tobytes() for query in said(campaign, Query))
    )
    return bool(first & second)


def test_psi_campaign() -> None:
    assert not linked(insurer(INSURED), insurer(INSURED)), "records are linked from campaign to campaign"
    assert not answered_after_its_end(insurer(INSURED)), "a campaign that has ended answers"
    found = asked_in_small_queries(insurer(INSURED, budget=128))
    assert found == set(range(1050, 1128)), "small queries list the whole set"
    assert placed() < 0.85, "places tell which records are shared"
    assert not seen_twice(insurer(INSURED)), "two queries show that they ask about the same"


class Constant(Exponent):
    """An exponent that is not drawn anew."""

    @classmethod
    def generate(cls, random: RandomSource = os.urandom) -> Exponent:
        return _ONE


_ONE = Exponent.generate()


def kept(_self: CampaignSender) -> None:
    """End nothing."""


def no_budget(_self: CampaignSender, _size: int) -> None:
    """Count nothing."""


def as_they_stand(size: int, _random: RandomSource) -> Any:
    return np.arange(size)


def anonymous(_self: CampaignTerms) -> bytes:
    """Leave out what tells campaigns apart."""
    return bytes(32)


EXPONENT = ("secagg.psi.campaign_sender.Exponent", Constant)


@pytest.mark.parametrize(
    ("defences", "found"),
    [
        ([EXPONENT], "from campaign to campaign"),
        (
            [EXPONENT, ("secagg.psi.campaign_terms.CampaignTerms.digest", property(anonymous))],
            "from campaign to",
        ),
        ([("secagg.psi.campaign_sender.CampaignSender.close", kept)], "that has ended answers"),
        ([("secagg.psi.campaign_sender.CampaignSender.charge", no_budget)], "small queries list"),
        ([("secagg.psi.sender.random_order", as_they_stand)], "places tell"),
        ([("secagg.psi.receiver.Exponent", Constant)], "two queries show"),
    ],
)
def test_psi_campaign_mutant(
    monkeypatch: pytest.MonkeyPatch, defences: list[tuple[str, object]], found: str
) -> None:
    for defence, mutant in defences:
        monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match=found):
        test_psi_campaign()
