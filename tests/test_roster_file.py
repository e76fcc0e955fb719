"""``roster.toml`` as people write and compare it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import ParameterError
from secagg.hazmat.identity import fingerprint, grouped
from secagg.roster import Roster
from secagg.roster_file import parse_roster, write_roster

KEYS = [bytes([i]) * 32 for i in range(3)]
HEX = [key.hex() for key in KEYS]


def entries(*pairs: tuple[str, str]) -> str:
    return "".join(f'[[silo]]\nname = "{name}"\nkey = "{key}"\n' for name, key in pairs)


@given(
    st.dictionaries(
        st.from_regex(r"\A[A-Za-z0-9._-]{1,64}\Z"),
        st.binary(min_size=32, max_size=32),
        min_size=1,
        max_size=6,
    ).filter(lambda keys: len(set(keys.values())) == len(keys))
)
def test_what_is_written_is_read_back(keys: dict[str, bytes]) -> None:
    roster = Roster.of(keys)
    assert parse_roster(write_roster(roster), "roster.toml") == roster


def test_the_file_shows_each_key_with_its_fingerprint_below() -> None:
    text = write_roster(Roster.of({"north": KEYS[0], "south": KEYS[1]}))
    lines = text.splitlines()
    for key in KEYS[:2]:
        at = lines.index(f'key = "{key.hex()}"')
        assert lines[at + 1] == f"# fingerprint {fingerprint(key)}"
    assert grouped(Roster.of({"north": KEYS[0], "south": KEYS[1]}).digest[:16]) in text


def test_hex_of_either_case_is_one_key() -> None:
    text = entries(("a", "AB" * 32))
    assert parse_roster(text, "r").key("a") == b"\xab" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            entries(("a", HEX[0]), ("a", HEX[1])),
            "r, line 5: silo 2.name: silo 1 is a too; each silo stands once",
        ),
        (entries(("a", HEX[0]), ("b", HEX[0])), "r, line 6: silo 2.key: silo 1 has this key too"),
        (entries(("a", "ab" * 32), ("b", "AB" * 32)), "r, line 6: silo 2.key: silo 1 has this key too"),
        (entries(("a", HEX[0][1:])), "r, line 3: silo 1.key: has 63 characters, a key has 64 hex digits"),
        (entries(("a", HEX[0] + "00")), "r, line 3: silo 1.key: has 66 characters"),
        (entries(("a", "0g" + HEX[0][2:])), "r, line 3: silo 1.key: has a character that is no hex digit"),
        (entries(("a", "\u0660" * 64)), "r, line 3: silo 1.key: has a character that is no hex digit"),
        (entries(("a", HEX[0][:62] + " 0")), "r, line 3: silo 1.key: has a character that is no hex digit"),
        (entries(("../a", HEX[0])), "r, line 2: silo 1.name: silo name '../a': 1 to 64"),
        ('[[silo]]\nname = "a"\n', "r, line 1: silo 1.key is missing"),
        (entries(("a", HEX[0])) + 'role = "x"', "r, line 4: role is no key of [silo 1]; known are name, key"),
        ("", "r, line 1: silo is missing"),
        ("silo = []", "r, line 1: silo has 0 entries, must have at least 1"),
        ("[silo]\na = 1", "r, line 1: silo must be a list"),
        ("[[silo]\n", "r, line 1, column 7: the name of a table ends with ]"),
    ],
)
def test_what_is_no_roster_is_refused_with_its_line(text: str, expected: str) -> None:
    with pytest.raises(ParameterError) as caught:
        parse_roster(text, "r")
    assert str(caught.value).startswith(expected)


def test_all_problems_are_told_at_once_and_no_refused_key() -> None:
    text = entries(("a b", HEX[0]), ("c", HEX[1] + HEX[2]), ("c", HEX[0]))
    with pytest.raises(ParameterError) as caught:
        parse_roster(text, "r")
    told = str(caught.value).split(";\n")
    assert [line.partition(": ")[0] for line in told] == [f"r, line {n}" for n in (2, 6, 8, 9)]
    assert HEX[1] not in str(caught.value)
