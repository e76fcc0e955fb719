"""``secagg explain``: every code, scheme and term has an answer, and what is nearly one is pointed to."""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from secagg.catalogue import CATALOGUE
from secagg.errors import ParameterError, TooFewSilos, UsageError
from secagg.explanation import lookup
from secagg.glossary import GLOSSARY
from secagg.learning.history import History, Record
from secagg.masking.params import Masking
from secagg.plain import Plain
from secagg.policy import Policy
from secagg.report import RoundReport, SchemeName
from secagg.schemes import BYTES_A_SILO, SCHEMES, table
from secagg.sums import secure_mean, secure_sum
from secagg.topics import answer, contents

WORDS = sorted({word for term in GLOSSARY.values() for word in (term.name, *term.also)})


def lines_of(word: str, width: int = 80) -> list[str]:
    return answer(word, width=width).splitlines()


# --- finding a topic ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", CATALOGUE)
def test_a_code_is_explained(code: str) -> None:
    assert answer(code) == lookup(code).text()
    assert answer(code.lower()) == answer(code.removeprefix("SA-")) == answer(code)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_prints_its_table(scheme: SchemeName) -> None:
    assert answer(scheme) == answer(scheme.lower()) == table(scheme)
    assert table(scheme).startswith(f"{scheme}: ")


@pytest.mark.parametrize("word", WORDS)
def test_a_term_and_its_other_names_print_its_entry(word: str) -> None:
    (term,) = [term for term in GLOSSARY.values() if word in (term.name, *term.also)]
    assert answer(word) == answer(word.upper()) == term.text()
    assert lines_of(word)[0].startswith(term.name)
    assert " ".join(term.meaning.split()) in " ".join(answer(word).split())


@pytest.mark.parametrize("typed", ["head-room", "Headroom", "head room", "HEAD_ROOM", " headrooms "])
def test_hyphens_blanks_capitals_and_a_plural_do_not_matter(typed: str) -> None:
    assert answer(typed) == GLOSSARY["head-room"].text()


def test_no_word_means_two_things() -> None:
    keys = [re.sub(r"[\s_-]", "", word).casefold() for word in WORDS]
    assert len(set(keys)) == len(keys) == sum(1 + len(term.also) for term in GLOSSARY.values())
    assert not {*keys} & {scheme.casefold() for scheme in SCHEMES}


def test_terms_stand_in_alphabetical_order_and_point_to_terms() -> None:
    assert list(GLOSSARY) == sorted(GLOSSARY, key=str.casefold)
    for term in GLOSSARY.values():
        assert {*term.see} <= GLOSSARY.keys() - {term.name}, term.name


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("treshold", "threshold"),
        ("maskin", "masking"),
        ("plian", "plain"),
        ("rooster", "roster"),
        ("clipp", "clip"),
        ("weightcaps!", "weight cap"),
        ("unmask", "Unmasking"),
        ("survivers", "survivor set"),
    ],
)
def test_a_near_miss_is_told_what_is_near(typed: str, meant: str) -> None:
    with pytest.raises(UsageError) as refused:
        answer(typed)
    near = re.search(r"near it: ([^.]*)\.", str(refused.value))
    assert near is not None
    assert meant in near[1].split(", ")
    assert len(near[1].split(", ")) <= 4


@pytest.mark.parametrize("typed", ["quantum chromodynamics", "", "?"])
def test_what_is_near_nothing_is_told_what_is_understood(typed: str) -> None:
    with pytest.raises(UsageError) as refused:
        answer(typed)
    assert "Codes (SA-4102), schemes (masking) and terms (lock)" in str(refused.value)
    assert "near it" not in str(refused.value)


@pytest.mark.parametrize("typed", ["SA-4999", "sa-", "42", "SA-masking"])
def test_what_looks_like_a_code_is_looked_up_among_codes(typed: str) -> None:
    with pytest.raises(UsageError, match="there is no code"):
        answer(typed)


@pytest.mark.parametrize("width", [60, 80, 110])
def test_lines_fit_the_width(width: int) -> None:
    for word in (*CATALOGUE, *SCHEMES, *WORDS):
        assert max(map(len, lines_of(word, width))) <= width, word
    assert max(map(len, contents(width=width).splitlines())) <= width


def test_the_contents_name_everything_once() -> None:
    text = contents()
    codes = re.findall(r"^SA-\d{4}", text, re.MULTILINE)
    assert codes == list(CATALOGUE)
    schemes, terms = (
        [name.strip() for name in re.sub(r"\s+", " ", part).split(",")]
        for part in re.split(r"^(?:schemes|terms) ", text, flags=re.MULTILINE)[1:]
    )
    assert schemes == [scheme.lower() for scheme in SCHEMES]
    assert terms == list(GLOSSARY)


# --- scheme tables: what they say is so ------------------------------------------------------------------


def test_there_is_a_table_for_every_scheme_a_report_can_name() -> None:
    assert get_args(SchemeName) == SCHEMES


def test_the_defaults_are_those_of_a_round() -> None:
    rows = [[int(x) for x in line.split()] for line in lines_of("masking") if re.fullmatch(r"[\s\d]+", line)]
    assert [row[0] for row in rows] == [3, 5, 10]
    for n, c, t, k, lost in rows:
        cohort = Masking().parameters(n).cohort
        assert (cohort.c, cohort.t) == (c, t)
        names = [f"silo-{i}" for i in range(n)]
        vectors = {name: np.ones(2) for name in names}
        report = secure_sum(vectors, clip=1.0, dropouts=dict.fromkeys(names[:lost], "MaskedInput")).report
        assert (report.n, report.c, report.t, report.k) == (n, c, t, k)
        with pytest.raises(TooFewSilos):
            secure_sum(vectors, clip=1.0, dropouts=dict.fromkeys(names[: lost + 1], "MaskedInput"))


def test_the_ranges_are_those_that_are_accepted() -> None:
    n = 7
    c = Masking().parameters(n).cohort.c
    accepted: dict[str, range] = {
        "colluders": range(1, n - 1),
        "threshold": range((n + c) // 2 + 1, n + 1),
        "min_honest": range(2, n - c + 1),
    }
    for name, values in accepted.items():
        for value in range(n + 2):
            accepts = contextlib.nullcontext() if value in values else pytest.raises(ParameterError)
            with accepts:
                replace(Masking(), **{name: value}).parameters(n)
    with pytest.raises(ParameterError):
        Masking().parameters(2)
    text = " ".join(answer("masking").split())
    for said in ("3 at the least", "1 to n - 2", "floor((n + c) / 2) + 1 to n", "2 to n - c, 2 by default"):
        assert said in text


@pytest.mark.parametrize("n", [3, 5, 10])
def test_what_is_sent_beside_the_vector_is_bounded_as_said(n: int) -> None:
    names = [f"{i:02d}".rjust(64, "s") for i in range(n)]  # as long as a name may be
    for bits in (32, 64):
        report = secure_sum({name: np.ones(5) for name in names}, clip=1.0, word_bits=bits).report
        beside = sum(report.bytes_up.values()) / n - 6 * bits // 8  # the count entry is the sixth
        assert 0 < beside < n * BYTES_A_SILO
    assert "4 or 8 bytes a parameter, and below 1 kB for each silo of the roster" in " ".join(
        answer("masking").split()
    )


@pytest.mark.parametrize("scheme", [Masking(), Plain()], ids=lambda scheme: type(scheme).__name__)
def test_the_phases_are_the_rows_of_a_report(scheme: Masking | Plain) -> None:
    vectors = {name: np.ones(2) for name in "abcd"}
    report = secure_sum(vectors, scheme=scheme, clip=1.0, timer=iter(range(10**6)).__next__).report
    rows = [row[0] for row in report.traffic()]
    assert rows[-1] == "all phases"
    assert f"phases     {', '.join(rows[:-1])}" in answer(report.scheme, width=200)


def test_plain_is_allowed_by_name_only_and_outlives_all_but_one_silo() -> None:
    assert "plain" not in Policy().schemes
    dropouts = dict.fromkeys("abc", "MaskedInput")
    result = secure_sum({name: np.ones(2) for name in "abcd"}, scheme=Plain(), clip=1.0, dropouts=dropouts)  # type: ignore[arg-type]
    assert result.survivors == ("d",)
    assert result.report.who_can_read in " ".join(answer("plain").split())


# --- the words of a report are in the glossary -------------------------------------------------------------


def full(scheme: SchemeName) -> RoundReport:
    """A report in which every row has something to say."""
    bare = secure_mean(
        {name: np.full(2, 5.0) for name in "abcde"},
        weights=dict.fromkeys("abcde", 1.0),
        scheme=Masking() if scheme == "Masking" else Plain(),
        clip=1.0,
        dropouts={"b": "MaskedInput"},
        timer=iter(range(10**6)).__next__,
    ).report
    phases = {**bare.bytes_up, "Refused": 30, "Voided": 60}
    return replace(bare, kind="train", attempts=2, metric_error=1e-3, saturated=3, bytes_up=phases)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_label_of_a_round_report_has_an_entry(scheme: SchemeName) -> None:
    report = full(scheme)
    labels = [label.removesuffix(f" = {label.rpartition(' ')[2]}") for label, _ in report.facts()]
    assert {"n", "lost", "attempts", "who reads", "privacy", "numbers", "beware"} <= {*labels}
    assert scheme == "Plain" or {"t", "c", "k"} <= {*labels}
    phases = [row[0] for row in report.traffic()][:-1]
    assert {"Refused", "Voided", "Training"} < {*phases}
    (headings,) = [line for line in report.text().splitlines() if "seconds" in line]
    columns = headings.removeprefix("  all silos together").split()
    assert columns == ["up", "down", "seconds"]
    figures = ("entries", "head-room", "worst error", "metric", "total weight", "clipped")
    assert all(word in " ".join(report.text().split()) for word in figures)
    for word in (*labels, *phases, *columns, *figures):
        assert answer(word).splitlines()[1:], word


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_label_of_a_runs_report_has_an_entry(scheme: SchemeName) -> None:
    text = History(np.ones(1), (Record(0, {}, full(scheme)),)).report()
    labels = [label.strip() for label in re.findall(r"^  (\S.{9}) \S", text, re.MULTILINE)]
    assert {"smallest", "who reads", "rounding", "clipped", "beware", "head-room", "traffic"} <= {*labels}
    for label in labels:
        assert answer(label).splitlines()[1:], label
