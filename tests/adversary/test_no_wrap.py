"""Attack ``no_wrap``: make a sum leave its word, so that the model everybody adopts is silently wrong.

Three ways in: an encoding with too fine a step, a value beyond the bound, a weight over the cap. Whatever is
accepted must decode to the exact rational sum within n half steps.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from secagg.errors import InputRefused, ParameterError
from secagg.fixedpoint import Encoding, Segment, most_fraction_bits
from secagg.names import WordBits
from secagg.weighting import encode_mean, plan_mean

WORDS: tuple[WordBits, ...] = (32, 64)
BOUNDS = (1.0, 8.0, 0.1, 2.0**-30, 3e5)
COHORTS = (2, 3, 7, 8, 64)
MODEL = "update"


def attack(encoding: Encoding, vectors: list[np.ndarray[Any, Any]], weight: float | None = None) -> None:
    """Sum the silos' vectors as they would be sent; complain if the opened sum is not the sum.

    With a weight (in units of the cap) they go through ``encode_mean``, the way a silo's update does.
    """
    total = np.zeros(encoding.length, encoding.dtype)
    try:
        with np.errstate(invalid="ignore"):  # a mutant may hand NumPy what no integer holds
            for vector in vectors:
                total += (
                    encoding.encode({MODEL: vector})
                    if weight is None
                    else encode_mean(
                        encoding,
                        update=vector,
                        weight=weight * encoding.weight_cap,
                        metrics={},
                        evaluation_weight=0.0,
                    )
                )
    except InputRefused:
        return  # nothing left the silo
    segment = encoding.segments[0]
    # Weights are powers of two here, so that a weighted sum may be off by half steps only, too.
    allowed = len(vectors) * Fraction(2) ** -segment.fraction_bits / 2
    for i, opened in enumerate(encoding.decode(total)[MODEL]):
        exact = sum(Fraction(float(v[i])) for v in vectors) * Fraction(1 if weight is None else weight)
        assert abs(Fraction(float(opened)) - exact) <= allowed, "the opened sum is not the sum"


def silos(cohort: int, values: list[float]) -> list[list[np.ndarray[Any, Any]]]:
    """All silos at one extreme, all at the other, and both in turn."""
    high, low = np.array(values), -np.array(values)
    return [[high] * cohort, [low] * cohort, [high, low] * (cohort // 2)]


def test_no_wrap() -> None:
    accepted = refused = 0
    for word_bits in WORDS:
        for cohort in COHORTS:
            for bound in BOUNDS:
                most = most_fraction_bits(bound, cohort=cohort, word_bits=word_bits)
                for bits in range(most - 1, most + 6):
                    segment = Segment(MODEL, 3, bound, bits)
                    try:
                        encoding = Encoding(word_bits, cohort, (segment,))
                    except ParameterError:
                        refused += 1
                        continue
                    accepted += 1
                    # Rounded up, the largest integer may be larger than the bound itself.
                    for vectors in silos(cohort, [bound, np.nextafter(bound, 0), segment.step / 2]):
                        attack(encoding, vectors)
                for vectors in silos(cohort, [8 * bound, bound, 0.0]):
                    attack(Encoding(word_bits, cohort, (Segment(MODEL, 3, bound, most),)), vectors)
    assert accepted == len(WORDS) * len(COHORTS) * len(BOUNDS) * 2
    assert refused == accepted // 2 * 5

    for word_bits in WORDS:
        mean = plan_mean(
            1, clip=1.0, cohort=8, weight_cap=2.0**31, least_total_weight=2.0**31, word_bits=word_bits
        )
        for weight in (1.0, 0.5, 8.0, 64.0):
            for vectors in silos(8, [1.0]):
                attack(mean, vectors, weight)


def anything(*_args: object, **_named: object) -> None:
    """A check that refuses nothing."""


def any_weight(_name: str, weight: float, *, cap: float) -> float:
    return weight / cap


@pytest.mark.parametrize(
    ("defence", "mutant"),
    [
        ("secagg.fixedpoint.Encoding.__post_init__", anything),
        ("secagg.fixedpoint.refuse_bad_numbers", anything),
        ("secagg.weighting.scaled_weight", any_weight),
    ],
)
def test_no_wrap_mutant(monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Any) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match="the opened sum is not the sum"):
        test_no_wrap()
