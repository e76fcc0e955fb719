"""Configuration files: what is wrong is said with its line, all at once, and without a value."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, model_validator

from secagg.configuration import LONGEST_KEY, PARAMETER, parse
from secagg.errors import ParameterError
from secagg.toml_lines import Place, lines_of

SECRET = "c2VjcmV0LXRva2VuLW9mLWEtYmFuaw"  # noqa: S105


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Floors(Section):
    min_silos: int = Field(default=3, ge=3)
    max_clip: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    schemes: Annotated[frozenset[Literal["masking", "plain"]], Field(strict=False)] = frozenset({"masking"})
    apps: Mapping[str, str] = Field(default={})


class Member(Section):
    name: str
    key: str


class Example(Section):
    name: str
    threads: int = 1
    quiet: bool = False
    policy: Floors = Floors()
    member: Annotated[tuple[Member, ...], Field(strict=False)] = ()


def refusal(text: str) -> str:
    with pytest.raises(ParameterError) as caught:
        parse(text, Example, source="silo.toml")
    assert caught.value.parameter == PARAMETER
    return str(caught.value)


def test_a_right_file_becomes_its_model() -> None:
    text = (
        'name = "north"\n[policy]\nmax_clip = 8\nschemes = ["plain", "masking"]\n'
        '[policy.apps]\n"a.b:c" = "x"\n[[member]]\nname = "a"\nkey = "1"\n[[member]]\nname = "b"\nkey = "2"\n'
    )
    example = parse(text, Example, source="silo.toml")
    assert example.policy == Floors(
        max_clip=8.0, schemes=frozenset({"plain", "masking"}), apps={"a.b:c": "x"}
    )
    assert [(member.name, member.key) for member in example.member] == [("a", "1"), ("b", "2")]
    with pytest.raises(ValueError, match="frozen"):
        example.name = "south"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('name = "n"\n\nthread = 2', "line 3: thread is no key of this file; did you mean threads?"),
        (
            'name = "n"\n[policy]\nmin-silos = 4',
            "line 3: min-silos is no key of [policy]; did you mean min_silos?",
        ),
        ('name = "n"\nMax_Clip = 1', "line 2: Max_Clip is no key of this file; it belongs in [policy]"),
        (
            'name = "n"\nzzz = 1',
            "line 2: zzz is no key of this file; known are name, threads, quiet, policy, member",
        ),
        ('name = "n"\n[polcy]\nmin_silos = 4', "line 2: polcy is no key of this file; did you mean policy?"),
        ("threads = 1", "line 1: name is missing"),
        ('name = "n"\n\n[[member]]\nname = "a"', "line 3: member 1.key is missing"),
        (
            'name = "n"\n[[member]]\nname = "a"\nkey = "k"\n[[member]]\nname = 3\nkey = "k"',
            "line 6: member 2.name is 3, must be a text in quotes",
        ),
        ('name = "n"\nthreads = "4"', "line 2: threads must be a whole number"),
        ('name = "n"\nthreads = 4.0', "line 2: threads is 4.0, must be a whole number"),
        ('name = "n"\nthreads = true', "line 2: threads is true, must be a whole number"),
        ('name = "n"\nquiet = 1', "line 2: quiet is 1, must be true or false"),
        ('name = "n"\npolicy = 5', "line 2: policy is 5, must be a table of key = value"),
        ('name = "n"\npolicy.max_clip = inf', "line 2: policy.max_clip must be finite"),
        ('name = "n"\npolicy.max_clip = 0', "line 2: policy.max_clip is 0, must be above 0"),
        ('name = "n"\npolicy = { min_silos = 2 }', "line 2: policy.min_silos is 2, must be at least 3"),
        (
            'name = "n"\n[policy]\nschemes = [\n "plain",\n "maskin",\n]',
            "line 5: policy.schemes 2 must be one of masking, plain; did you mean masking?",
        ),
        ('name = "n"\n[policy]\nschemes = "plain"', "line 3: policy.schemes must be a list: [...]"),
        (
            'name = "n"\n[policy.apps]\n"a.b:c" = 3',
            "line 3: policy.apps.'a.b:c' is 3, must be a text in quotes",
        ),
        ('name = "n"\nmember = [1]', "line 2: member 1 is 1, must be a table of key = value"),
    ],
)
def test_a_problem_has_line_key_and_expectation(text: str, expected: str) -> None:
    assert refusal(text) == f"silo.toml, {expected}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name = north", "line 1, column 8: this is no value; a text stands in quotes"),
        ('name = "n"\nname = "m"', "line 2, at its end: this was given before"),
        ("[policy]\n[policy]", "line 2, column 8: this table was given before"),
        ("[policy\n", "line 1, column 8: the name of a table ends with ]"),
        ('name = "n', "line 1, at its end: quotes are not closed"),
        ('name = "n\n"', "line 1, column 10: quotes are not closed on this line"),
        ('name = "n" threads = 1', "line 1, column 12: something follows the value; each line holds one key"),
        ("name: north", "line 1, column 5: a key is followed by ="),
        ("a = [1,\n", "line 1, at its end: this is no value"),
        ("a = [1\nb = 2", "line 2, column 1: a list is not closed with ]"),
        ('state = "C:\\silo"', "line 1, column 14: in double quotes \\ begins an escape"),
        ("\n\n= 3", "line 3, column 1: a key or a [table] is expected"),
        ("a.b = 1\na = 2", "line 2, at its end: this was given before"),
        ("name = 2026-13-45", "line 1, column 12: something follows the value"),
    ],
)
def test_what_is_no_toml_has_line_and_column_in_our_words(text: str, expected: str) -> None:
    assert refusal(text).startswith(f"silo.toml, {expected}")


def test_all_problems_of_a_file_are_told_at_once_in_the_order_of_lines() -> None:
    text = 'nme = "n"\nthreads = 0.5\n[policy]\nmin_silos = 1\nmax_clip = -1\ncolour = 3\n'
    told = refusal(text).split(";\n")
    assert [line.partition(":")[0] for line in told] == [f"silo.toml, line {n}" for n in (1, 1, 2, 4, 5, 6)]
    assert "name is missing" in refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        f'name = "n"\nthreads = "{SECRET}"',
        f'name = "n"\npolicy.schemes = ["{SECRET}"]',
        f'name = "n"\npolicy.schemes = "{SECRET}"',
        f'name = "n"\npolicy = "{SECRET}"',
        f'name = "n"\nunknown = "{SECRET}"',
        f'name = "n"\n{SECRET * 2} = 1',
        f'name = "n"\npolicy.apps.{SECRET * 2} = 1',
        f"name = {SECRET}",
        f'name = "{SECRET}',
        f'name = "n" {SECRET}',
        f'name = "n"\n[{SECRET * 2}]\n[{SECRET * 2}]',
    ],
)
def test_no_text_of_the_file_is_repeated(text: str) -> None:
    with pytest.raises(ParameterError) as caught:
        parse(text, Example, source="silo.toml")
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert len(SECRET * 2) > LONGEST_KEY


def test_a_check_of_a_model_speaks_in_its_own_words() -> None:
    class Pair(Section):
        low: int
        high: int

        @model_validator(mode="after")
        def _ordered(self) -> Pair:
            if self.low > self.high:
                raise ParameterError(f"low = {self.low} is above high = {self.high}")
            return self

    class Outer(Section):
        pair: Pair

    with pytest.raises(ParameterError, match=r"^a, line 2: pair: low = 3 is above high = 1$"):
        parse("\n[pair]\nlow = 3\nhigh = 1", Outer, source="a")


# --- lines -------------------------------------------------------------------------------------------------

NASTY = '''# [not.a.table]
a = 1  # b = 2
"quoted key" = 'c = 3'
'lit.eral'.x . "y" = """
d = 4
[no]
\\""" still, and two quotes at the end"""""
multi = \'\'\'
e = 5 "\'\'\' # comment
list = [ # [
  1, "]", [2,
  "a,b"], { k = "}", z.q = [ 7 ] },
]
date = 2026-01-02 03:04:05Z
empty = [ ]
none = {}
[ t . u ]
v = ""
[[ t.w ]]
x = 1
[t.w.y]
z = \'\'
[[t.w]]
x = 2
[[t.w.deep]]
q = 1
[[t.w.deep]]
q = [[1], [2,
3]]
'''

EXPECTED: dict[Place, int] = {
    ("a",): 2,
    ("quoted key",): 3,
    ("lit.eral", "x", "y"): 4,
    ("multi",): 8,
    ("list", 2, 1): 12,
    ("list", 3, "z", "q", 0): 12,
    ("date",): 14,
    ("none",): 16,
    ("t", "u"): 17,
    ("t", "u", "v"): 18,
    ("t", "w", 0): 19,
    ("t", "w", 0, "y", "z"): 22,
    ("t", "w", 1): 23,
    ("t", "w", 1, "deep", 1): 27,
    ("t", "w", 1, "deep", 1, "q", 1, 1): 29,
}


def places_in(value: Any, at: Place = ()) -> Iterator[Place]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, part in parts:
        yield (*at, step)
        yield from places_in(part, (*at, step))


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_lines_are_found_in_every_form_of_toml(ending: str) -> None:
    text = NASTY.replace("\n", ending)
    lines = lines_of(text)
    assert {place: lines.get(place) for place in EXPECTED} == EXPECTED
    assert set(places_in(tomllib.loads(text))) == set(lines)


@given(
    st.lists(
        st.tuples(
            st.text("ab.'\"= \u00e9", min_size=1, max_size=4),
            st.text("ab\"'\\#[]{},=\n", max_size=8),
            st.integers(0, 2),
        ),
        max_size=6,
        unique_by=lambda entry: entry[0],
    )
)
def test_every_value_has_its_line_whatever_its_text_holds(entries: list[tuple[str, str, int]]) -> None:
    def quoted(text: str) -> str:
        escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'

    expected, text, line = {}, "", 1
    for key, value, form in entries:
        expected[key,] = line
        body = value.replace("\\", "").replace('"', "")
        shown = (quoted(value), f'"""{body}"""', f"[\n {quoted(value)},\n]")[form]
        text += f"{quoted(key)} = {shown} # {'='}\n"
        line += 1 + shown.count("\n")
    lines = lines_of(text)
    assert {place: lines[place] for place in expected} == expected
    assert set(lines) == set(places_in(tomllib.loads(text)))


def test_the_library_alone_needs_no_pydantic() -> None:
    code = "import sys; sys.modules['pydantic'] = None; import secagg.configuration, secagg.sums, secagg.cli"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("module", "lacking", "extra"),
    [
        ("silo.config", "pydantic", "silo"),
        ("silo.tls", "grpc", "silo"),
        ("coordinator.config", "pydantic", "coordinator"),
        ("coordinator.tls", "grpc", "coordinator"),
    ],
)
def test_a_process_without_its_extra_says_what_to_type(module: str, lacking: str, extra: str) -> None:
    code = f"import sys; sys.modules[{lacking!r}] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith(f"is not installed. Type: pip install 'secagg[{extra}]'")
