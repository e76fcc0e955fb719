"""``secure_sum`` and ``secure_mean``: right to the promised error, and refusals before anything is sent."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import secagg
from secagg.errors import InputRefused, ParameterError, RoundAborted, TooFewSilos
from secagg.masking.params import Masking
from secagg.plain import Plain
from secagg.sums import policy_for, secure_mean, secure_sum
from secagg.terms import MaskingParameters, PlainParameters

VECTORS = {s: np.linspace(-2, 2, 5) * (i + 1) / 4 for i, s in enumerate(("a", "b", "c", "d"))}
WEIGHTS = {"a": 120.0, "b": 4000.0, "c": 31.0, "d": 77.0}
SCHEMES = pytest.mark.parametrize("scheme", [Masking(), Plain(), None], ids=["Masking", "Plain", "default"])


@SCHEMES
def test_the_public_example(scheme: Any) -> None:
    result = secagg.secure_sum(VECTORS, scheme=scheme, clip=8.0, dropouts={"b": "MaskedInput"})
    assert result.survivors == ("a", "c", "d")
    exact = VECTORS["a"] + VECTORS["c"] + VECTORS["d"]
    assert np.abs(result.total - exact).max() <= result.report.worst_error
    assert result.total.dtype == np.float64
    mean = secagg.secure_mean(VECTORS, weights=WEIGHTS, scheme=scheme, clip=8.0)
    assert mean.survivors == ("a", "b", "c", "d")
    expected = sum(WEIGHTS[s] * VECTORS[s] for s in VECTORS) / sum(WEIGHTS.values())
    assert np.abs(mean.mean - expected).max() <= mean.report.worst_error <= 1e-6
    assert mean.weight == pytest.approx(sum(WEIGHTS.values()), abs=1e-6)


@given(st.data())
def test_the_sum_is_exact_and_each_entry_was_rounded_by_half_a_step(data: st.DataObject) -> None:
    """Guarantee, in exact rationals."""
    n = data.draw(st.integers(3, 5))
    entries = st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3)
    vectors = {f"s{i}": data.draw(entries) for i in range(n)}
    bits = data.draw(st.sampled_from((4, 16)))
    result = secure_sum(vectors, clip=4.0, fraction_bits=bits, word_bits=data.draw(st.sampled_from((32, 64))))
    step = Fraction(1, 2**bits)
    for i, opened in enumerate(result.total):
        rounded = sum(round(Fraction(vectors[s][i]) / step) for s in vectors)
        assert Fraction(float(opened)) == rounded * step
    assert result.report.worst_error == n * float(step) / 2


def test_report_says_who_what_and_how_much() -> None:
    ticks = itertools.count()
    result = secure_sum(
        VECTORS, clip=8.0, dropouts={"b": "Unmasking"}, timer=lambda: float(next(ticks)), word_bits=64
    )
    report = result.report
    assert (report.n, report.c, report.t, report.attempts) == (4, 1, 3, 1)
    assert report.survivors == ("a", "b", "c", "d")
    assert report.dropouts == {"b": "Unmasking"}
    assert (report.parameters, report.word_bits) == (5, 64)
    assert report.bytes_up["MaskedInput"] > 4 * 8 * 5
    assert report.seconds["MaskedInput"] > 0
    clipped = secure_mean(VECTORS, weights=WEIGHTS, clip=1.0).report.clipped_share
    assert clipped is not None
    assert clipped > 0


@SCHEMES
@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ([0.0] * 4 + [math.nan], "nan"),
        ([0.0] * 4 + [math.inf], "infinite"),
        ([0.0] * 4 + [8.5], "bound"),
        ([0.0] * 4, "shape"),
        ([[0.0]] * 5, "shape"),
        (0.0, "shape"),
        ([], "shape"),
        (["x"] * 5, "dtype"),
        ([1j] * 5, "dtype"),
        ([[0.0], [0.0, 1.0]], "shape"),
    ],
    ids=str,
)
def test_a_bad_vector_is_refused_by_name(scheme: Any, change: Any, rule: str) -> None:
    with pytest.raises(InputRefused) as refused:
        secure_sum(VECTORS | {"c": change}, scheme=scheme, clip=8.0)
    assert refused.value.rule == rule
    assert "c" in str(refused.value)
    assert "8.5" not in str(refused.value)


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf, 2.0**20 + 1, "many"])
def test_a_bad_weight_is_refused_by_name(weight: Any) -> None:
    with pytest.raises(InputRefused) as refused:
        secure_mean(VECTORS, weights=WEIGHTS | {"c": weight}, clip=8.0)
    assert refused.value.rule == "weight"
    assert "c: " in str(refused.value)


def test_a_clip_is_a_refusal_in_a_sum_and_a_clip_in_a_mean() -> None:
    large = VECTORS | {"a": np.full(5, 100.0)}
    with pytest.raises(InputRefused):
        secure_sum(large, clip=8.0)
    mean = secure_mean(large, weights=dict.fromkeys(VECTORS, 1.0), clip=8.0)
    assert mean.report.clipped_share == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize(
    "named",
    [
        {"clip": 0.0},
        {"clip": -1.0},
        {"clip": math.nan},
        {"clip": math.inf},
        {"clip": 8.0, "word_bits": 16},
        {"clip": 8.0, "fraction_bits": 60},
        {"clip": 8.0, "word_bits": 32, "precision": 1e-12},
        {"clip": 8.0, "scheme": Masking(colluders=3)},
        {"clip": 8.0, "scheme": Masking(threshold=3, colluders=2)},
        {"clip": 8.0, "scheme": Masking(min_honest=5)},
        {"clip": 8.0, "dropouts": {"x": "Unmasking"}},
        {"clip": 8.0, "dropouts": {"a": "Unknown"}},
    ],
    ids=str,
)
def test_unsafe_parameters_are_refused(named: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        secure_sum(VECTORS, **named)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_a_sum_of_fewer_than_three_is_none(n: int) -> None:
    few = dict(list(VECTORS.items())[:n])
    with pytest.raises(ParameterError, match="at least 3"):
        secure_sum(few, clip=8.0)
    with pytest.raises(ParameterError, match="at least 3"):
        secure_mean(few, weights=dict.fromkeys(few, 1.0), clip=8.0)


def test_no_silo_at_all_is_refused_in_plain_too() -> None:
    with pytest.raises(ParameterError):
        secure_sum({}, scheme=Plain(), clip=8.0)
    with pytest.raises(ParameterError):
        secure_mean({}, weights={}, scheme=Plain(), clip=8.0)


def test_weights_are_for_the_same_silos() -> None:
    for weights in ({}, {"a": 1.0}, WEIGHTS | {"x": 1.0}):
        with pytest.raises(ParameterError, match="same silos"):
            secure_mean(VECTORS, weights=weights, clip=8.0)


def test_a_total_weight_of_zero_has_no_mean() -> None:
    with pytest.raises(RoundAborted):
        secure_mean(VECTORS, weights=dict.fromkeys(VECTORS, 0.0), clip=8.0)


def test_one_silo_too_many_lost_aborts() -> None:
    named: Any = {"clip": 8.0, "dropouts": {"a": "Unmasking", "b": "MaskedInput"}}
    with pytest.raises(TooFewSilos):
        secure_sum(VECTORS, **named)
    with pytest.raises(TooFewSilos):
        secure_mean(VECTORS, weights=WEIGHTS, **named)


def test_calls_do_not_meet_each_others_locks() -> None:
    for lost in ("a", "b", "c"):
        result = secure_sum(VECTORS, clip=8.0, dropouts={lost: "MaskedInput"})
        assert lost not in result.survivors


def test_inputs_are_not_changed() -> None:
    before = {silo: vector.tobytes() for silo, vector in VECTORS.items()}
    secure_sum(VECTORS, clip=8.0)
    secure_mean(VECTORS, weights=WEIGHTS, clip=0.25)
    assert {silo: vector.tobytes() for silo, vector in VECTORS.items()} == before


def test_a_simulated_silo_agrees_to_what_its_caller_chose() -> None:
    parameters = Masking(colluders=2, min_honest=3).parameters(7)
    policy = policy_for(parameters)
    assert isinstance(parameters, MaskingParameters)
    assert policy.colluders == parameters.cohort.c == 2
    assert policy.min_honest == 3
    assert policy.schemes == {"masking"}
    assert policy_for(PlainParameters()).schemes == {"plain"}
    assert secure_sum(VECTORS, scheme=Masking(threshold=4), clip=8.0).report.t == 4


def test_no_seconds_are_shown_that_nobody_measured() -> None:
    vectors = {name: np.ones(3) for name in "abcd"}
    untimed = secure_sum(vectors, clip=2.0).report
    assert untimed.seconds == {}
    assert "seconds" not in untimed.text()
    assert "0.000" not in untimed.text()
    ticks = iter(range(1000))
    timed = secure_sum(vectors, clip=2.0, timer=lambda: float(next(ticks))).report
    assert "seconds" in timed.text()


@pytest.mark.parametrize("word_bits", [32, 64])
def test_a_total_weight_below_the_planned_one_is_said_and_one_that_rounding_moved_is_not(
    word_bits: int,
) -> None:
    vectors = {"a": [1 / 3], "b": [0.5], "c": [0.7]}
    asked: dict[str, Any] = {"clip": 1.0, "word_bits": word_bits, "weight_cap": 300.0, "precision": 1e-3}
    weights = {"a": 17.1, "b": 33.3, "c": 49.7}
    total = sum(weights.values())
    held = secure_mean(vectors, weights=weights, least_total_weight=total, **asked).report
    assert held.unmet_weight is None
    assert held.worst_error <= 1e-3 * (1 + 1e-3)
    short = secure_mean(vectors, weights=weights, least_total_weight=total + 1, **asked).report
    assert short.unmet_weight == total + 1
    assert "that precision was planned for: lower least_total_weight" in " ".join(short.text().split())
    assert "planned for" not in held.text(width=400)


def test_the_weight_that_decides_is_the_one_that_was_opened() -> None:
    """All silos together reach the planned weight, and three of them do not."""
    vectors = {name: [0.5] for name in "abcd"}
    asked: dict[str, Any] = {
        "clip": 1.0,
        "weights": dict.fromkeys("abcd", 100.0),
        "least_total_weight": 350.0,
    }
    assert secure_mean(vectors, **asked).report.unmet_weight is None
    assert secure_mean(vectors, dropouts={"d": "MaskedInput"}, **asked).report.unmet_weight == 350.0
