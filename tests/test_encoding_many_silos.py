"""Sums of 2 to 64 silos, with weights to 2^31 and numbers at every edge, against exact arithmetic.

Vectors are added three ways: as integers without end, as words that wrap, and packed in plaintexts. All three
must agree, and the mean must be as near to the exact one as the planner proved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import ParameterError, RoundAborted
from secagg.fixedpoint import Encoding, plan_sum, worst_error_of_sum
from secagg.names import WordBits
from secagg.packing import Packing
from secagg.weighting import Mean, decode_mean, encode_mean, plan_mean, worst_error_of_mean

COHORTS = range(2, 65)
MOST_WEIGHT = 2**31
PLAINTEXT_BITS = 3071
ENTRIES = 3
METRIC_BOUND = 100.0

# Written out once more: a limit that was changed in the library must not change here.
LIMIT = {32: 2**31 - 1, 64: 2**53}

WORDS: tuple[WordBits, ...] = (32, 64)
words = st.sampled_from(WORDS)
cohorts = st.sampled_from([2, 3, 63, 64]) | st.integers(COHORTS.start, COHORTS.stop - 1)
clips = st.sampled_from([2.0**-20, 0.1, 1.0, 1.9, 8.0, 2.0**31]) | st.floats(1e-9, 1e9)
caps = st.sampled_from([1, 1000, MOST_WEIGHT - 1, MOST_WEIGHT]) | st.integers(1, MOST_WEIGHT)


@dataclass(frozen=True)
class Silo:
    """What one silo adds."""

    update: list[float]
    weight: int
    loss: float
    evaluation_weight: int


def values_to(bound: float, step: float) -> st.SearchStrategy[float]:
    """Numbers of magnitude up to ``bound``, most of them where an encoder could slip."""
    edges = [
        *(bound, math.nextafter(bound, 0), bound / 3),
        *(step, step / 2, 3 * step / 2, math.nextafter(step / 2, 0), math.nextafter(step / 2, 1)),
        *(0.0, 5e-324, 2.0**-1022, 2.0**-1074 * 3),
    ]
    inside = [sign * edge for edge in edges if edge <= bound for sign in (1, -1)]
    return st.sampled_from(inside) | st.floats(-bound, bound)


def weights_to(cap: int) -> st.SearchStrategy[int]:
    return st.sampled_from([0, 1, cap - 1, cap]) | st.integers(0, cap)


def step_of(encoding: Encoding, name: str) -> float:
    return next(segment.step for segment in encoding.segments if segment.name == name)


def centred(encoding: Encoding, vector: Any) -> list[int]:
    """The entries of a vector as signed integers of Python."""
    modulus = 2**encoding.word_bits
    return [entry - modulus * (entry >= modulus // 2) for entry in vector.tolist()]


def added(encoding: Encoding, vectors: Sequence[Any]) -> Any:
    """The sum of encoded vectors, which is the same in words, in integers that cannot wrap, and packed."""
    total = np.zeros(encoding.length, encoding.dtype)
    for vector in vectors:
        total += vector
    exact = [sum(column) for column in zip(*(centred(encoding, vector) for vector in vectors), strict=True)]
    assert max(map(abs, exact)) <= LIMIT[encoding.word_bits]
    assert centred(encoding, total) == exact
    packing = Packing(encoding.word_bits, encoding.cohort, PLAINTEXT_BITS)
    checks = np.full(packing.rows(encoding.length), -packing.bias)
    rows = [packing.pack(vector, checks) for vector in vectors]
    width = rows[0].shape[1]
    summed = b"".join(
        sum(int.from_bytes(row[at].tobytes(), "little") for row in rows).to_bytes(width, "little")
        for at in range(len(rows[0]))
    )
    opened = np.frombuffer(summed, np.uint8).reshape(-1, width)
    unpacked = packing.unpack(opened, checks, length=encoding.length, silos=len(vectors))
    assert unpacked.tolist() == total.tolist()
    return total


def opened_mean(encoding: Encoding, silos: Sequence[Silo]) -> Mean:
    vectors = [
        encode_mean(
            encoding,
            update=np.array(silo.update),
            weight=silo.weight,
            metrics={"loss": silo.loss},
            evaluation_weight=silo.evaluation_weight,
        )
        for silo in silos
    ]
    return decode_mean(encoding, added(encoding, vectors), silos=len(silos))


def exact_mean(values: Sequence[float], weights: Sequence[int]) -> Fraction:
    products = (Fraction(value) * weight for value, weight in zip(values, weights, strict=True))
    return sum(products, Fraction(0)) / sum(weights)


def plan(cohort: int, clip: float, cap: int, **changes: Any) -> Encoding:
    """A plan for updates and one metric; precision is not in the way."""
    settings: dict[str, Any] = {"least_total_weight": cap, "precision": 1e300}
    return plan_mean(
        ENTRIES,
        clip=clip,
        cohort=cohort,
        weight_cap=cap,
        metrics=("loss",),
        metric_bound=METRIC_BOUND,
        **(settings | changes),
    )


def draw_silos(data: st.DataObject, encoding: Encoding, clip: float, cap: int, count: int) -> list[Silo]:
    value = values_to(clip, step_of(encoding, "update"))
    weight = weights_to(cap)
    loss = values_to(METRIC_BOUND, step_of(encoding, "metric:loss"))
    update = st.lists(value, min_size=ENTRIES, max_size=ENTRIES)
    return data.draw(st.lists(st.builds(Silo, update, weight, loss, weight), min_size=count, max_size=count))


def assert_within(mean: Mean, silos: Sequence[Silo], bound: float) -> None:
    weights = [silo.weight for silo in silos]
    assert mean.values is not None
    for i in range(ENTRIES):
        off = abs(Fraction(mean.values[i]) - exact_mean([silo.update[i] for silo in silos], weights))
        assert off <= min(bound, mean.worst_error)


@given(word_bits=words, cohort=cohorts, clip=clips, cap=caps, data=st.data())
def test_a_mean_of_many_silos_is_within_its_proven_error(
    word_bits: WordBits, cohort: int, clip: float, cap: int, data: st.DataObject
) -> None:
    encoding = plan(cohort, clip, cap, word_bits=word_bits)
    silos = draw_silos(data, encoding, clip, cap, data.draw(st.sampled_from([cohort, (cohort + 1) // 2])))
    weight = sum(silo.weight for silo in silos)
    bound = worst_error_of_mean(encoding, weight)
    try:
        mean = opened_mean(encoding, silos)
    except RoundAborted:
        assert bound == math.inf  # So little weight that rounding may have swallowed it.
        return
    if weight:
        assert_within(mean, silos, bound)
    evaluations = [silo.evaluation_weight for silo in silos]
    if mean.evaluation_weight > 0:
        off = abs(Fraction(mean.metrics["loss"]) - exact_mean([silo.loss for silo in silos], evaluations))
        assert off <= mean.metric_error


@given(cohort=cohorts, clip=clips, cap=caps, digits=st.integers(2, 60), data=st.data())
def test_a_plan_keeps_the_precision_it_was_asked_for_or_is_refused(
    cohort: int, clip: float, cap: int, digits: int, data: st.DataObject
) -> None:
    silos = draw_silos(data, plan(cohort, clip, cap), clip, cap, cohort)
    weight = sum(silo.weight for silo in silos)
    precision = clip * 2.0**-digits
    if not weight:
        return
    try:
        # For exactly what they weigh: the planner's promise has no slack of weights.
        encoding = plan(cohort, clip, cap, least_total_weight=weight, precision=precision)
    except ParameterError:
        # Not on a whim: twice what the half steps of a plan in 64 bits cost is more than was allowed.
        finest = plan(cohort, clip, cap, word_bits=64)
        steps = Fraction(step_of(finest, "update")) + Fraction(clip) * Fraction(step_of(finest, "weight"))
        roundoff = Fraction(clip) * Fraction(2) ** -48
        share = Fraction(weight, cap)
        lost = cohort * (steps + roundoff)
        assert share <= lost or 2 * lost / share > precision
        return
    assert worst_error_of_mean(encoding, weight) <= precision
    assert_within(opened_mean(encoding, silos), silos, precision)


@pytest.mark.parametrize("word_bits", WORDS)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("clip", [1.0, 0.1, 2.0**31, 2.0**-40])
def test_all_silos_at_the_clip_with_the_most_weight_do_not_wrap(
    word_bits: WordBits, sign: int, clip: float
) -> None:
    silo = Silo([sign * clip] * ENTRIES, MOST_WEIGHT, sign * METRIC_BOUND, MOST_WEIGHT)
    for cohort in COHORTS:
        encoding = plan(cohort, clip, MOST_WEIGHT, word_bits=word_bits)
        mean = opened_mean(encoding, [silo] * cohort)
        assert_within(mean, [silo] * cohort, worst_error_of_mean(encoding, cohort * MOST_WEIGHT))
        assert abs(mean.weight - cohort * MOST_WEIGHT) <= cohort * MOST_WEIGHT * step_of(encoding, "weight")
        assert abs(mean.metrics["loss"] - sign * METRIC_BOUND) <= mean.metric_error


@pytest.mark.parametrize("word_bits", WORDS)
def test_no_plan_leaves_a_bit_unused(word_bits: WordBits) -> None:
    for cohort in COHORTS:
        for segment in plan(cohort, 0.7, MOST_WEIGHT, word_bits=word_bits).segments:
            finer = round(Fraction(segment.bound) * Fraction(2) ** (segment.fraction_bits + 1))
            assert cohort * segment.largest <= LIMIT[word_bits] < cohort * finer


@pytest.mark.parametrize("cohort", [2, 3, 17, 64])
@pytest.mark.parametrize("clip", [0.1, 1.0, 1.9])
def test_the_proven_error_is_nearly_reached(cohort: int, clip: float) -> None:
    """By that pair of a million whose product rounds up most while its weight rounds down, or against."""
    encoding = plan(cohort, clip, MOST_WEIGHT, word_bits=32)
    drawn = np.random.default_rng(0)
    values = drawn.uniform(0.98, 1, 10**6) * clip
    weights = drawn.integers(MOST_WEIGHT // 3, MOST_WEIGHT // 2, 10**6)
    off = np.zeros(10**6)
    for part, name, sign in ((values, "update", 1), (1.0, "weight", -clip)):
        scaled = part * (weights / MOST_WEIGHT) / step_of(encoding, name)
        off = off + sign * (np.rint(scaled) - scaled) * step_of(encoding, name)
    worst = int(np.abs(off).argmax())
    value, weight = float(values[worst]), int(weights[worst])
    silos = [Silo([value] * ENTRIES, weight, 0.0, 0)] * cohort
    mean = opened_mean(encoding, silos)
    bound = worst_error_of_mean(encoding, cohort * weight)
    assert_within(mean, silos, bound)
    assert mean.values is not None
    assert abs(Fraction(mean.values[0]) - Fraction(value)) >= Fraction(9, 10) * Fraction(bound)


@pytest.mark.parametrize("word_bits", WORDS)
def test_precision_that_no_step_gives_is_refused_not_bought_with_head_room(word_bits: WordBits) -> None:
    for cohort in COHORTS:
        for clip in (1.0, 0.3, 2.0**31):
            encoding = plan(cohort, clip, MOST_WEIGHT, word_bits=word_bits)
            worst = worst_error_of_mean(encoding, MOST_WEIGHT)
            assert plan(cohort, clip, MOST_WEIGHT, word_bits=word_bits, precision=worst) == encoding
            for precision in (math.nextafter(worst, 0), step_of(encoding, "update") / 2, 5e-324):
                with pytest.raises(ParameterError, match=f"with {word_bits} bits the mean may be off by"):
                    plan(cohort, clip, MOST_WEIGHT, word_bits=word_bits, precision=precision)


@given(cohort=cohorts, clip=st.floats(5e-324, 1.7e308), word_bits=words, sign=st.sampled_from([1, -1]))
def test_a_clip_of_any_size_is_summed_within_its_error_or_refused(
    cohort: int, clip: float, word_bits: WordBits, sign: int
) -> None:
    try:
        encoding = plan_sum(2, clip=clip, cohort=cohort, word_bits=word_bits)
    except ParameterError:
        # Steps end at 2^512 and 2^-512: only beyond them is nothing left to plan.
        room = LIMIT[word_bits] // cohort
        assert clip * 2.0**512 < 1 or clip * 2.0**-512 > room // 2
        return
    tiny = min(clip, 5e-324)
    total = added(encoding, [encoding.encode({"sum": [sign * clip, sign * tiny]})] * cohort)
    for got, value in zip(encoding.decode(total)["sum"], (clip, tiny), strict=True):
        off = abs(Fraction(got) - cohort * sign * Fraction(value))
        assert off <= Fraction(worst_error_of_sum(encoding))


@given(cohort=cohorts, word_bits=words, clip=clips, data=st.data())
def test_unweighted_sums_of_many_silos_agree_however_they_are_added(
    cohort: int, word_bits: WordBits, clip: float, data: st.DataObject
) -> None:
    encoding = plan_sum(ENTRIES, clip=clip, cohort=cohort, word_bits=word_bits)
    value = values_to(clip, encoding.segments[0].step)
    one = st.lists(value, min_size=ENTRIES, max_size=ENTRIES)
    updates = data.draw(st.lists(one, min_size=cohort, max_size=cohort))
    decoded = encoding.decode(added(encoding, [encoding.encode({"sum": update}) for update in updates]))
    for got, column in zip(decoded["sum"], zip(*updates, strict=True), strict=True):
        off = abs(Fraction(got) - sum(map(Fraction, column), Fraction(0)))
        assert off <= Fraction(worst_error_of_sum(encoding))
