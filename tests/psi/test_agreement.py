"""What the parties agree on before they compare: differences between operators are found, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from secagg.conversation import together
from secagg.errors import FaultySilo, ParameterError
from secagg.psi.agreement import Agreed, Settings, agreed, finished
from secagg.psi.many.terms import ManyTerms
from secagg.psi.terms import IntersectionTerms

TWO, THREE = ("bank", "insurer"), ("bank", "insurer", "shop")


def agree(
    parties: tuple[str, ...], changes: Mapping[str, Mapping[str, Any]] | None = None, *, nonce: int = 0
) -> dict[str, Agreed]:
    """Let parties agree that were started alike but for ``changes``."""
    return together(
        {
            name: agreed(
                name,
                Settings(**{"parties": parties, **(changes or {}).get(name, {})}),
                bytes([nonce + at]) * 32,
            )
            for at, name in enumerate(parties)
        }
    )


@pytest.mark.parametrize("parties", [TWO, THREE])
def test_all_mean_the_same(parties: tuple[str, ...]) -> None:
    found = agree(parties)
    assert len({each.terms.digest for each in found.values()}) == 1
    assert len({tuple(each.proposals.items()) for each in found.values()}) == 1


def test_a_nonce_of_any_party_makes_another_session() -> None:
    sessions = {agree(TWO, nonce=nonce)["bank"].terms.session for nonce in (0, 1, 2, 100)}
    assert len(sessions) == 4


@pytest.mark.parametrize(
    ("wishes", "first"),
    [
        ({}, "bank"),
        ({"bank": True}, "bank"),
        ({"insurer": True}, "insurer"),
        ({"bank": False}, "insurer"),
        ({"insurer": False}, "bank"),
        ({"bank": True, "insurer": False}, "bank"),
    ],
)
def test_one_operator_who_says_it_decides_who_learns_first(wishes: dict[str, bool], first: str) -> None:
    for parties in (TWO, THREE):
        found = agree(parties, {name: {"first": wish} for name, wish in wishes.items()})
        for each in found.values():
            terms = each.terms
            leads = terms.receiver if isinstance(terms, IntersectionTerms) else terms.leader
            assert leads == first


@pytest.mark.parametrize(("wish", "text"), [(True, "only one party can"), (False, "every party declines")])
def test_two_wishes_that_do_not_fit_are_refused(wish: bool, text: str) -> None:
    with pytest.raises(FaultySilo, match=text):
        agree(TWO, {name: {"first": wish} for name in TWO})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"reveal": "count"}, "is to reveal count, here both"),
        ({"case": "keep"}, "reads case by keep, here fold"),
        ({"spaces": "remove"}, "reads spaces by remove, here collapse"),
        ({"parts": 2}, "in a key: 2, here 1"),
        ({"parties": ("insurer", "bank")}, "between insurer, bank, here bank, insurer"),
    ],
)
def test_another_command_at_a_partner_is_told_in_words(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(FaultySilo, match=text) as caught:
        agree(TWO, {"bank": changes})
    assert caught.value.silo == "bank"


def test_of_many_the_largest_floor_of_any_party_holds() -> None:
    found = agree(THREE, {"shop": {"smallest_intersection": 7}, "bank": {"smallest_intersection": 3}})
    for each in found.values():
        assert isinstance(each.terms, ManyTerms)
        assert each.terms.smallest_intersection == 7


def test_what_is_revealed_to_whom_of_many() -> None:
    found = agree(THREE, {name: {"reveal": "receiver"} for name in THREE})
    assert found["shop"].terms.reveal == "leader"
    with pytest.raises(ParameterError, match="for two parties"):
        agree(THREE, {name: {"reveal": "count"} for name in THREE})


def test_nobody_ends_before_all_have_their_result() -> None:
    ended: list[str] = []

    def side(name: str) -> Any:
        yield from finished([party for party in THREE if party != name])
        ended.append(name)

    waiting = side("bank")
    told = [next(waiting), waiting.send(None)]
    assert [action.to for action in told] == ["insurer", "shop"]
    awaits = waiting.send(None)
    assert awaits.sender == "insurer"
    assert not ended
    together({name: side(name) for name in THREE})
    assert sorted(ended) == sorted(THREE)
