"""How much noise it takes: never too little by the account that reports use, and hardly more than that."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from secagg.errors import ParameterError
from secagg.privacy.accountant import coarse_epsilon, epsilon
from secagg.privacy.calibration import LEAST_MULTIPLIER, Privacy
from secagg.privacy.events import Release, Unit
from tests.counts import FULL, count

SAMPLED = [
    (target, delta, rate, steps)
    for target in (0.1, 1.0, 3.0, 20.0)
    for delta in (1e-9, 1e-5, 1e-2)
    for rate in (0.001, 0.01, 0.2, 0.99)
    for steps in (1, 50, 5000)
]
# 37 shares no factor with the steps of the grid, so each value of each parameter comes up.
GRID = SAMPLED[1::5] if FULL else SAMPLED[5::37]


def spent(z: float, privacy: Privacy, *, rate: float = 1.0, steps: int = 1, slack: float = 0.0) -> float:
    releases = privacy.rounds * steps
    return epsilon(
        [Release("record", z, rate, releases, releases * slack)], delta=privacy.delta, unit="record"
    )


@settings(max_examples=count(25, full=100), deadline=None)
@example(target=0.015625, power=-30.0, rounds=68776, steps=38, slack=1e-40)  # A multiplier above a million.
@given(
    target=st.floats(1e-3, 100.0),
    power=st.floats(-30.0, -1.0),
    rounds=st.integers(1, 10**5),
    steps=st.integers(1, 100),
    slack=st.sampled_from([0.0, 1e-60, 1e-40]),
)
def test_exact_noise_is_enough_and_no_more(
    target: float, power: float, rounds: int, steps: int, slack: float
) -> None:
    privacy = Privacy(target, 10.0**power, rounds)
    z = privacy.noise_multiplier(steps=steps, slack=slack)
    assert float(f"{z:.3e}") == z, "four digits"
    assert spent(z, privacy, steps=steps, slack=slack) <= target
    assert spent(0.99 * z, privacy, steps=steps, slack=slack) > target or z == LEAST_MULTIPLIER


@pytest.mark.parametrize(("target", "delta", "rate", "steps"), GRID)
def test_sampled_noise_is_enough_and_no_more(target: float, delta: float, rate: float, steps: int) -> None:
    privacy = Privacy(target, delta, 1)
    z = privacy.noise_multiplier(sampling_rate=rate, steps=steps)
    assert spent(z, privacy, rate=rate, steps=steps) <= target
    assert spent(0.99 * z, privacy, rate=rate, steps=steps) > target or z == LEAST_MULTIPLIER
    rough = privacy.rough_noise_multiplier(sampling_rate=rate, steps=steps)
    assert spent(rough, privacy, rate=rate, steps=steps) <= target
    assert z * 0.99 <= rough


@pytest.mark.parametrize("unit", ["silo", "record"])
def test_the_account_of_a_unit_is_that_of_its_own_releases(unit: Unit) -> None:
    privacy = Privacy(3.0, 1e-5, 50)
    z = privacy.noise_multiplier(unit=unit)
    assert epsilon([Release(unit, z, 1.0, 50)], delta=1e-5, unit=unit) <= 3.0
    assert epsilon([Release(unit, 0.99 * z, 1.0, 50)], delta=1e-5, unit=unit) > 3.0


def test_a_known_multiplier() -> None:
    """The least sigma for (1, 1e-5) of Balle and Wang is 3.7306; the classical formula asks for 4.84."""
    assert Privacy(1.0, 1e-5, 1).noise_multiplier() == 3.731
    assert Privacy(1.0, 1e-5, 100).noise_multiplier() == 37.31


def test_steps_are_as_good_as_rounds() -> None:
    steps = Privacy(3.0, 1e-5, 5).noise_multiplier(sampling_rate=0.05, steps=10)
    assert steps == Privacy(3.0, 1e-5, 50).noise_multiplier(sampling_rate=0.05)


@settings(max_examples=count(25, full=200), deadline=None)
@given(st.floats(0.01, 50.0), st.floats(-12.0, -2.0), st.integers(1, 1000), st.floats(1.0, 3.0))
def test_more_to_spend_takes_no_more_noise(target: float, power: float, rounds: int, more: float) -> None:
    z = Privacy(target, 10.0**power, rounds).noise_multiplier()
    assert Privacy(target * more, 10.0**power, rounds).noise_multiplier() <= z
    assert Privacy(target, min(0.5, 10.0**power * more), rounds).noise_multiplier() <= z
    assert Privacy(target, 10.0**power, rounds + 1).noise_multiplier() >= z
    assert Privacy(target, 10.0**power, rounds).noise_multiplier(slack=1e-30) >= z


def test_slack_is_of_one_step() -> None:
    privacy = Privacy(1.0, 1e-5, 100)
    z = privacy.noise_multiplier(steps=10, slack=1e-9)
    events = [Release("record", z, 1.0, 1000, 1000 * 1e-9)]
    assert epsilon(events, delta=1e-5, unit="record") <= 1.0
    # Of 1,000 steps it is a third of delta, which takes more noise; of one it would not show.
    assert z > privacy.noise_multiplier(steps=10, slack=1e-12) * 1.005


@pytest.mark.parametrize("rate", [1.0, 0.1])
@pytest.mark.parametrize(("delta", "slack"), [(1e-5, 1e-7), (1e-11, 1e-13), (0.5, 0.01)])
def test_a_slack_that_spends_delta_is_refused_with_what_to_change(
    rate: float, delta: float, slack: float
) -> None:
    with pytest.raises(ParameterError, match=r"Raise delta, or lower rounds or steps") as refused:
        Privacy(3.0, delta, 50).noise_multiplier(sampling_rate=rate, slack=slack)
    assert refused.value.__notes__[0].startswith("x SA-2001")


@pytest.mark.parametrize("rate", [1.0, pytest.param(0.1, marks=pytest.mark.full)])
def test_where_slack_takes_most_of_delta_a_smaller_epsilon_than_asked_is_taken(rate: float) -> None:
    """At epsilon 30 the slack alone is more than delta; what is asked is met all the same."""
    privacy, slack = Privacy(30.0, 1e-5, 20), 1e-12
    assert 20 * slack * math.exp(30.0) > 1e-5
    z = privacy.noise_multiplier(sampling_rate=rate, slack=slack)
    assert spent(z, privacy, rate=rate, slack=slack) < 20.0
    assert spent(0.99 * z, privacy, rate=rate, slack=slack) > 30.0


@pytest.mark.parametrize("delta", [1e-300, 1e-30, 1e-11, 0.1, 0.999])
@pytest.mark.parametrize("rate", [1.0, pytest.param(0.1, marks=pytest.mark.full)])
def test_a_delta_at_either_end_is_calibrated(delta: float, rate: float) -> None:
    privacy = Privacy(2.0, delta, 20)
    z = privacy.noise_multiplier(sampling_rate=rate)
    assert spent(z, privacy, rate=rate) <= 2.0
    assert spent(0.99 * z, privacy, rate=rate) > 2.0 or z == LEAST_MULTIPLIER


def test_what_no_account_can_prove_is_refused_with_what_to_change() -> None:
    with pytest.raises(ParameterError, match=r"raise epsilon or delta .*, or lower rounds or steps"):
        Privacy(1e-3, 1e-13, 10).noise_multiplier(sampling_rate=0.01)


def test_an_epsilon_in_the_hundreds_takes_the_least_noise() -> None:
    assert Privacy(1e6, 1e-5, 1).noise_multiplier() == LEAST_MULTIPLIER
    assert Privacy(1e4, 1e-5, 10).noise_multiplier(sampling_rate=0.01) == LEAST_MULTIPLIER


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((0.0, 1e-5, 1), "epsilon"),
        ((-1.0, 1e-5, 1), "epsilon"),
        ((math.inf, 1e-5, 1), "epsilon"),
        ((math.nan, 1e-5, 1), "epsilon"),
        (("3", 1e-5, 1), "epsilon"),
        ((True, 1e-5, 1), "epsilon"),
        ((3.0, 0.0, 1), "delta"),
        ((3.0, 1.0, 1), "delta"),
        ((3.0, math.nan, 1), "delta"),
        ((3.0, 1e-5, 0), "rounds"),
        ((3.0, 1e-5, 1.0), "rounds"),
        ((3.0, 1e-5, True), "rounds"),
    ],
)
def test_a_budget_out_of_range_is_refused(values: tuple[float, float, int], named: str) -> None:
    with pytest.raises(ParameterError, match=f"^{named} is ") as refused:
        Privacy(*values)
    assert refused.value.__notes__[0].startswith("x SA-2001")


def test_numbers_of_numpy_become_numbers() -> None:
    privacy = Privacy(np.float32(3.0), np.float64(1e-5), np.int64(50))  # type: ignore[arg-type]
    assert privacy == Privacy(3.0, 1e-5, 50)
    assert [type(value) for value in vars(privacy).values()] == [float, float, int]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"unit": "person"}, "unit"),
        ({"unit": "silo", "sampling_rate": 0.5}, "sampling_rate"),
        ({"sampling_rate": 0.0}, "sampling_rate"),
        ({"sampling_rate": 1.5}, "sampling_rate"),
        ({"sampling_rate": math.nan}, "sampling_rate"),
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"slack": -1e-9}, "slack"),
        ({"slack": 1.0}, "slack"),
        ({"slack": math.nan}, "slack"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, object], named: str) -> None:
    with pytest.raises(ParameterError, match=named):
        Privacy(3.0, 1e-5, 50).noise_multiplier(**options)  # type: ignore[arg-type]


@pytest.mark.full
def test_what_was_found_is_what_the_coarse_account_finds_nearly() -> None:
    """So that a comparison made of rough figures shows what the true ones would."""
    for target, rate, steps in ((3.0, 0.05, 50), (1.0, 0.01, 1000)):
        privacy = Privacy(target, 1e-5, steps)
        rough = privacy.rough_noise_multiplier(sampling_rate=rate)
        assert rough == pytest.approx(privacy.noise_multiplier(sampling_rate=rate), rel=0.01)
        assert coarse_epsilon([Release("record", rough, rate, steps)], delta=1e-5, unit="record") <= target
