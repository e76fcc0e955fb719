"""``intersect`` equals Python's own set intersection, whatever the sets."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.errors import InputRefused, PolicyRefused
from secagg.psi.identifiers import Key, Rule, read_identifiers
from secagg.psi.intersection import Intersection, intersect
from secagg.psi.powers import SPAN
from secagg.psi.sizes import padded
from secagg.psi.terms import IntersectionPolicy, Reveal
from tests.counts import count

# Few letters, so that sets overlap, in forms that the rule makes one.
IDS = st.lists(st.text("aAbé\u0301eﬁ 1", max_size=3), max_size=40)


def expected(a: list[Any], b: list[Any]) -> set[bytes]:
    sets = [set(read_identifiers(ids, duplicates="first").encoded) for ids in (a, b)]
    return sets[0] & sets[1]


def check(found: Intersection, a: list[Any], b: list[Any]) -> None:
    assert found.rows_a is not None
    assert found.rows_b is not None
    rule = Rule()

    def read(key: Key) -> Any:
        return tuple(map(str, key)) if isinstance(key, tuple) else rule.read(str(key))

    assert [read(a[row]) for row in found.rows_a] == [read(b[row]) for row in found.rows_b]
    assert len(set(found.rows_a.tolist())) == found.count == len(expected(a, b))


@settings(max_examples=count(25, full=300))
@given(IDS, IDS)
def test_it_is_the_set_intersection(a: list[str], b: list[str]) -> None:
    """Guarantees of ``intersect``."""
    found = intersect(a, b, duplicates="first", cores=1)
    check(found, a, b)
    assert (found.counts_a.given, found.counts_b.given) == (len(a), len(b))


SETS: dict[str, tuple[list[Any], list[Any]]] = {
    "equal": (list(range(100)), list(range(100))),
    "one in many": (["77"], list(range(500))),
    "many and one": (list(range(500)), ["77"]),
    "the last": (list(range(64)), list(range(63, 127))),
    "composite": ([(i, "x") for i in range(80)], [(i, "x" if i % 2 else "y") for i in range(80)]),
    "numpy": (list(np.arange(70)), [str(each) for each in range(30, 100)]),
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("reveal", get_args(Reveal))
def test_each_learns_what_was_agreed_and_no_more(name: str, reveal: Reveal) -> None:
    a, b = SETS[name]
    found = intersect(a, b, reveal=reveal, cores=1)
    assert found.count == len(expected(a, b))
    if reveal == "both":
        check(found, a, b)
    elif reveal == "receiver":
        assert found.rows_a is not None
        assert found.rows_b is None
        whole = intersect(a, b, cores=1)
        assert whole.rows_a is not None
        assert set(found.rows_a.tolist()) == set(whole.rows_a.tolist())
    else:
        assert (found.rows_a, found.rows_b, found.digest) == (None, None, None)


@pytest.mark.parametrize(("a", "b"), [([], []), ([], ["a"]), (["a"], []), (["a"], ["b"])])
def test_nothing_may_be_shared(a: list[str], b: list[str]) -> None:
    for reveal in get_args(Reveal):
        assert intersect(a, b, reveal=reveal, cores=1).count == 0
    whole = intersect(a, b, cores=1)
    assert whole.rows_a is not None
    assert whole.rows_b is not None
    assert len(whole.rows_a) == len(whole.rows_b) == 0
    with pytest.raises(PolicyRefused, match="smallest intersection: fewer than 1 records are shared"):
        intersect(a, b, cores=1, policy=IntersectionPolicy(smallest_intersection=1))


def test_the_order_says_nothing_and_is_another_every_time() -> None:
    ids = list(range(100))
    orders = [intersect(ids, ids, cores=1) for _ in range(2)]
    rows = [each.rows_a.tolist() for each in orders if each.rows_a is not None]
    assert rows[0] != rows[1] != ids
    assert orders[0].digest != orders[1].digest


def test_a_large_set_is_spread_over_cores_with_the_same_result() -> None:
    many = 2 * SPAN + 100
    seen: list[int] = []
    found = intersect(range(many), range(many - 50, 2 * many), cores=2, progress=seen.append)
    assert found.rows_a is not None
    assert found.rows_b is not None
    assert sorted(found.rows_a.tolist()) == list(range(many - 50, many))
    assert np.array_equal(found.rows_a, found.rows_b + many - 50)
    # Asked, evaluated and taken back; the sender's own.
    assert sum(seen) == 3 * padded(many) + padded(many + 50)


def test_identifiers_that_are_none_are_refused_before_anything_is_computed() -> None:
    with pytest.raises(InputRefused, match="ids_a: row 1 holds float"):
        intersect(["a", 1.5], ["a"])
    with pytest.raises(InputRefused, match=r'ids_b: .* say duplicates="first"'):
        intersect(["a"], ["b", "B"])
