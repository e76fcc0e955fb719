"""Identifiers: one spelling for what is the same, two for what is not, and no value in an error."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from secagg.errors import InputRefused, ParameterError
from secagg.hazmat.curve import POINT_SIZE
from secagg.psi.identifiers import LONGEST, Counts, Identifiers, Key, Rule, read_identifiers
from secagg.psi.sizes import LARGEST
from secagg.wire import MAX_LENGTH

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=20)


def read(*keys: Key, **options: Any) -> tuple[bytes, ...]:
    return tuple(read_identifiers(keys, **options).encoded)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Anna", "ANNA"),
        ("\uff21\uff22\uff11", "ab1"),  # Full width.
        ("é", "e\u0301"),
        ("ﬁnch", "finch"),
        ("Straße", "STRASSE"),
        ("Σίσυφος", "ΣΊΣΥΦΟΣ"),
        ("  two\u00a0 words\t", "two words"),
        (7, "7"),
        (np.int64(7), "7"),
        (np.str_("x"), "x"),
        (("a", 1), ("A ", "1")),
        ("\ufeffA-1", "a-1"),  # A byte order mark, as the first cell of a CSV file may have it.
        ("so\u00adft", "soft"),
    ],
)
def test_two_spellings_are_one_identifier(one: Key, other: Key) -> None:
    assert read(one) == read(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("7", "07"),
        ("a b", "ab"),
        ("a", ("a", "b")),
        (("ab", "c"), ("a", "bc")),
        (("a", "b"), ("b", "a")),
        (("a b",), ("a", "b")),
        ("İ", "i"),  # Its folded form keeps the dot.
    ],
)
def test_two_identifiers_stay_two(one: Key, other: Key) -> None:
    assert read(one) != read(other)


def test_the_rule_decides() -> None:
    assert read("A b", rule=Rule(case="keep")) != read("a b", rule=Rule(case="keep"))
    assert read("A b", rule=Rule(spaces="remove")) == read("ab", rule=Rule(spaces="remove"))
    assert read(" a", rule=Rule(spaces="keep")) != read("a", rule=Rule(spaces="keep"))
    for wrong in ({"case": "lower"}, {"spaces": None}):
        with pytest.raises(ParameterError, match="must be one of"):
            Rule(**wrong)


@example("e\u00b4", "fold", "remove")
@example("e \u0301", "keep", "remove")
@example("\u1e9b\u0323", "fold", "collapse")
@given(TEXT, st.sampled_from(["fold", "keep"]), st.sampled_from(["collapse", "remove", "keep"]))
def test_reading_twice_changes_nothing(text: str, case: Any, spaces: Any) -> None:
    """Guarantee of ``Rule``."""
    rule = Rule(case=case, spaces=spaces)
    assert rule.read(rule.read(text)) == rule.read(text)


@given(st.lists(st.tuples(TEXT, TEXT), max_size=8))
def test_keys_are_equal_where_all_their_parts_are(keys: list[tuple[str, str]]) -> None:
    """Guarantee of ``read_identifiers``."""
    rule = Rule()
    found = read_identifiers(keys, duplicates="first")
    parts = [tuple(rule.read(part) for part in key) for key in keys]
    whole = [each for each in parts if all(each)]
    assert len(found) == len(set(whole))
    assert [whole.index(parts[row]) for row in found.rows] == sorted({whole.index(each) for each in whole})


def test_what_is_no_identifier_is_left_out_and_counted() -> None:
    found = read_identifiers(["a", None, "", "  ", float("nan"), "b"])
    assert found.counts == Counts(given=6, missing=4, repeated=0)
    assert found.rows.tolist() == [0, 5]
    assert found.rows.dtype == np.int64
    assert read_identifiers([("a", None), ("a", "b"), ("", "b")]).rows.tolist() == [1]
    assert len(read_identifiers([])) == 0
    pandas: list[Any] = [pd.NA, np.float32("nan"), pd.NaT, "a", None]
    assert read_identifiers(pandas).counts.missing == 4
    assert read_identifiers([None, ("a", "b"), ("a", pd.NA)]).rows.tolist() == [1]
    assert read_identifiers(pd.Series(["a", None, "b"], dtype="string")).rows.tolist() == [0, 2]
    assert read_identifiers(pd.Series([7, None], dtype="Int64")).encoded == read("7")


def test_who_comes_twice_is_refused_taken_once_or_dropped() -> None:
    keys = ["a", "b", "A", "c", "b", "b"]
    with pytest.raises(InputRefused, match=r"2 identifiers come again, in 3 more rows .* row 0\); say"):
        read_identifiers(keys)
    first = read_identifiers(keys, duplicates="first")
    assert (first.rows.tolist(), first.counts.repeated) == ([0, 1, 3], 3)
    dropped = read_identifiers(keys, duplicates="drop")
    assert (dropped.rows.tolist(), dropped.counts.repeated) == ([3], 5)
    with pytest.raises(ParameterError, match="must be one of refuse, first, drop"):
        read_identifiers(keys, duplicates="last")  # type: ignore[arg-type] # no such word


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ([1.0], "row 0 holds float"),
        (["a", True], "row 1 holds bool"),
        ([b"secret"], "row 0 holds bytes"),
        ([date(2026, 1, 1)], "row 0 holds date"),
        (["a", ("secret", "b")], "row 1 has a key of 2 parts, those before have 1"),
        ([["secret"]], "row 0 holds list"),
        (["secret" * LONGEST], f"row 0 holds {6 * LONGEST} bytes"),
        (["secret\ud800"], "row 0 holds a character that Unicode does not assign"),
        (["secret\u0378"], "row 0 holds a character that Unicode does not assign"),
        ([10**5000], "row 0 holds a number of more than 8192 bits"),
        (["secret", "Secret"], "1 identifiers come again"),
    ],
)
def test_what_identifies_nobody_is_refused_by_row_and_never_shown(keys: list[Any], text: str) -> None:
    """Guarantee of ``read_identifiers``."""
    with pytest.raises(InputRefused, match=text) as refused:
        read_identifiers(keys)
    assert refused.value.rule == "identifier"
    assert "secret" not in str(refused.value).lower()


@pytest.mark.parametrize(
    "column",
    ["secret", b"secret", {"secret": 1}, {"secret"}, 5, pd.DataFrame({"secret": ["a"]})],
    ids=lambda column: type(column).__name__,
)
def test_what_is_no_column_is_refused(column: Any) -> None:
    with pytest.raises(InputRefused, match=f"ids_a is {type(column).__name__}; give one column") as refused:
        read_identifiers(column, name="ids_a")
    assert "secret" not in str(refused.value)


def test_more_than_a_message_holds_are_refused() -> None:
    assert LARGEST * POINT_SIZE <= MAX_LENGTH
    with pytest.raises(ParameterError, match="are the most"):
        Identifiers(
            encoded=range(LARGEST + 1),  # type: ignore[arg-type] # its length alone
            rows=np.zeros(0, np.int64),
            counts=Counts(given=0, missing=0, repeated=0),
        )


def test_too_many_are_not_read_to_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secagg.psi.identifiers.LARGEST", 5)
    rows = iter(range(100))
    with pytest.raises(ParameterError, match="5 identifiers are the most"):
        read_identifiers(rows)
    assert next(rows) == 6


def test_identifiers_are_in_no_repr() -> None:
    assert "secret" not in repr(read_identifiers(["secret"]))
