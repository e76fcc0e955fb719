"""Attack ``psi_limits``: ask about every identifier that there is, or about one person among strangers.

Customer numbers are few. A partner that may bring all of them learns a whole list of customers in one
session, and one that brings a single number among numbers that nobody has learns whose customer it is."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from secagg.errors import PolicyRefused
from secagg.psi.terms import IntersectionPolicy
from tests.psi.parties import parties

ALL = range(1000)
CUSTOMERS = range(17, 1000, 50)
STRANGERS = range(5000, 5060)
PERSON = 17


@pytest.mark.parametrize("whose", ["receiver", "sender"])
def test_psi_limits(whose: str) -> None:
    """The attacker is the receiver, and the sender holds the limit, or the other way round."""
    limits: dict[str, Any] = {whose: IntersectionPolicy(largest_set=100, smallest_intersection=5)}
    for brought, revealed in (
        (list(ALL), "who may ask about everybody learns the whole list"),
        ([PERSON, *STRANGERS], "who asks about one person among strangers learns of that person"),
    ):
        mine, theirs = (brought, CUSTOMERS) if whose == "sender" else (CUSTOMERS, brought)
        both = parties(mine, theirs, **limits)
        with suppress(PolicyRefused):
            both.run()
        assert both.receiver.outcome is both.sender.outcome is None, revealed


def no_limit(_self: IntersectionPolicy, *_: object) -> None:
    return None


@pytest.mark.parametrize(
    ("defence", "found"),
    [
        ("secagg.psi.terms.IntersectionPolicy.check_set", "learns the whole list"),
        ("secagg.psi.terms.IntersectionPolicy.check_shared", "learns of that person"),
    ],
)
def test_psi_limits_mutant(monkeypatch: pytest.MonkeyPatch, defence: str, found: str) -> None:
    monkeypatch.setattr(defence, no_limit)
    for whose in ("receiver", "sender"):
        with pytest.raises(AssertionError, match=found):
            test_psi_limits(whose)
