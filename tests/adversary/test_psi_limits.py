"""Attack ``psi_limits``: ask about every identifier that there is, or about few people among strangers.

Customer numbers are few. A partner that may bring all of them learns a whole list of customers in one
session, and one that brings a few among numbers that nobody has learns which of them are customers. That few
are shared a receiver sees in any case; a sender's limit keeps from it which."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from secagg.errors import PolicyRefused
from secagg.messages import Said
from secagg.psi.messages import Matched, Revealed
from secagg.psi.terms import IntersectionPolicy
from tests.psi.parties import parties

ALL = range(1000)
CUSTOMERS = range(17, 1000, 50)
FEW = [17, 67, *range(5000, 5060)]
TELLS: dict[str, type[Said]] = {"receiver": Matched, "sender": Revealed}
"""Who holds the limit, and what tells the other party which records are shared."""


@pytest.mark.parametrize("whose", TELLS)
def test_psi_limits(whose: str) -> None:
    limits: dict[str, Any] = {whose: IntersectionPolicy(largest_set=100, smallest_intersection=5)}
    for brought, revealed in (
        (ALL, "who may ask about everybody learns the whole list"),
        (FEW, "who asks about few people among strangers learns which are customers"),
    ):
        mine, theirs = (brought, CUSTOMERS) if whose == "sender" else (CUSTOMERS, brought)
        both = parties(mine, theirs, **limits)
        with suppress(PolicyRefused):
            both.run()
        assert TELLS[whose] not in {kind for kind, _, _ in both.said}, revealed


def no_limit(_self: IntersectionPolicy, *_: object) -> None:
    return None


@pytest.mark.parametrize(
    ("defence", "found"),
    [
        ("secagg.psi.terms.IntersectionPolicy.check_set", "learns the whole list"),
        ("secagg.psi.terms.IntersectionPolicy.check_shared", "learns which are customers"),
    ],
)
def test_psi_limits_mutant(monkeypatch: pytest.MonkeyPatch, defence: str, found: str) -> None:
    monkeypatch.setattr(defence, no_limit)
    for whose in ("receiver", "sender"):
        with pytest.raises(AssertionError, match=found):
            test_psi_limits(whose)
