"""The pinned members: what a roster may hold, its order, and how two of them are compared."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import ParameterError, TrustError
from secagg.roster import Roster

KEYS = [bytes([i]) * 32 for i in range(5)]
ROSTER = Roster((("a", KEYS[0]), ("b", KEYS[1]), ("c", KEYS[2])))


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ((), "at least one"),
        ((("", KEYS[0]),), "1 to 64"),
        ((("a" * 65, KEYS[0]),), "1 to 64"),
        ((("a b", KEYS[0]),), "1 to 64"),
        ((("a\n", KEYS[0]),), "1 to 64"),
        ((("../a", KEYS[0]),), "1 to 64"),
        ((("é", KEYS[0]),), "1 to 64"),
        ((("a", KEYS[0][:31]),), "32 bytes, not 31"),
        ((("a", KEYS[0] + b"\0"),), "32 bytes, not 33"),
        ((("a", KEYS[0]), ("a", KEYS[1])), "stands twice"),
        ((("a", KEYS[0]), ("b", KEYS[0])), "one identity key"),
    ],
)
def test_what_is_no_roster_is_refused(members: tuple[tuple[str, bytes], ...], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        Roster(members)


@given(st.from_regex(r"\A[A-Za-z0-9._-]{1,64}\Z"))
def test_every_name_of_the_alphabet_is_taken(name: str) -> None:
    assert Roster(((name, KEYS[0]),)).silos == (name,)


def test_slots_follow_the_order_of_the_members() -> None:
    roster = Roster.of({"c": KEYS[2], "a": KEYS[0], "b": KEYS[1]})
    assert roster.n == 3
    assert roster.silos == ("c", "a", "b")
    assert [roster.slot(silo) for silo in roster.silos] == [0, 1, 2]
    assert [roster.key(silo) for silo in roster.silos] == [KEYS[2], KEYS[0], KEYS[1]]
    assert roster.ordered({"b", "c"}) == ("c", "b")
    assert roster.ordered(frozenset({"stranger", "a"})) == ("a",)
    assert "a" in roster
    assert "stranger" not in roster
    assert 7 not in roster


def test_a_digest_stands_for_names_keys_and_order() -> None:
    others = [
        Roster((("a", KEYS[0]), ("c", KEYS[2]), ("b", KEYS[1]))),
        Roster((("a", KEYS[0]), ("b", KEYS[1]))),
        Roster((("a", KEYS[0]), ("b", KEYS[1]), ("c", KEYS[3]))),
        Roster((("a", KEYS[0]), ("b", KEYS[1]), ("d", KEYS[2]))),
        Roster((("a", KEYS[1]), ("b", KEYS[0]), ("c", KEYS[2]))),
    ]
    assert len({roster.digest for roster in (ROSTER, *others)}) == 1 + len(others)
    assert Roster(ROSTER.members).digest == ROSTER.digest
    assert len(ROSTER.digest) == 32


def test_a_difference_is_named() -> None:
    ROSTER.expect(Roster(ROSTER.members))
    for other, text in (
        (Roster(ROSTER.members[::-1]), "the order of silos"),
        (Roster(ROSTER.members[:2]), ": c$"),
        (Roster((*ROSTER.members, ("d", KEYS[3]))), ": d$"),
        (Roster((("a", KEYS[1]), ("b", KEYS[0]), ("c", KEYS[2]))), ": a, b$"),
    ):
        with pytest.raises(TrustError, match=text):
            ROSTER.expect(other)
