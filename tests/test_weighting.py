"""The weighted mean against exact rational arithmetic, its proven error, and every refusal by name."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from secagg.errors import InputRefused, ParameterError, RoundAborted, UsageError
from secagg.fixedpoint import BLOCK, Encoding
from secagg.names import WordBits
from secagg.weighting import Mean, decode_mean, encode_mean, plan_mean, worst_error_of_mean

WORDS: tuple[WordBits, ...] = (32, 64)
words = st.sampled_from(WORDS)


def plan(length: int = 3, **changes: Any) -> Encoding:
    """A small plan whose precision is not in the way."""
    settings: dict[str, Any] = {
        "clip": 2.0,
        "cohort": 4,
        "weight_cap": 100.0,
        "least_total_weight": 1.0,
        "precision": 1.0,
    }
    return plan_mean(length, **(settings | changes))


def opened(encoding: Encoding, *silos: dict[str, Any]) -> Mean:
    """The mean of the silos' inputs; an input leaves out what the plan has no use for."""
    total = np.zeros(encoding.length, encoding.dtype)
    for silo in silos:
        nothing: dict[str, Any] = {"update": None, "weight": 0.0, "metrics": {}, "evaluation_weight": 0.0}
        total += encode_mean(encoding, **(nothing | silo))
    return decode_mean(encoding, total, silos=len(silos))


def exact_mean(values: list[float], weights: list[float]) -> Fraction:
    products = (Fraction(value) * Fraction(weight) for value, weight in zip(values, weights, strict=True))
    return sum(products, Fraction(0)) / sum(Fraction(weight) for weight in weights)


def refusal_of(encoding: Encoding, **silo: Any) -> InputRefused:
    good: dict[str, Any] = {
        "update": np.zeros(3),
        "weight": 1.0,
        "metrics": {"loss": 0.5},
        "evaluation_weight": 1.0,
    }
    encode_mean(encoding, **good)
    with pytest.raises(InputRefused) as refusal:
        encode_mean(encoding, **(good | silo))
    return refusal.value


@given(
    word_bits=words,
    clip=st.floats(1e-6, 1e6) | st.sampled_from([0.1, 1.0, 8.0]),
    cap=st.floats(1e-3, 2.0**31) | st.sampled_from([1.0, 1000.0, 2.0**31]),
    cohort=st.integers(1, 64),
    data=st.data(),
)
def test_no_mean_is_off_by_more_than_the_proven_bound(
    word_bits: WordBits, clip: float, cap: float, cohort: int, data: st.DataObject
) -> None:
    encoding = plan(1, clip=clip, cohort=cohort, weight_cap=cap, least_total_weight=cap, precision=clip)
    silo = st.tuples(
        st.floats(-clip, clip) | st.sampled_from([clip, -clip]),
        st.floats(0, cap) | st.sampled_from([cap, cap / 3, cap * 1e-6]),
    )
    silos = data.draw(st.lists(silo, min_size=1, max_size=cohort))
    values, weights = [value for value, _ in silos], [weight for _, weight in silos]
    true_bound = worst_error_of_mean(encoding, math.fsum(weights))
    try:
        mean = opened(encoding, *({"update": np.array([v]), "weight": w} for v, w in silos))
    except RoundAborted:
        assert true_bound == math.inf
        return
    assert mean.values is not None
    off = abs(Fraction(mean.values[0]) - exact_mean(values, weights)) if sum(weights) else Fraction(0)
    assert off <= true_bound
    assert off <= mean.worst_error  # from the opened weight, which is all that a silo sees


@pytest.mark.parametrize("word_bits", WORDS)
@pytest.mark.parametrize("weight", [2.0**31, 2.0**31 / 3, 1e4])
@pytest.mark.parametrize("clip", [0.1, 1.0, 7.3])
@pytest.mark.parametrize("signs", [(1, 1), (-1, -1), (1, -1)])
def test_the_bound_holds_at_the_extremes(
    word_bits: WordBits, weight: float, clip: float, signs: tuple[int, int]
) -> None:
    encoding = plan(
        1,
        clip=clip,
        cohort=64,
        weight_cap=2.0**31,
        least_total_weight=64 * 1e4,
        word_bits=word_bits,
        precision=clip,
    )
    values = [clip * signs[i % 2] for i in range(64)]
    mean = opened(encoding, *({"update": np.array([value]), "weight": weight} for value in values))
    assert mean.values is not None
    off = abs(Fraction(mean.values[0]) - exact_mean(values, [weight] * 64))
    assert off <= worst_error_of_mean(encoding, 64 * weight)
    assert off <= mean.worst_error


@pytest.mark.parametrize(("word_bits", "times"), [(32, 3), (64, 20)])
def test_the_proven_bound_is_a_few_times_an_error_that_happens(word_bits: WordBits, times: int) -> None:
    encoding = plan(1, clip=1.0, cohort=4, weight_cap=1.0, word_bits=word_bits)
    tie = encoding.segments[0].step / 2
    mean = opened(encoding, *[{"update": np.array([tie]), "weight": 1.0}] * 4)
    assert mean.values is not None
    off = abs(mean.values[0] - tie)
    # With 64 bits a step is as small as float64's own roundoff, for which the bound is generous.
    assert off <= mean.worst_error < times * off


def test_the_bound_promises_nothing_for_a_weight_that_rounding_can_swallow() -> None:
    encoding = plan()
    assert worst_error_of_mean(encoding, 0.0) == math.inf
    assert worst_error_of_mean(encoding, 100 * 2.0**-33) == math.inf
    assert worst_error_of_mean(encoding, 1.0) < math.inf


@given(
    weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=4),
    losses=st.lists(st.floats(-10, 10), min_size=4, max_size=4),
)
def test_metrics_are_means_by_evaluation_weight(weights: list[float], losses: list[float]) -> None:
    encoding = plan(0, metrics=("loss", "dice"), metric_bound=10.0)
    losses = losses[: len(weights)]
    mean = opened(
        encoding,
        *(
            {"metrics": {"loss": loss, "dice": 0.5}, "evaluation_weight": weight}
            for loss, weight in zip(losses, weights, strict=True)
        ),
    )
    assert mean.values is None
    assert abs(Fraction(mean.metrics["loss"]) - exact_mean(losses, weights)) <= mean.worst_error
    assert abs(mean.metrics["dice"] - 0.5) <= mean.worst_error
    assert mean.worst_error <= worst_error_of_mean(encoding, 0.99 * sum(weights))
    assert mean.evaluation_weight == pytest.approx(sum(weights), abs=1e-6)


def test_a_mean_says_what_was_summed() -> None:
    mean = opened(
        plan(metrics=("loss",), metric_bound=4.0),
        {
            "update": np.array([1.0, 2.5, -9.0]),
            "weight": 75,
            "metrics": {"loss": 5.0},
            "evaluation_weight": 25,
        },
        {
            "update": np.array([0.0, 1.0, -1.0]),
            "weight": 25,
            "metrics": {"loss": 0.0},
            "evaluation_weight": 75,
        },
    )
    assert mean.values is not None
    assert mean.values.tolist() == [0.75, 1.75, -1.75]
    assert (mean.weight, mean.evaluation_weight, mean.saturated) == (100.0, 100.0, 1)
    assert mean.clipped == pytest.approx(1 / 3, abs=1e-8)
    assert mean.metrics == {"loss": 1.0}
    assert 0 < mean.worst_error < 1e-6


def test_the_same_total_gives_the_quotient_bit_for_bit() -> None:
    encoding = plan(BLOCK + 1)
    update = np.random.default_rng(3).uniform(-2, 2, BLOCK + 1)
    nothing: dict[str, Any] = {"metrics": {}, "evaluation_weight": 0}
    total = encode_mean(encoding, update=update, weight=33.3, **nothing)
    numerator, weight = encoding.decode(total)["update"], encoding.decode(total)["weight"][0]
    mean = decode_mean(encoding, total, silos=1)
    assert mean.values is not None
    assert mean.values.tobytes() == np.array([float(n) / float(weight) for n in numerator]).tobytes()
    assert decode_mean(encoding, total, silos=1).values is not mean.values  # the total itself is left alone


@pytest.mark.parametrize("word_bits", WORDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("clip", [2.0, 0.1])  # float32 has no 0.1
def test_clipping_equals_encoding_the_clipped_vector(word_bits: WordBits, dtype: Any, clip: float) -> None:
    length = 2 * BLOCK + 5
    update = (3 * np.random.default_rng(4).standard_normal(length)).astype(dtype)
    update[:BLOCK] = 0  # a first block that needs no clipping
    before = update.copy()
    update.setflags(write=False)
    encoding = plan(length, clip=clip, word_bits=word_bits)
    encoded = encode_mean(encoding, update=update, weight=40.0, metrics={}, evaluation_weight=0.0)
    clipped = np.clip(update.astype(np.float64), -clip, clip)
    share = np.count_nonzero(np.abs(update.astype(np.float64)) > clip) / length
    scalars = {"weight": 1.0, "clipped": share, "evaluation_weight": 1.0, "saturated": 0.0}
    expected = encoding.encode(
        {"update": clipped} | {name: np.array([value]) for name, value in scalars.items()},
        factors={"update": 0.4, "weight": 0.4, "evaluation_weight": 0.0},
    )
    assert 0 < share < 1
    assert np.array_equal(encoded, expected)
    assert np.array_equal(update, before)


def test_a_strided_update_and_an_out_buffer_give_the_same_vector() -> None:
    wide = np.random.default_rng(5).uniform(-3, 3, (BLOCK + 2, 2)).astype(np.float32)
    encoding = plan(BLOCK + 2)
    nothing: dict[str, Any] = {"weight": 3.0, "metrics": {}, "evaluation_weight": 0}
    room = np.zeros(encoding.length + 1, np.uint32)
    encode_mean(encoding, update=wide[:, 1], out=room[:-1], **nothing)
    assert np.array_equal(room[:-1], encode_mean(encoding, update=wide[:, 1].copy(), **nothing))
    with pytest.raises(UsageError, match="out"):
        encode_mean(encoding, update=wide[:, 1], out=room, **nothing)


@pytest.mark.parametrize(
    ("rule", "update"),
    [
        ("nan", np.array([0, 9, math.nan])),
        ("infinite", np.array([0, 9, math.inf])),
        ("infinite", np.array([0, -math.inf, 9], np.float32)),
        ("shape", np.zeros(4)),
        ("shape", np.zeros((3, 1))),
        ("dtype", np.zeros(3, complex)),
        ("dtype", np.zeros(3, object)),
        ("layout", None),
    ],
)
def test_a_bad_update_is_refused_even_with_weight_zero(rule: str, update: NDArray[Any] | None) -> None:
    for weight in (1.0, 0.0):
        assert refusal_of(plan(metrics=("loss",)), update=update, weight=weight).rule == rule


def test_an_update_in_a_metrics_only_sum_is_refused() -> None:
    with pytest.raises(InputRefused) as refusal:
        opened(plan(0, metrics=("loss",)), {"update": np.zeros(3)})
    assert refusal.value.rule == "layout"


@pytest.mark.parametrize("name", ["weight", "evaluation_weight"])
@pytest.mark.parametrize("bad", [-1e-9, -math.inf, math.nan, math.inf, 100.0625, "many", None])
def test_a_bad_weight_is_refused_without_its_value(name: str, bad: Any) -> None:
    refusal = refusal_of(plan(metrics=("loss",)), **{name: bad})
    assert refusal.rule == "weight"
    assert str(refusal).startswith(name)
    assert "0625" not in str(refusal)


@pytest.mark.parametrize("bad", [math.nan, "low", None])
def test_a_bad_metric_is_refused_by_its_name(bad: Any) -> None:
    refusal = refusal_of(plan(metrics=("loss",)), metrics={"loss": bad})
    assert refusal.rule == "metric"
    assert "'loss'" in str(refusal)


@pytest.mark.parametrize("names", [[], ["dice"], ["loss", "dice"]])
def test_metrics_must_be_the_planned_ones(names: list[str]) -> None:
    assert refusal_of(plan(metrics=("loss",)), metrics=dict.fromkeys(names, 0.5)).rule == "metric"


def test_a_silo_without_evaluation_needs_no_metrics() -> None:
    encoding = plan(metrics=("loss",))
    silos = [{"update": np.ones(3), "weight": 1.0}] * 2
    alone = opened(encoding, *silos)
    assert math.isnan(alone.metrics["loss"])
    assert alone.evaluation_weight == 0
    assert opened(
        encoding, *silos, {**silos[0], "metrics": {"loss": 2.0}, "evaluation_weight": 50}
    ).metrics == {"loss": 2.0}


@pytest.mark.parametrize(("value", "mean"), [(1e9, 4.0), (-1e9, -4.0), (math.inf, 4.0), (-math.inf, -4.0)])
def test_metrics_beyond_their_range_saturate_and_are_counted(value: float, mean: float) -> None:
    metrics = {"loss": value, "dice": 4.0, "other": -value}
    silo = {"metrics": metrics, "evaluation_weight": 100}
    result = opened(plan(0, metrics=tuple(metrics), metric_bound=4.0), silo, silo, silo)
    assert result.metrics == {"loss": mean, "dice": 4.0, "other": -mean}
    assert result.saturated == 6


def test_no_total_weight_no_mean() -> None:
    with pytest.raises(RoundAborted, match="total weight is zero"):
        opened(plan(), {"update": np.ones(3)}, {"update": np.ones(3)})


@pytest.mark.parametrize("silos", [0, 5])
def test_the_number_of_silos_is_checked(silos: int) -> None:
    encoding = plan()
    with pytest.raises(UsageError, match="silos"):
        decode_mean(encoding, np.zeros(encoding.length, np.uint32), silos=silos)


def test_the_layout_of_a_mean() -> None:
    names = [
        (segment.name, segment.length, segment.bound) for segment in plan(7, metrics=("a", "b")).segments
    ]
    assert names == [
        ("update", 7, 2.0),
        ("weight", 1, 1.0),
        ("clipped", 1, 1.0),
        ("evaluation_weight", 1, 1.0),
        ("metric:a", 1, 100.0),
        ("metric:b", 1, 100.0),
        ("saturated", 1, 2.0),
    ]
    assert [s.name for s in plan(0, metrics=("a",)).segments] == [name for name, _, _ in names[1:5]] + [
        "saturated"
    ]


def test_plan_mean_takes_32_bits_unless_precision_needs_64() -> None:
    settings: dict[str, Any] = {"clip": 8.0, "cohort": 6, "weight_cap": 5000.0, "least_total_weight": 1000.0}
    coarse = plan_mean(10, **settings)
    worst = worst_error_of_mean(coarse, 1000.0)
    assert coarse.word_bits == 32
    assert worst < 1e-4
    assert plan_mean(10, **settings, precision=worst).word_bits == 32
    fine = plan_mean(10, **settings, precision=math.nextafter(worst, 0))
    assert fine.word_bits == 64
    assert worst_error_of_mean(fine, 1000.0) < worst / 2**20


TIGHT: dict[str, Any] = {
    "clip": 8.0,
    "cohort": 6,
    "weight_cap": 5000.0,
    "least_total_weight": 10.0,
    "precision": 1e-5,
    "word_bits": 32,
}


@pytest.mark.parametrize(
    "remedy",
    [
        {"least_total_weight": 1000.0},
        {"clip": 0.1},
        {"weight_cap": 50.0},
        {"precision": 1e-3},
    ],
)
def test_each_remedy_that_the_refusal_names_is_one(remedy: dict[str, Any]) -> None:
    with pytest.raises(ParameterError) as refusal:
        plan_mean(10, **TIGHT)
    assert next(iter(remedy)) in str(refusal.value)
    assert plan_mean(10, **(TIGHT | remedy)).word_bits == 32


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"precision": 1e-17}, "with 64 bits"),
        ({"precision": 0.0}, "precision"),
        ({"precision": math.nan}, "precision"),
        ({"least_total_weight": 0.0}, "least_total_weight"),
        ({"least_total_weight": math.nan}, "least_total_weight"),
        ({"least_total_weight": 401.0}, "least_total_weight"),
        ({"weight_cap": math.inf}, "weight_cap"),
        ({"weight_cap": -1.0}, "weight_cap"),
        ({"clip": math.nan}, "finite"),
        ({"metric_bound": 0.0, "metrics": ("a",)}, "finite"),
        ({"metrics": ("a", "a")}, "share one name"),
        ({"cohort": 0}, "cohort"),
        ({"length": -1}, "length"),
        ({"length": 0}, "length"),
        ({"word_bits": 16}, "word_bits"),
    ],
)
def test_plan_mean_refuses_and_says_what_to_change(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        plan(**changes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_base_is_subtracted_as_if_beforehand(dtype: Any) -> None:
    drawn = np.random.default_rng(4)
    length = BLOCK + 3
    base, local = drawn.normal(size=length), drawn.normal(size=length).astype(dtype)
    encoding = plan_mean(length, clip=1.5, cohort=3, weight_cap=10.0, least_total_weight=1.0, precision=1e-3)
    silo: dict[str, Any] = {"weight": 3.0, "metrics": {}, "evaluation_weight": 0.0}
    whole = encode_mean(encoding, update=local - base, **silo)  # Some of it is clipped.
    assert np.array_equal(encode_mean(encoding, update=local, base=base, **silo), whole)
    wrong: Any
    for wrong in (base[1:], base.astype(np.float32)):
        with pytest.raises(UsageError, match="base is a float64 vector"):
            encode_mean(encoding, update=local, base=wrong, **silo)
    local[7] = np.nan
    with pytest.raises(InputRefused, match="entry 7 of 'update' is NaN"):
        encode_mean(encoding, update=local, base=base, **silo)
