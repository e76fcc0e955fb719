"""``secagg explain``: every code, scheme and term has an answer, and what is nearly one is pointed to."""

from __future__ import annotations

import contextlib
import inspect
import re
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from secagg.catalogue import CATALOGUE
from secagg.ckks.limbs import WORST_ERROR
from secagg.costs import name_of
from secagg.errors import FaultySilo, InputRefused, ParameterError, SecaggError, TooFewSilos, UsageError
from secagg.estimates import BY_DEFAULT
from secagg.explanation import explain, lookup
from secagg.glossary import GLOSSARY
from secagg.learning.history import History, Record
from secagg.learning.strategies import FedAdam, FedProx, Strategy
from secagg.masking.params import Masking
from secagg.messages import FromSilo
from secagg.paillier.params import ThresholdPaillier
from secagg.plain import Plain
from secagg.policy import Policy
from secagg.report import RoundReport, SchemeName
from secagg.scheme import Scheme
from secagg.schemes import BYTES_A_SILO, SCHEMES, table
from secagg.sums import secure_mean, secure_sum
from secagg.topics import ERRORS, STRATEGIES, answer, contents

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
    others = [name.casefold() for name in (*SCHEMES, *STRATEGIES, *ERRORS)]
    assert len({*keys, *others}) == len(keys) + len(others)


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
        ("pallier", "paillier"),
        ("threshold palier", "threshold-paillier"),
        ("rooster", "roster"),
        ("clipp", "clip"),
        ("weightcaps!", "weight cap"),
        ("unmask", "Unmasking"),
        ("survivers", "survivor set"),
        ("FedProxx", "FedProx"),
        ("FedYogurt", "FedYogi"),
        ("TooFewSites", "TooFewSilos"),
        ("LockRefused", "InputRefused"),
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
    known = "Codes (SA-4102), errors (TooFewSilos), schemes (masking), strategies (FedProx) and terms (lock)"
    assert known in str(refused.value)
    assert "near it" not in str(refused.value)


@pytest.mark.parametrize("typed", ["SA-4999", "sa-", "42", "SA-masking"])
def test_what_looks_like_a_code_is_looked_up_among_codes(typed: str) -> None:
    with pytest.raises(UsageError, match="there is no code"):
        answer(typed)


@pytest.mark.parametrize("width", [60, 80, 110])
def test_lines_fit_the_width(width: int) -> None:
    for word in (*CATALOGUE, *ERRORS, *SCHEMES, *STRATEGIES, *WORDS):
        assert max(map(len, lines_of(word, width))) <= width, word
    assert max(map(len, contents(width=width).splitlines())) <= width


def test_a_name_in_two_words_is_taken_however_it_is_joined() -> None:
    for typed in ("thresholdpaillier", "threshold-paillier", "Threshold Paillier", "ThresholdPaillier"):
        assert answer(typed).startswith("ThresholdPaillier: ")


def test_the_limbs_of_ckks_are_bounded_as_the_specification_says() -> None:
    assert WORST_ERROR == 0.25
    assert "below a quarter" in " ".join(answer("ckks").split())


def test_the_contents_name_everything_once() -> None:
    text = contents()
    codes = re.findall(r"^SA-\d{4}", text, re.MULTILINE)
    assert codes == list(CATALOGUE)
    named, schemes, strategies, terms = (
        [name.strip() for name in re.sub(r"\s+", " ", part).split(",")]
        for part in re.split(r"^(?:errors|schemes|strategies|terms) ", text, flags=re.MULTILINE)[1:]
    )
    assert schemes == ["masking", "paillier", "threshold-paillier", "ckks", "plain"]
    assert terms == list(GLOSSARY)
    assert named == list(ERRORS)
    assert strategies == [kind.__name__ for kind in get_args(Strategy)]


# --- errors and strategies: what a traceback or a script names ---------------------------------------------


@pytest.mark.parametrize("name", ERRORS)
def test_the_class_of_an_error_says_which_codes_it_may_have(name: str) -> None:
    text = answer(name)
    assert text.startswith(f"{name}: ")
    assert answer(name.lower()) == answer(name.upper()) == answer(f"secagg.errors.{name}") == text
    assert answer(f"secagg.errors.{name}: Unmasking: 2 silos answered,\n3 are needed") == text


@pytest.mark.parametrize(
    "error",
    [
        ParameterError("text"),
        ParameterError("text", parameter="t"),
        ParameterError("text", parameter="configuration"),
        InputRefused("nan", "text"),
        InputRefused("another", "text"),
        FaultySilo("west", "text"),
        FaultySilo("west", "text", dealer=True),
    ],
)
def test_the_code_that_an_error_carries_is_among_those_of_its_class(error: SecaggError) -> None:
    code = explain(error).code
    assert f"{code} {lookup(code).what}" in " ".join(answer(type(error).__name__).split())


def test_a_class_with_one_code_explains_it_and_every_code_has_a_class() -> None:
    assert answer("RunStopped").endswith(lookup("SA-4103").text())
    codes = {code for name in ERRORS for code in re.findall(r"SA-\d{4}", answer(name))}
    assert codes == {*CATALOGUE}
    assert "SA-" not in answer("SecaggError"), "it is never raised itself"
    assert "kinds of it: TooFewSilos, RunStopped" in answer("RoundAborted")


def test_a_silo_left_out_gave_its_own_account() -> None:
    codes = re.findall(r"SA-\d{4}", answer("SiloLeftOut"))
    assert {"SA-2201", "SA-2301", "SA-6002", "SA-7001"} <= {*codes}
    assert not {"SA-2001", "SA-4102", "SA-5101"} & {*codes}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_says_what_it_is_and_its_parameters(name: str) -> None:
    text = answer(name)
    assert text.startswith(f"{name}: ")
    assert answer(name.lower()) == answer(f"secagg.{name}") == text
    for parameter in inspect.signature(STRATEGIES[name]).parameters.values():
        (line,) = re.findall(rf"^  {parameter.name}: (.*(?:\n    .*)*)", text, re.MULTILINE)
        assert ("if not given" in " ".join(line.split())) is (parameter.default is not parameter.empty)
    assert "`" not in text


def test_the_defaults_of_a_strategy_are_those_it_has() -> None:
    adam = FedAdam()
    for name in ("server_learning_rate", "beta1", "beta2", "tau"):
        default = f"{getattr(adam, name):g} if not given."
        (line,) = re.findall(rf"^  {name}: (.*(?:\n    .*)*)", answer("FedAdam"), re.MULTILINE)
        assert " ".join(line.split()).endswith(default)
    assert FedProx(0.1).proximal_mu > 0
    assert "mu: strength of the proximal term" in answer("fedprox")


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


# A threshold key of the default size takes ten seconds to deal: its phases are looked at in test_estimates.
@pytest.mark.parametrize("scheme", [s for s in BY_DEFAULT if s != ThresholdPaillier()], ids=name_of)
def test_the_phases_are_the_rows_of_a_report(scheme: Scheme) -> None:
    pytest.importorskip("tenseal")
    pytest.importorskip("gmpy2")
    vectors = {name: np.ones(2) for name in "abcd"}
    report = secure_sum(vectors, scheme=scheme, clip=1.0, timer=iter(range(10**6)).__next__).report
    rows = [row[0] for row in report.traffic()]
    assert report.scheme == name_of(scheme)
    assert rows[-1] == "all phases"
    assert f"phases     {', '.join(rows[:-1])}" in answer(report.scheme, width=200)


def test_plain_is_allowed_by_name_only_and_outlives_all_but_one_silo() -> None:
    assert "plain" not in Policy().schemes
    dropouts = dict.fromkeys("abc", "MaskedInput")
    result = secure_sum({name: np.ones(2) for name in "abcd"}, scheme=Plain(), clip=1.0, dropouts=dropouts)  # type: ignore[arg-type]
    assert result.survivors == ("d",)
    assert result.report.who_can_read in " ".join(answer("plain").split())


@pytest.mark.parametrize("scheme", ["Paillier", "ThresholdPaillier", "CKKS"])
def test_phases_of_encrypted_rounds_are_named_after_messages(scheme: SchemeName) -> None:
    messages = {kind.__name__ for kind in get_args(FromSilo)}
    assert {*phases_of(scheme)} - {"Training"} <= messages
    assert ("PartialDecryption" in phases_of(scheme)) is (scheme == "ThresholdPaillier")


@pytest.mark.parametrize("scheme", ["Paillier", "CKKS"])
def test_one_key_is_level_0_in_the_first_line_and_in_the_first_word_of_who_reads(scheme: SchemeName) -> None:
    report = full(scheme)
    assert report.text().splitlines()[0].startswith("L0: ")
    assert report.who_can_read.startswith(
        "L0: any one silo that holds the key, together with the coordinator"
    )
    assert "follows the protocol, learns nothing, not even the sum" in report.who_can_read
    assert "L0" in lines_of(scheme)[0]
    facts = dict(report.facts())
    assert "collude with the coordinator" not in facts[f"c = {report.c}"], "one that does reads everything"
    assert "answer" not in facts[f"t = {report.t}"], "any one silo opens"


@pytest.mark.parametrize("scheme", ["Masking", "ThresholdPaillier", "Plain"])
def test_no_other_scheme_is_called_level_0(scheme: SchemeName) -> None:
    assert "L0" not in full(scheme).text() + answer(scheme)


def test_a_threshold_key_says_what_its_dealer_could_read() -> None:
    said = full("ThresholdPaillier").who_can_read
    assert said.startswith("Nobody. The coordinator together with up to 1 silo learns nothing but sums over ")
    assert "The dealer silo, or its backups, could read everything; erasure cannot be proved." in said
    assert "alone it does not even learn the sum" in said


def test_bytes_of_ciphertexts_are_those_of_a_million_parameters() -> None:
    assert "sent       8.348 or 14.22 bytes a parameter" in answer("paillier")
    assert "sent       16.07 or 32.08 bytes a parameter" in answer("ckks")


# --- the words of a report are in the glossary -------------------------------------------------------------


def phases_of(scheme: SchemeName) -> list[str]:
    (row,) = [line for line in answer(scheme, width=200).splitlines() if line.startswith("  phases")]
    return row.removeprefix("  phases").strip().split(", ")


def full(scheme: SchemeName) -> RoundReport:
    """A report in which every row has something to say."""
    bare = secure_mean(
        {name: np.full(2, 5.0) for name in "abcde"},
        weights=dict.fromkeys("abcde", 1.0),
        scheme=Plain() if scheme == "Plain" else Masking(),
        clip=1.0,
        dropouts={"b": "MaskedInput"},
        timer=iter(range(10**6)).__next__,
    ).report
    phases = {**bare.bytes_up, "Refused": 30, "Voided": 60}
    if scheme not in {"Masking", "Plain"}:
        phases |= dict.fromkeys(phases_of(scheme), 90)
    return replace(
        bare, scheme=scheme, kind="train", attempts=2, metric_error=1e-3, saturated=3, bytes_up=phases
    )


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
