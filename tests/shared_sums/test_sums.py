"""Sums over an intersection against Python's: all who learn, inputs of all kinds, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import secagg.psi
from secagg.errors import InputRefused, ParameterError, PolicyRefused
from secagg.psi import SumPolicy, intersection_sum
from secagg.shared_sums.sums import read_values
from secagg.shared_sums.terms import Learns, SumTerms
from tests.counts import count
from tests.shared_sums.parties import run

LEARNS: list[Learns] = ["matcher", "holder", "both"]


@settings(max_examples=count(4, full=12), deadline=None)
@given(st.data())
def test_sums_are_those_of_python(data: st.DataObject) -> None:
    mine = data.draw(st.sets(st.integers(0, 40), min_size=3))
    theirs = data.draw(st.sets(st.integers(0, 40))) | set(data.draw(st.permutations(sorted(mine)))[:3])
    columns, largest = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([1, 999, 2**900]))
    value = st.one_of(st.just(largest), st.integers(0, largest))
    held = {each: tuple(data.draw(value) for _ in range(columns)) for each in theirs}
    learns = data.draw(st.sampled_from(LEARNS))
    found = run(list(mine), list(held), list(held.values()), learns=learns, largest=largest).outcomes
    shared = mine & theirs
    sums = tuple(map(sum, zip(*(held[each] for each in shared), strict=True)))
    assert found["shop"].count == found["bank"].count == len(shared)
    assert found["shop"].sums == (None if learns == "holder" else sums)
    assert found["bank"].sums == (None if learns == "matcher" else sums)


def test_two_silos_amounts_in_one_call() -> None:
    ads = ["Ann", "Bob", "Cid", "Dan", "Eve"]
    bought = ["bob ", "DAN", "eve", "Fay", "bob", None]
    amounts = np.array([[1250, 1], [9999, 2], [5, 3], [77, 1], [4, 4], [8, 8]])
    told: list[int] = []
    found = intersection_sum(
        ads,
        bought,
        amounts,
        learns="a",
        duplicates="first",
        policy=SumPolicy(smallest_intersection=3),
        progress=told.append,
        cores=1,
    )
    assert (found.count, found.sums) == (3, (1250 + 9999 + 5, 1 + 2 + 3))
    assert all(type(each) is int for each in found.sums)
    assert (found.counts_b.given, found.counts_b.missing, found.counts_b.repeated) == (6, 1, 1)
    assert min(found.bytes_a, found.bytes_b) > 64 * 32
    assert sum(told) == 3 * 64 + 2 * 64
    assert "11254" not in repr(found)
    for name in ("IntersectionSum", "SumPolicy", "intersection_sum"):
        assert name in dir(secagg.psi)


def test_too_few_are_not_added_up_by_default() -> None:
    assert SumPolicy().smallest_intersection == 10
    with pytest.warns(UserWarning, match="2048 bits"), pytest.raises(PolicyRefused, match="fewer than 10"):
        intersection_sum(range(9), range(9), range(9), bits=2048, cores=1)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_no_policy_lets_a_value_be_a_sum(count: int) -> None:
    with pytest.raises(ParameterError, match=r"smallest_intersection of a sum is ., must be at least 3"):
        SumPolicy(smallest_intersection=count)


@pytest.mark.parametrize(
    ("values", "rule", "text"),
    [
        ([1.5, 2], "dtype", "row 0 holds float"),
        ([1, True], "dtype", "row 1 holds bool"),
        ([1, None], "dtype", "row 1 holds NoneType"),
        ([1, "12345"], "dtype", "row 1 holds str"),
        ([1, -1], "bound", "row 1 is not from 0 to 100"),
        ([[1], [101]], "bound", "row 1 is not from 0 to 100"),
        ([[1], [1, 2]], "shape", "row 1 has 2 values"),
        ([[], []], "shape", "row 0 has 0 values"),
        ("12", "shape", "values is str"),
        ({1, 2}, "shape", "values is set"),
        (7, "shape", "values is int"),
    ],
)
def test_what_is_no_value_is_refused_and_not_shown(values: Any, rule: str, text: str) -> None:
    with pytest.raises(InputRefused, match=text) as refused:
        read_values(values, largest=100)
    assert refused.value.rule == rule
    assert "12345" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"values_b": [1]}, InputRefused, "values_b has 1 rows, ids_b 3; one each"),
        ({"learns": "matcher"}, ParameterError, "must be one of a, b, both"),
        ({"policy": secagg.psi.IntersectionPolicy()}, ParameterError, "must be a SumPolicy"),
        ({"largest": 0, "values_b": [0, 0, 0]}, ParameterError, "largest is 0"),
        ({"largest": 9.5}, ParameterError, "largest is 9.5"),
        ({"bits": 1024}, ParameterError, "2048 to 8192"),
        ({"values_b": [[1] * 257] * 3}, ParameterError, "columns is 257, must be at most 256"),
    ],
)
def test_what_makes_no_sum_is_refused(given: dict[str, Any], error: type[Exception], text: str) -> None:
    good: dict[str, Any] = {"ids_a": [1, 2, 3], "ids_b": [1, 2, 3], "values_b": [1, 2, 3]}
    with pytest.raises(error, match=text):
        intersection_sum(**{**good, **given})


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ({"session": b"short"}, "a session is 32 bytes"),
        ({"holder": "a"}, "two parties"),
        ({"learns": "all"}, "learns is 'all'"),
        ({"rule": "fold"}, "must be a Rule"),
    ],
)
def test_terms_that_two_parties_cannot_agree_on(field: dict[str, Any], text: str) -> None:
    good: dict[str, Any] = {"session": bytes(32), "matcher": "a", "holder": "b"}
    SumTerms(**good)
    with pytest.raises(ParameterError, match=text):
        SumTerms(**{**good, **field})


def test_terms_of_which_one_part_differs_have_another_digest() -> None:
    good: dict[str, Any] = {"session": bytes(32), "matcher": "a", "holder": "b"}
    others: list[dict[str, Any]] = [
        {},
        {"session": bytes(31) + b"1"},
        {"matcher": "c"},
        {"holder": "c"},
        {"learns": "holder"},
        {"rule": secagg.psi.Rule(case="keep")},
        {"rule": secagg.psi.Rule(spaces="keep")},
        {"columns": 2},
        {"largest": 7},
        {"bits": 2048},
    ]
    assert len({SumTerms(**{**good, **other}).digest for other in others}) == len(others)
