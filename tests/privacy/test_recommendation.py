"""``secagg privacy plan``: its figures are those of sums with noise, and its words fit a terminal."""

from __future__ import annotations

import math
import re
import sys

import numpy as np
import pytest

from secagg import cli
from secagg.cohort import Cohort
from secagg.errors import ParameterError
from secagg.privacy.accountant import epsilon
from secagg.privacy.calibration import Privacy
from secagg.privacy.events import Release
from secagg.privacy.recommendation import Mode, ModeName, Plan, plan

ROWS, SILOS, ROUNDS, EPSILON = 4000, 5, 20, 3.0
RIGHT = {"--rows": "4000", "--silos": "5", "--rounds": "20", "--epsilon": "3", "--batch": "4000"}


@pytest.fixture(scope="module")
def sampled() -> Plan:
    return plan(ROWS, SILOS, ROUNDS, EPSILON, parameters=1000, clip=2.0, batch=400)


@pytest.fixture(scope="module")
def whole() -> Plan:
    """Every row in every step, which needs no search."""
    return plan(ROWS, SILOS, ROUNDS, EPSILON, parameters=1000, clip=2.0, batch=ROWS)


def mode(of: Plan, name: ModeName) -> Mode:
    (found,) = (mode for mode in of.modes if mode.name == name)
    return found


def changes(of: Plan) -> dict[str, dict[ModeName, float]]:
    return {
        label: {mode.name: figure for mode, figure in zip(of.modes, figures, strict=True)}
        for label, figures in of.changes
    }


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["secagg", "privacy", "plan", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capsys.readouterr()
    return int(str(ended.value.code)), captured.out, captured.err


@pytest.mark.full
def test_each_mode_keeps_to_the_budget_in_the_worst_case(sampled: Plan, whole: Plan) -> None:
    for made in (sampled, whole):
        assert [mode.name for mode in made.modes] == ["local", "record", "silo"]
        for each, reached, at_best in zip(made.modes, made.reached, made.at_best, strict=True):
            count = ROUNDS * each.steps
            release = Release(each.unit, each.noise_multiplier, each.sampling_rate, count)
            assert epsilon([release], delta=made.case.delta, unit=each.unit) == reached
            assert 0.98 * EPSILON < reached <= EPSILON
            assert at_best == reached if each.name == "local" else at_best < 0.9 * reached


def test_multipliers_are_those_that_a_run_would_calibrate(sampled: Plan) -> None:
    privacy = Privacy(EPSILON, sampled.case.delta, ROUNDS)
    local, record, silo = sampled.modes
    assert local.noise_multiplier == privacy.noise_multiplier(sampling_rate=0.1, steps=10)
    assert record.noise_multiplier == privacy.noise_multiplier(sampling_rate=0.1)
    assert silo.noise_multiplier == privacy.noise_multiplier(unit="silo")
    assert (local.sampling_rate, record.sampling_rate, silo.sampling_rate) == (0.1, 0.1, 1.0)
    assert (local.steps, record.steps, silo.steps) == (10, 1, 1)


@pytest.mark.parametrize("name", ["local", "record", "silo"])
def test_the_noise_is_that_of_sums_made_with_it(sampled: Plan, name: ModeName) -> None:
    """Silos add what they would add, and the mean update is off by what the plan says; by 2/3 it is not."""
    case, planned = sampled.case, mode(sampled, name)
    random = np.random.default_rng(7)
    cohort = Cohort.of(SILOS)
    full = planned.noise_multiplier * case.clip
    draws = 4000
    if name == "local":
        # Each silo: the mean of its noisy steps; then the mean of the silos.
        steps = random.normal(0.0, full / case.batch, (draws, SILOS, planned.steps))
        mean = steps.mean(axis=(1, 2))
    else:
        share = full / math.sqrt(cohort.min_survivors - cohort.c)
        total = random.normal(0.0, share, (draws, SILOS)).sum(axis=1)
        mean = total / (SILOS * case.batch if name == "record" else SILOS)
    assert np.std(mean) == pytest.approx(planned.noise, rel=0.06)
    assert planned.relative == pytest.approx(planned.noise * math.sqrt(1000) / 2.0)


def test_distributed_noise_gains_by_the_honest_shares(whole: Plan) -> None:
    """At equal steps: noise that is added once is less by the root of m than noise that n silos add."""
    local, record, _ = whole.modes
    cohort = Cohort.of(SILOS)
    assert local.noise_multiplier == record.noise_multiplier
    assert local.relative / record.relative == pytest.approx(math.sqrt(cohort.min_survivors - cohort.c))


def test_as_if_fewer_is_what_error_fewer_contributions_would_have(whole: Plan) -> None:
    """Of k unit vectors of chance, the mean plus the noise is as far off as the mean of k / fewer."""
    random = np.random.default_rng(11)
    for parameters, noise, k in ((50, 0.05, 40), (200, 0.01, 300)):
        planned = Mode(
            name="record",
            noise_multiplier=1.0,
            sampling_rate=1.0,
            steps=1,
            averaged=k,
            noise=noise,
            relative=noise * math.sqrt(parameters),
        )
        vectors = random.normal(size=(200, k, parameters))
        vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
        off = vectors.mean(axis=1) + random.normal(0.0, noise, (200, parameters))
        error = float(np.mean(np.sum(off**2, axis=1)))
        assert error == pytest.approx(planned.fewer / k, rel=0.05)
    assert all(mode.fewer > 1 for mode in whole.modes)


def test_what_changes_it_goes_the_way_it_should(sampled: Plan) -> None:
    others = changes(sampled)
    for name in ("local", "record", "silo"):
        now = mode(sampled, name).relative
        assert others["twice the silos"][name] < 0.8 * now
        assert others["half the rounds"][name] < now
        assert others["epsilon 6"][name] < 0.9 * now
        assert others["a tenth of the parameters"][name] == pytest.approx(now / math.sqrt(10))
    assert others["all rows in each step"]["record"] < mode(sampled, "record").relative
    assert others["all rows in each step"]["silo"] == mode(sampled, "silo").relative


def test_a_change_is_what_a_plan_of_its_own_says(whole: Plan) -> None:
    others = changes(whole)
    twice = plan(ROWS, 2 * SILOS, ROUNDS, EPSILON, parameters=1000, batch=ROWS)
    half = plan(ROWS, SILOS, ROUNDS // 2, EPSILON, parameters=1000, batch=ROWS)
    for label, other in (("twice the silos", twice), ("half the rounds", half)):
        assert others[label] == pytest.approx({mode.name: mode.relative for mode in other.modes})


def test_what_cannot_change_is_not_offered() -> None:
    labels = changes(plan(100, 3, 1, 1.0, parameters=5, batch=100)).keys()
    assert labels == {"twice the silos", "epsilon 2"}


@pytest.mark.parametrize(("rows", "delta"), [(100, 1e-5), (10_000, 1e-5), (40_000, 2.5e-6), (10**6, 1e-7)])
def test_delta_is_a_tenth_of_one_row_and_1e_5_at_the_most(rows: int, delta: float) -> None:
    made = plan(rows, 3, 1, 1.0, batch=rows)
    assert made.case.delta == pytest.approx(delta)
    assert f"at delta {delta:.3g}," in made.text().replace("\n             ", " ")
    assert plan(rows, 3, 1, 1.0, batch=rows, delta=1e-3).case.delta == 1e-3


@pytest.mark.parametrize("width", [72, 80, 110])
def test_the_text_fits_and_never_says_private_without_its_terms(sampled: Plan, width: int) -> None:
    text = sampled.text(width=width)
    assert all(len(line) <= width for line in text.splitlines())
    flat = " ".join(text.split())
    assert "5 silos of 4,000 rows, 20 rounds, 1,000 parameters, clip norm 2" in flat
    assert "epsilon 3 at delta 1e-05, for all rounds together" in flat
    assert "neighbouring data: one record, or one silo, is replaced by an empty one" in flat
    assert "a sum is opened with 4 or more, and 1 silo may collude: 3 honest shares" in flat
    for each in sampled.modes:
        assert f"{each.noise_multiplier:.4g}; " in flat
        assert f"{each.relative:.3g} over clip" in flat
    assert str(sampled) == sampled.text()


def test_the_command_prints_the_plan(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, whole: Plan
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = [word for pair in (RIGHT | {"--parameters": "1000", "--clip": "2"}).items() for word in pair]
    assert run(capsys, monkeypatch, *words) == (0, whole.text() + "\n", "")
    code, out, _ = run(capsys, monkeypatch, *words, "--colluders", "2", "--delta", "1e-4")
    assert code == 0
    assert "2 silos may collude" in " ".join(out.split())
    assert "delta 0.0001" in out


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"--rows": "0"}, "rows is 0, must be at least 1"),
        ({"--silos": "2"}, "n = 2 silos: at least 3 are needed"),
        ({"--rounds": "0"}, "rounds is 0, must be at least 1"),
        ({"--epsilon": "0"}, "epsilon is 0.0, must be above 0"),
        ({"--epsilon": "nan"}, "epsilon is nan, must be finite"),
        ({"--delta": "1"}, "delta is 1.0, must be above 0 and below 1"),
        ({"--parameters": "0"}, "parameters is 0, must be at least 1"),
        ({"--clip": "-1"}, "clip is -1.0, must be above 0"),
        ({"--batch": "0"}, "batch is 0, must be at least 1"),
        ({"--batch": "4001"}, "batch is 4,001, must be at most the 4,000 rows of a silo"),
        ({"--colluders": "4"}, "c = 4 colluders: must be 1 to n - 2 = 3"),
    ],
)
def test_wrong_input_exits_with_2_and_says_what_to_change(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str], said: str
) -> None:
    words = [word for pair in (RIGHT | wrong).items() for word in pair]
    code, out, err = run(capsys, monkeypatch, *words)
    assert (code, out) == (2, "")
    assert err.startswith("x SA-2")
    assert said in re.sub(r"\s+", " ", err)


@pytest.mark.parametrize("words", [[], ["--rows", "many"], ["--rows", "4000", "--silos", "5"]])
def test_a_mistyped_call_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    code, out, err = run(capsys, monkeypatch, *words)
    assert (code, out) == (2, "")
    assert "Traceback" not in err


def test_a_refusal_in_python_carries_its_explanation() -> None:
    with pytest.raises(ParameterError, match="rows") as refused:
        plan(1.5, 5, 20, 3.0)  # type: ignore[arg-type]
    assert refused.value.__notes__[0].startswith("x SA-2001")
