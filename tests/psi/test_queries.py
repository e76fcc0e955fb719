"""What partners asked about is counted over sessions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import ParameterError, PolicyRefused
from secagg.psi.queries import DAY, Asked, QueryLimits

LIMITS = QueryLimits(queries=1024, period_days=30)


def asked(session: int, records: int, *, at: int = 0, partner: str = "shop") -> Asked:
    return Asked(partner, bytes([session]) * 32, records, at)


def test_sessions_add_up() -> None:
    known = [asked(1, 512), asked(2, 512)]
    with pytest.raises(
        PolicyRefused, match="shop brings 64 records, padded, and brought 1024 within 30 days"
    ):
        LIMITS.check(asked(3, 64), known)
    assert LIMITS.check(asked(3, 64), known[:1])


def test_partners_are_counted_each_by_itself() -> None:
    assert LIMITS.check(asked(2, 1024, partner="insurer"), [asked(1, 1024)])


def test_a_session_is_counted_once_by_its_largest_set() -> None:
    """Guarantee of ``check``."""
    known = [asked(1, 512), asked(1, 1024)]
    assert not LIMITS.check(asked(1, 1024), known)
    assert not LIMITS.check(asked(1, 64), known)
    assert LIMITS.check(asked(1, 1024), known[:1])


def test_a_period_slides() -> None:
    known = [asked(1, 1024, at=5 * DAY)]
    with pytest.raises(PolicyRefused, match="queries"):
        LIMITS.check(asked(2, 64, at=35 * DAY - 1), known)
    assert LIMITS.check(asked(2, 64, at=35 * DAY), known)


def test_a_clock_that_was_put_back_forgets_nothing() -> None:
    """Guarantee of ``asked``."""
    with pytest.raises(PolicyRefused, match="queries"):
        LIMITS.check(asked(2, 64, at=5), [asked(1, 1024, at=5000 * DAY)])


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([64, 128, 512, 1024]), st.integers(0, 90))))
def test_no_period_has_more_than_its_limit(tries: list[tuple[int, int, int]]) -> None:
    known: list[Asked] = []
    for session, records, day in tries:
        new = asked(session, records, at=day * DAY)
        try:
            kept = LIMITS.check(new, known)
        except PolicyRefused:
            continue
        if kept:
            known.append(new)
            assert sum(LIMITS.asked("shop", known, now=new.at).values()) <= LIMITS.most


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"queries": 0}, "queries is 0"),
        ({"period_days": 0}, "period_days is 0"),
        ({"period_days": 40_000}, "at most 36600"),
        ({"queries": 1.5}, "whole number"),
    ],
)
def test_limits_out_of_range_are_refused(changes: dict[str, int], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        QueryLimits(**{"queries": 10} | changes)
