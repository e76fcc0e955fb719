"""Attack ``bad_numbers``: hand a silo input that would poison the sum, or become garbage without a word.

One NaN makes the model of every silo NaN; a wrong shape or dtype is cast or broadcast into another vector.
Each must be refused by name at the silo, in a text without the value; odd memory layouts must not matter.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from secagg.errors import InputRefused
from secagg.fixedpoint import BLOCK, plan_sum
from secagg.weighting import encode_mean, plan_mean

LENGTH = BLOCK + 7
PLANTED = 987.0625
"""Beyond every bound, and easy to find in a text."""

SUM = plan_sum(LENGTH, clip=4.0, cohort=5)
MEAN = plan_mean(LENGTH, clip=4.0, cohort=5, weight_cap=100.0, least_total_weight=50.0, metrics=("loss",))


def poisoned(value: float, dtype: Any = np.float64) -> np.ndarray[Any, Any]:
    vector = np.zeros(LENGTH, dtype)
    vector[-3] = value  # in the last, short block
    return vector


VECTORS: list[tuple[str, Any]] = [
    ("nan", poisoned(math.nan)),
    ("nan", poisoned(math.nan, np.float32)),
    ("infinite", poisoned(math.inf)),
    ("infinite", poisoned(-math.inf, np.float32)),
    ("shape", np.zeros(LENGTH + 1)),
    ("shape", np.zeros(1)),
    ("shape", np.zeros(0)),
    ("shape", np.zeros((1, LENGTH))),
    ("shape", PLANTED),
    ("dtype", poisoned(PLANTED, np.complex128)),
    ("dtype", poisoned(PLANTED, np.float16)),
    ("dtype", poisoned(PLANTED, object)),
    ("dtype", np.array([str(PLANTED)] * LENGTH)),
    ("dtype", np.zeros(LENGTH, bool)),
    ("dtype", [[PLANTED], [PLANTED, PLANTED]]),
]


def silo(**changes: Any) -> dict[str, Any]:
    good = {"update": np.zeros(LENGTH), "weight": 1.0, "metrics": {"loss": 1.0}, "evaluation_weight": 1.0}
    return good | changes


SILOS: list[tuple[str, dict[str, Any]]] = [
    *((rule, silo(update=vector)) for rule, vector in VECTORS),
    *((rule, silo(update=vector, weight=0.0)) for rule, vector in VECTORS),
    *(("weight", silo(weight=weight)) for weight in (math.nan, math.inf, -1.0, PLANTED, str(PLANTED))),
    *(("weight", silo(evaluation_weight=weight)) for weight in (math.nan, math.inf, -1.0, PLANTED)),
    ("metric", silo(metrics={"loss": math.nan})),
    ("metric", silo(metrics={"loss": str(math.nan)})),
    ("metric", silo(metrics={"loss": None})),
    ("metric", silo(metrics={"loss": 1.0, "more": PLANTED})),
    ("metric", silo(metrics={})),
    ("layout", silo(update=None)),
]


def attack(encode: Any, *arguments: Any, **named: Any) -> str:
    """Return the rule that refused, or what happened instead."""
    try:
        with np.errstate(all="ignore"):
            encode(*arguments, **named)
    except InputRefused as refusal:
        return refusal.rule if "987" not in str(refusal) else "the text holds the value"
    except (ArithmeticError, TypeError, ValueError) as error:
        return f"leaked {type(error).__name__}"
    return "encoded"


def test_bad_numbers() -> None:
    assert attack(SUM.encode, {"sum": np.zeros(LENGTH)}) == "encoded"
    assert attack(encode_mean, MEAN, **silo()) == "encoded"

    for rule, vector in [*VECTORS, ("bound", poisoned(PLANTED)), ("bound", poisoned(987, np.int64))]:
        assert attack(SUM.encode, {"sum": vector}) == rule
    for rule, bad in SILOS:
        assert attack(encode_mean, MEAN, **bad) == rule

    values = np.random.default_rng(6).uniform(-4, 4, (LENGTH, 3)).astype(np.float32)
    expected = SUM.encode({"sum": values[:, 1].astype(np.float64)})
    for layout in (values[:, 1], np.asfortranarray(values)[:, 1], values[::-1, 1].copy()[::-1]):
        assert np.array_equal(SUM.encode({"sum": layout}), expected)


def anything(*_args: object, **_named: object) -> None:
    """A check that refuses nothing."""


@pytest.mark.parametrize(
    ("defence", "mutant"),
    [
        ("secagg.fixedpoint.refuse_bad_numbers", anything),
        ("secagg.fixedpoint.real_vector", lambda _segment, values: np.asarray(values)),
        ("secagg.weighting.real_vector", lambda _segment, values: np.asarray(values)),
        ("secagg.weighting.scaled_weight", lambda _name, weight, *, cap: float(weight) / cap),
        ("secagg.weighting.saturate", lambda _name, value, *, bound: (min(float(value), bound), False)),
    ],
)
def test_bad_numbers_mutant(monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Any) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError):
        test_bad_numbers()
