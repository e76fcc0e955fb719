"""Every error has a stable code whose first digit is its exit code, and the same five lines."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from secagg import errors
from secagg.catalogue import CATALOGUE
from secagg.cohort import Cohort
from secagg.configuration import PARAMETER
from secagg.errors import (
    EnvironmentFault,
    FaultyCoordinator,
    FaultySilo,
    FaultySiloOrCoordinator,
    InputRefused,
    MalformedMessage,
    MissingExtra,
    ParameterError,
    PartnersMissing,
    PartnerStopped,
    PolicyRefused,
    PrivacyBudgetExhausted,
    ProtocolError,
    RoundAborted,
    RunStopped,
    SecaggError,
    TooFewSilos,
    TrainerFailed,
    TrustError,
    UnexpectedMessage,
    UsageError,
    exit_code,
)
from secagg.explanation import annotate, explain, explained, lookup
from secagg.policy import Policy

# Written out, not computed: a published code keeps its meaning.
EXPECTED: tuple[tuple[SecaggError, str], ...] = (
    (ParameterError("text"), "SA-2001"),
    (ParameterError("text", parameter="n"), "SA-2002"),
    (ParameterError("text", parameter="c"), "SA-2003"),
    (ParameterError("text", parameter="t"), "SA-2004"),
    (ParameterError("text", parameter="k_min"), "SA-2005"),
    (ParameterError("text", parameter="encoding"), "SA-2006"),
    (ParameterError("text", parameter="configuration"), "SA-2007"),
    (ParameterError("text", parameter="memory"), "SA-2008"),
    (ParameterError("text", parameter="typed"), "SA-2009"),
    (ParameterError("text", parameter="something else"), "SA-2001"),
    (UsageError("text"), "SA-2101"),
    (InputRefused("unheard of", "text"), "SA-2200"),
    (InputRefused("nan", "text"), "SA-2201"),
    (InputRefused("infinite", "text"), "SA-2202"),
    (InputRefused("bound", "text"), "SA-2203"),
    (InputRefused("shape", "text"), "SA-2204"),
    (InputRefused("dtype", "text"), "SA-2205"),
    (InputRefused("weight", "text"), "SA-2206"),
    (InputRefused("metric", "text"), "SA-2207"),
    (InputRefused("layout", "text"), "SA-2208"),
    (InputRefused("sampling", "text"), "SA-2209"),
    (InputRefused("table", "text"), "SA-2210"),
    (TrainerFailed("west", "text"), "SA-2301"),
    (EnvironmentFault("text"), "SA-3001"),
    (MissingExtra("plot", "matplotlib"), "SA-3101"),
    (ProtocolError("text"), "SA-4001"),
    (MalformedMessage("text"), "SA-4002"),
    (UnexpectedMessage("text"), "SA-4003"),
    (FaultySilo("west", "text"), "SA-4004"),
    (FaultySilo("west", "text", dealer=True), "SA-4005"),
    (FaultySiloOrCoordinator("west", "text"), "SA-4006"),
    (RoundAborted("text"), "SA-4101"),
    (TooFewSilos(3, 4, "Unmasking"), "SA-4102"),
    (RunStopped("text"), "SA-4103"),
    (PartnerStopped("west", "text", rule="largest set"), "SA-4105"),
    (PartnersMissing(("west",), "text"), "SA-4106"),
    (TooFewSilos(2, 3, "SealingKey", ("west",)), "SA-4104"),
    (TooFewSilos(2, 3, "KeyDealt", ("west",)), "SA-4104"),
    (TooFewSilos(2, 3, "KeyTaken", ("west",)), "SA-4104"),
    (TrustError("text"), "SA-5001"),
    (FaultyCoordinator("text"), "SA-5101"),
    (PolicyRefused("office hours", "text"), "SA-6001"),
    (PolicyRefused("lock", "text"), "SA-6002"),
    (PolicyRefused("roster", "text"), "SA-6003"),
    (PolicyRefused("scheme", "text"), "SA-6004"),
    (PolicyRefused("cohort", "text"), "SA-6005"),
    (PolicyRefused("min_silos", "text"), "SA-6005"),
    (PolicyRefused("colluders", "text"), "SA-6006"),
    (PolicyRefused("threshold", "text"), "SA-6006"),
    (PolicyRefused("min_honest", "text"), "SA-6006"),
    (PolicyRefused("max_clip", "text"), "SA-6007"),
    (PolicyRefused("encoding", "text"), "SA-6008"),
    (PolicyRefused("release", "text"), "SA-6009"),
    (PolicyRefused("app", "text"), "SA-6010"),
    (PolicyRefused("min_weight_cap", "text"), "SA-6011"),
    (PolicyRefused("key", "text"), "SA-6012"),
    (PolicyRefused("releases", "text"), "SA-6012"),
    (PolicyRefused("maker", "text"), "SA-6013"),
    (PolicyRefused("ceremony", "text"), "SA-6014"),
    (PolicyRefused("memory_limit", "text"), "SA-6015"),
    (PolicyRefused("privacy", "text"), "SA-6016"),
    (PolicyRefused("max_l2_clip_norm", "text"), "SA-6017"),
    (PolicyRefused("ledger", "text"), "SA-6018"),
    (PolicyRefused("partners", "text"), "SA-6019"),
    (PolicyRefused("min_child_rows", "text"), "SA-6020"),
    (PrivacyBudgetExhausted("text"), "SA-7001"),
)
SHAPE = re.compile(
    r"x SA-\d{4}  \S.*\n(?: {11}\S.*\n)*"
    r"  cause    \S.*\n(?: {11}\S.*\n)*"
    r"  safe     (?:yes|no): \S.*\n(?: {11}\S.*\n)*"
    r"  you can  \S.*\n(?: {11}\S.*\n)*"
    r"  they can \S.*(?:\n {11}\S.*)*?"
    r"\s+exit [2-7]"
)


def error_classes(root: type[SecaggError] = SecaggError) -> Iterator[type[SecaggError]]:
    for kind in root.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield kind
            yield from error_classes(kind)


@pytest.mark.parametrize(("error", "code"), EXPECTED, ids=lambda value: str(value))
def test_codes_exits_and_shape(error: SecaggError, code: str) -> None:
    explanation = explain(error, round_number=6, silo="east")
    assert explanation.code == code
    assert explanation.exit == exit_code(error) == int(code[3])
    assert SHAPE.fullmatch(explanation.text())
    assert "{" not in explanation.text()
    assert explanation.cause == str(error) or isinstance(error, TooFewSilos)


def test_the_list_above_covers_every_class_and_every_code() -> None:
    assert {type(error) for error, _ in EXPECTED} == set(error_classes())
    assert {code for _, code in EXPECTED} == set(CATALOGUE)


@pytest.mark.parametrize("code", CATALOGUE)
def test_lookup_words_each_code_in_general(code: str) -> None:
    explanation = lookup(code)
    assert explanation.code == code
    assert SHAPE.fullmatch(explanation.text())
    assert "{" not in explanation.text()
    assert lookup(code.lower()) == lookup(f" {code.removeprefix('SA-')}\n") == explanation


@pytest.mark.parametrize("code", ["SA-9999", "SA-42", "", "plain", "SA-SA-4102"])
def test_lookup_refuses_what_is_no_code(code: str) -> None:
    with pytest.raises(UsageError, match="there is no code"):
        lookup(code)


def test_lookup_suggests_the_codes_of_the_same_exit() -> None:
    with pytest.raises(UsageError, match=r"there are SA-3001, SA-3101$"):
        lookup("SA-3999")


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("code", CATALOGUE)
def test_lines_fit_the_width(code: str, width: int) -> None:
    lines = lookup(code).text(width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[-1].endswith(f"exit {code[3]}")
    assert len(lines[-1]) == width


def test_too_few_silos_reads_as_designed() -> None:
    error = TooFewSilos(3, 4, "Unmasking", ("east-clinic", "west-clinic"))
    reasons = {"west-clinic": "refused: lock"}
    assert explain(error, round_number=6, reasons=reasons).text(width=90) == (
        "x SA-4102  round 6 halted: 3 of 5 silos answered, 4 are needed in Unmasking\n"
        "  cause    east-clinic (no answer), west-clinic (refused: lock)\n"
        "  safe     yes: what arrived stays masked or encrypted and no sum was opened; the model is\n"
        "           the one of round 5\n"
        "  you can  run again once that is mended; the threshold cannot be lowered inside a run\n"
        "  they can east-clinic, west-clinic: come back, or correct the cause                exit 4"
    )


def test_silos_that_share_a_reason_share_a_place() -> None:
    error = TooFewSilos(1, 4, "MaskedInput", ("a", "b", "c", "d", "e"))
    reasons = {"a": "lost in ShareKeys", "b": "refused: lock", "d": "refused: lock", "e": "refused: lock"}
    assert explain(error, reasons=reasons).cause == (
        "a (lost in ShareKeys), b, d and e (refused: lock), c (no answer)"
    )


def test_too_few_silos_without_names_claims_no_total() -> None:
    explanation = explain(TooFewSilos(1, 4, "ShareKeys"))
    assert explanation.what == "the round halted: 1 silos answered, 4 are needed in ShareKeys"
    assert explanation.cause == "ShareKeys: 1 silos answered, 4 are needed"


def test_missing_extra_has_the_one_command() -> None:
    explanation = explain(MissingExtra("plot", "matplotlib"))
    assert explanation.you_can == "pip install 'secagg[plot]'"
    assert explanation.what == "matplotlib is needed for this and is not installed"


def test_the_silo_is_the_one_the_error_names() -> None:
    assert (
        explain(TrainerFailed("west", "ValueError")).what
        == "west left the round: its trainer raised an error"
    )
    assert explain(FaultySilo("west", "bad share"), silo="east").what.startswith("the round: west left")
    assert explain(InputRefused("nan", "NaN"), silo="east").what == "east left the round: its input holds NaN"
    assert explain(InputRefused("nan", "NaN")).what == "a silo left the round: its input holds NaN"


def test_who_does_not_come_back_was_there_and_heard_what_was_said() -> None:
    never, back = (explain(PartnersMissing(("west",), "text", met=met)) for met in (False, True))
    assert never.code == back.code == "SA-4106"
    assert back.what == "not all parties came back: west"
    assert "nothing is said" in never.safe
    assert "nothing is said" not in back.safe
    assert "it goes on from what is kept" in back.you_can
    assert SHAPE.fullmatch(back.text())


def test_a_lock_names_whose_return_would_help() -> None:
    explanation = explain(PolicyRefused("lock", "text", ("a", "b")), silo="west", round_number=2)
    assert "a, b" in explanation.you_can
    assert explanation.they_can.startswith("a, b: ")


@pytest.mark.parametrize(
    "error",
    [
        error
        for error, _ in EXPECTED
        if isinstance(error, ParameterError | InputRefused | TrainerFailed | EnvironmentFault | TrustError)
        and not isinstance(error, ProtocolError)
    ],
    ids=lambda value: str(value),
)
def test_before_any_round_no_text_speaks_of_one(error: SecaggError) -> None:
    early = explain(error, silo="west", started=False)
    assert not re.search(r"\bround\b", early.text())
    assert early.code == explain(error).code
    assert "masked" not in early.text()


def test_a_fault_of_the_machine_and_a_wrong_file_tell_of_themselves() -> None:
    fault = explain(EnvironmentFault("silo.toml is not there: create it, or correct its path"))
    assert fault.safe == "yes: because of it nothing is sent and no sum is opened; the model is unchanged"
    wrong = explain(ParameterError("silo.toml, line 3: min_silo is no key", parameter=PARAMETER))
    assert wrong.code == "SA-2007"
    assert wrong.safe == "yes: nothing was started and nothing was sent"


@pytest.mark.parametrize(
    ("number", "model"),
    [
        (1, "the model is the one the run began with"),
        (2, "the model is the one of round 1"),
        (None, "the model is unchanged"),
    ],
)
def test_which_model_there_is(number: int | None, model: str) -> None:
    assert explain(RoundAborted("text"), round_number=number).safe.endswith(model)


@pytest.mark.parametrize(("error", "code"), EXPECTED, ids=lambda value: str(value))
def test_under_plain_nothing_is_called_masked(error: SecaggError, code: str) -> None:
    shielded, bare = explain(error), explain(error, protected=False)
    assert "mask" not in bare.safe
    if "mask" in shielded.safe:
        assert (
            bare.safe
            == "no: under Plain the coordinator reads every update that arrives; the model is unchanged"
        )
    else:
        assert bare.safe == shielded.safe


def test_braces_in_an_error_are_not_filled_in() -> None:
    assert explain(UsageError("{silo} {0} {round")).cause == "{silo} {0} {round"
    assert explain(FaultySilo("{model}", "text")).what.startswith("the round: {model} left")


def test_an_error_without_text_is_explained_in_general() -> None:
    assert explain(RoundAborted()).cause == lookup("SA-4101").cause


def test_a_round_that_ends_in_training_received_nothing() -> None:
    for protected in (True, False):
        early = explain(TooFewSilos(2, 3, "Training", ("west",)), round_number=1, protected=protected)
        assert early.safe == "yes: nothing left a silo; the model is the one the run began with"


def test_what_leaves_an_explained_block_carries_one_explanation() -> None:
    @explained()
    def inner() -> None:
        raise TooFewSilos(1, 4, "ShareKeys")

    with pytest.raises(TooFewSilos) as caught, explained():
        inner()
    assert caught.value.__notes__ == [explain(caught.value).text()]


def test_the_first_explanation_stays_and_other_notes_are_no_explanation() -> None:
    error = UsageError("text")
    error.add_note("seen on a Tuesday")
    first = annotate(error, explain(error, round_number=3))
    assert annotate(error) == first == explain(error, round_number=3).text()
    assert error.__notes__ == ["seen on a Tuesday", first]


def test_foreign_errors_leave_an_explained_block_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError) as caught, explained():
        raise ZeroDivisionError
    assert not hasattr(caught.value, "__notes__")


def test_as_a_note_it_stands_under_the_traceback() -> None:
    error = TrainerFailed("west", "ValueError in train()")
    error.add_note(explain(error, round_number=3).text())
    assert error.__notes__[0].startswith("x SA-2301  west left round 3: its trainer raised an error\n")


# --- errors that the product raises find their wording --------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: Cohort.of(2),
        lambda: Cohort.of(5, c=4),
        lambda: Cohort.of(5, t=3),
        lambda: Cohort.of(5, k_min=1),
    ],
)
def test_unsafe_parameters_explain_themselves(make: type) -> None:
    with pytest.raises(ParameterError) as refused:
        make()
    explanation = explain(refused.value)
    assert explanation.exit == 2
    assert explanation.cause == str(refused.value)
    assert re.search(r"\d", explanation.cause)


def test_every_rule_of_a_policy_has_its_own_wording() -> None:
    """A rule added to ``Policy.check`` without a code would be explained by SA-6001 alone."""
    source = inspect.getsource(Policy)
    rules = set(re.findall(r"(?:PolicyRefused|_floor)\(\s*\"(\w+)\"", source))
    assert {"roster", "threshold", "scheme", "max_clip"} <= rules
    package = Path(inspect.getfile(errors)).parent
    for path in package.rglob("*.py"):  # And what is refused outside of it, such as a key.
        rules |= set(re.findall(r"PolicyRefused\(\s*\"(\w+)\"", path.read_text(encoding="utf-8")))
    assert {"key", "maker", "releases"} <= rules
    assert all(explain(PolicyRefused(rule, "")).code != "SA-6001" for rule in rules)
