"""Fixed point against exact rational arithmetic, and every refusal by name."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from secagg.errors import InputRefused, ParameterError, UsageError
from secagg.fixedpoint import (
    BLOCK,
    SUM_LIMIT,
    Encoding,
    Segment,
    most_fraction_bits,
    plan_sum,
    worst_error_of_sum,
)
from secagg.names import WordBits

WORDS: tuple[WordBits, ...] = (32, 64)
words = st.sampled_from(WORDS)
cohorts = st.integers(1, 64)
bounds = st.floats(1e-9, 1e9) | st.sampled_from([2.0**-20, 0.1, 1.0, 8.0, 2.0**31])


def half_step(fraction_bits: int) -> Fraction:
    return Fraction(2) ** -fraction_bits / 2


def exact(encoding: Encoding, entry: int) -> Fraction:
    """The centred integer of one entry as the rational it stands for (one segment only)."""
    centred: int = entry - 2**encoding.word_bits * (entry >= 2 ** (encoding.word_bits - 1))
    return 2 * centred * half_step(encoding.segments[0].fraction_bits)


def wrapped_sum(encoding: Encoding, vectors: list[Any]) -> Any:
    total = np.zeros(encoding.length, encoding.dtype)
    for vector in vectors:
        total += encoding.encode({"sum": vector})
    return total


@given(bound=bounds, word_bits=words, cohort=cohorts, data=st.data())
def test_decoded_sum_is_within_n_half_steps_of_the_rational_sum(
    bound: float, word_bits: WordBits, cohort: int, data: st.DataObject
) -> None:
    encoding = plan_sum(2, clip=bound, cohort=cohort, word_bits=word_bits)
    entry = st.floats(-bound, bound) | st.sampled_from([bound, -bound, encoding.segments[0].step / 2])
    vectors = data.draw(st.lists(st.tuples(entry, entry), min_size=1, max_size=cohort))
    decoded = encoding.decode(wrapped_sum(encoding, vectors))["sum"]
    for i in range(2):
        off = abs(Fraction(decoded[i]) - sum(Fraction(vector[i]) for vector in vectors))
        assert off <= len(vectors) * half_step(encoding.segments[0].fraction_bits)
        assert off <= Fraction(worst_error_of_sum(encoding))


@given(
    word_bits=words,
    cohort=st.integers(1, 2**12),
    bound=st.floats(1e-300, 1e300),
    offset=st.integers(-3, 3),
    sign=st.sampled_from([-1, 1]),
)
def test_an_accepted_encoding_never_wraps(
    word_bits: WordBits, cohort: int, bound: float, offset: int, sign: int
) -> None:
    try:
        bits = most_fraction_bits(bound, cohort=cohort, word_bits=word_bits) + offset
        encoding = Encoding(word_bits, cohort, (Segment("sum", 1, bound, bits),))
    except ParameterError:
        return
    total = encoding.encode({"sum": [sign * bound]}) * encoding.dtype(cohort)  # the sum of equal vectors
    decoded = Fraction(encoding.decode(total)["sum"][0])
    assert decoded == sign * cohort * round(Fraction(bound) / (2 * half_step(bits))) * 2 * half_step(bits)


@given(bound=bounds, word_bits=words, cohort=cohorts)
def test_the_planned_step_is_the_finest_that_cannot_wrap(
    bound: float, word_bits: WordBits, cohort: int
) -> None:
    encoding = plan_sum(1, clip=bound, cohort=cohort, word_bits=word_bits)
    bits = encoding.segments[0].fraction_bits
    assert cohort * encoding.segments[0].largest <= SUM_LIMIT[word_bits]
    with pytest.raises(ParameterError, match="could wrap"):
        Encoding(word_bits, cohort, (Segment("sum", 1, bound, bits + 1),))


@given(word_bits=words, bound=bounds, cohort=cohorts, factor=st.floats(0, 1), data=st.data())
def test_rounding_is_half_to_even_of_the_float64_product(
    word_bits: WordBits, bound: float, cohort: int, factor: float, data: st.DataObject
) -> None:
    encoding = plan_sum(1, clip=bound, cohort=cohort, word_bits=word_bits)
    value = data.draw(st.floats(-bound, bound))
    encoded = int(encoding.encode({"sum": [value]}, factors={"sum": factor})[0])
    product = Fraction(value * factor) / (2 * half_step(encoding.segments[0].fraction_bits))
    assert encoded == round(product) % 2**word_bits


@pytest.mark.parametrize("word_bits", WORDS)
def test_ties_go_to_the_even_integer_and_negatives_to_twos_complement(word_bits: WordBits) -> None:
    encoding = Encoding(word_bits, 3, (Segment("sum", 8, 4.0, 0),))
    values = [0.5, 1.5, 2.5, -0.5, -1.5, -1.0, 4.0, -4.0]
    expected = [0, 2, 2, 0, -2, -1, 4, -4]
    assert encoding.encode({"sum": values}).tolist() == [number % 2**word_bits for number in expected]


@pytest.mark.parametrize("word_bits", WORDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_entry_of_a_long_vector_is_encoded_on_both_sides_of_block_edges(
    word_bits: WordBits, dtype: type[np.float32 | np.float64]
) -> None:
    length = 2 * BLOCK + 17
    values = np.random.default_rng(1).uniform(-3, 3, length).astype(dtype)
    encoding = plan_sum(length, clip=3.5, cohort=5, word_bits=word_bits)
    encoded = encoding.encode({"sum": values})
    step = 2 * half_step(encoding.segments[0].fraction_bits)
    for i in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK, length - 1]:
        assert exact(encoding, int(encoded[i])) == round(Fraction(float(values[i])) / step) * step
    off = np.abs(encoding.decode(encoded)["sum"] - values.astype(np.float64))
    assert off.max() <= encoding.segments[0].step / 2


def test_form_and_layout_in_memory_do_not_matter() -> None:
    length = BLOCK + 3
    wide = np.random.default_rng(2).integers(-8, 9, (length, 2))
    encoding = plan_sum(length, clip=8.0, cohort=3)
    expected = encoding.encode({"sum": wide[:, 1].astype(np.float64).copy()})
    column: NDArray[Any] = wide[:, 1]
    for form in (
        column,  # strided int64
        column.astype(np.int8),
        column.astype(np.float32),
        column[::-1].astype(np.float64)[::-1],  # negative stride
        column.tolist(),
    ):
        assert np.array_equal(encoding.encode({"sum": form}), expected)


def test_inputs_are_never_written_to() -> None:
    values = np.array([0.25, -1.0, 1.0])
    values.setflags(write=False)
    plan_sum(3, clip=1.0, cohort=3).encode({"sum": values}, factors={"sum": 0.5})
    assert values.tolist() == [0.25, -1.0, 1.0]


@pytest.mark.parametrize("word_bits", WORDS)
def test_segments_keep_their_order_bound_step_and_factor(word_bits: WordBits) -> None:
    encoding = Encoding(word_bits, 4, (Segment("b", 2, 1.0, 10), Segment("a", 1, 100.0, 2)))
    encoded = encoding.encode({"a": [100.0], "b": [0.5, -0.25]}, factors={"b": 0.5})
    assert encoded.tolist() == [256, 2**word_bits - 128, 400]
    decoded = encoding.decode(encoded)
    assert list(decoded) == ["b", "a"]
    assert decoded["b"].tolist() == [0.25, -0.125]
    assert decoded["a"].tolist() == [100.0]
    assert (encoding.length, encoding.dtype) == (3, np.uint32 if word_bits == 32 else np.uint64)


@pytest.mark.parametrize("word_bits", WORDS)
def test_the_largest_total_decodes_exactly(word_bits: WordBits) -> None:
    limit = SUM_LIMIT[word_bits]
    encoding = Encoding(word_bits, 1, (Segment("sum", 4, float(limit), 0),))
    total = np.array([limit, 2**word_bits - limit, limit - 1, 2**word_bits - 1], np.uint64)
    assert encoding.decode(total.astype(np.uint32) if word_bits == 32 else total)["sum"].tolist() == [
        limit,
        -limit,
        limit - 1,
        -1,
    ]
    assert encoding.headroom_bits == 0


def test_out_is_filled_and_returned() -> None:
    encoding = plan_sum(3, clip=1.0, cohort=3)
    room = np.full(4, 7, np.uint32)
    returned = encoding.encode({"sum": [0.0, 1.0, -1.0]}, out=room[:3])
    assert np.shares_memory(returned, room)
    assert np.array_equal(room[:3], encoding.encode({"sum": [0.0, 1.0, -1.0]}))
    assert room[3] == 7


def test_an_out_that_does_not_fit_is_a_usage_error() -> None:
    encoding = plan_sum(3, clip=1.0, cohort=3)
    values = np.zeros(3, np.float32)
    locked = np.zeros(3, np.uint32)
    locked.setflags(write=False)
    for out in (np.zeros(4, np.uint32), np.zeros(3, np.uint64), locked, values.view(np.uint32)):
        with pytest.raises(UsageError, match="out"):
            encoding.encode({"sum": values}, out=out)


@pytest.mark.parametrize(
    "total", [np.zeros(2, np.uint32), np.zeros(3, np.uint64), np.zeros((3, 1), np.uint32)]
)
def test_decode_takes_this_encodings_totals_only(total: NDArray[Any]) -> None:
    with pytest.raises(UsageError, match="total"):
        plan_sum(3, clip=1.0, cohort=3).decode(total)


@pytest.mark.parametrize(
    ("rule", "bad"), [("nan", math.nan), ("infinite", math.inf), ("infinite", -math.inf), ("bound", -1.0625)]
)
@pytest.mark.parametrize("index", [0, 5, BLOCK + 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_bad_number_is_named_by_index_never_by_value(
    rule: str, bad: float, index: int, dtype: type[np.float32 | np.float64]
) -> None:
    values = np.zeros(BLOCK + 5, dtype)
    values[index] = bad
    with pytest.raises(InputRefused, match=rf"entry {index} of 'sum'") as refusal:
        plan_sum(values.size, clip=1.0, cohort=3).encode({"sum": values})
    assert refusal.value.rule == rule
    assert "0625" not in str(refusal.value)


def test_what_mends_a_block_sees_that_block_alone_and_is_not_believed() -> None:
    values = np.zeros(3 * BLOCK, np.float32)
    values[BLOCK + 4] = 2.0
    segment = Segment("sum", values.size, 1.0, 20)
    out = np.empty(values.size, np.uint32)
    seen = []

    def halve(block: NDArray[Any]) -> NDArray[Any]:
        seen.append(block.copy())
        return block / 2

    segment.encode_into(out, values, mend=halve)
    assert np.array_equal(np.flatnonzero(out), [BLOCK + 4])
    assert out[BLOCK + 4] == 2**20
    assert np.array_equal(seen, [values[BLOCK : 2 * BLOCK]])
    values[BLOCK + 4] = 2.5
    with pytest.raises(InputRefused, match=f"entry {BLOCK + 4} of 'sum'"):
        segment.encode_into(out, values, mend=halve)


@given(bound=bounds, dtype=st.sampled_from([np.float32, np.float64]))
def test_the_bound_itself_is_accepted_and_its_neighbour_refused(
    bound: float, dtype: type[np.float32 | np.float64]
) -> None:
    encoding = plan_sum(1, clip=bound, cohort=3)
    inside, outside = dtype(bound), dtype(bound)
    while float(inside) > bound:
        inside = np.nextafter(inside, dtype(0))
    while float(outside) <= bound:
        outside = np.nextafter(outside, dtype(np.inf))
    for sign in (1, -1):
        encoding.encode({"sum": np.array([sign * inside], dtype)})
        with pytest.raises(InputRefused) as refusal:
            encoding.encode({"sum": np.array([sign * outside], dtype)})
        assert refusal.value.rule == "bound"


def test_an_integer_that_float64_would_round_onto_the_bound_is_refused() -> None:
    encoding = Encoding(64, 1, (Segment("sum", 1, 2.0**53, 0),))
    assert encoding.encode({"sum": np.array([2**53])})[0] == 2**53
    with pytest.raises(InputRefused) as refusal:
        encoding.encode({"sum": np.array([2**53 + 1])})
    assert refusal.value.rule == "bound"


@pytest.mark.parametrize(
    ("rule", "values"),
    [
        ("dtype", np.zeros(2, np.complex128)),
        ("dtype", np.zeros(2, np.float16)),
        ("dtype", np.zeros(2, bool)),
        ("dtype", np.zeros(2, ">f8")),
        ("dtype", np.zeros(2, object)),
        ("dtype", np.array(["1", "2"])),
        ("dtype", [[1.0], [1.0, 2.0]]),
        ("dtype", None),
        ("shape", np.zeros(3)),
        ("shape", np.zeros((2, 1))),
        ("shape", np.zeros(0)),
        ("shape", 1.0),
    ],
)
def test_a_wrong_form_is_refused_by_name(rule: str, values: Any) -> None:
    with pytest.raises(InputRefused) as refusal:
        plan_sum(2, clip=1.0, cohort=3).encode({"sum": values})
    assert refusal.value.rule == rule


def test_a_tensor_that_numpy_cannot_read_is_refused() -> None:
    class Tensor:
        def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
            raise RuntimeError("requires grad")

    with pytest.raises(InputRefused) as refusal:
        plan_sum(2, clip=1.0, cohort=3).encode({"sum": Tensor()})
    assert refusal.value.rule == "dtype"


@pytest.mark.parametrize("names", [[], ["total"], ["sum", "total"]])
def test_values_must_name_exactly_the_segments(names: list[str]) -> None:
    with pytest.raises(InputRefused) as refusal:
        plan_sum(1, clip=1.0, cohort=3).encode({name: [0.0] for name in names})
    assert refusal.value.rule == "layout"


@pytest.mark.parametrize(
    ("rule", "factors"),
    [
        ("weight", {"sum": -0.1}),
        ("weight", {"sum": 1.1}),
        ("weight", {"sum": math.nan}),
        ("layout", {"total": 1.0}),
    ],
)
def test_factors_outside_0_to_1_or_of_no_segment_are_refused(rule: str, factors: dict[str, float]) -> None:
    with pytest.raises(InputRefused) as refusal:
        plan_sum(1, clip=1.0, cohort=3).encode({"sum": [1.0]}, factors=factors)
    assert refusal.value.rule == rule


def segment(**changes: Any) -> Segment:
    return Segment(**{"name": "s", "length": 1, "bound": 1.0, "fraction_bits": 8, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"length": 0},
        {"length": -1},
        {"bound": 0.0},
        {"bound": -1.0},
        {"bound": math.nan},
        {"bound": math.inf},
        {"fraction_bits": 513},
        {"fraction_bits": -513},
        {"fraction_bits": -1},  # half a step is 1.0: everything would encode to 0
    ],
)
def test_no_segment_with_a_field_out_of_range(changes: dict[str, Any]) -> None:
    segment()
    with pytest.raises(ParameterError, match="segment 's'"):
        segment(**changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"word_bits": 16}, "word_bits"),
        ({"cohort": 0}, "cohort"),
        ({"weight_cap": 0.0}, "weight_cap"),
        ({"weight_cap": math.nan}, "weight_cap"),
        ({"weight_cap": math.inf}, "weight_cap"),
        ({"segments": ()}, "segment"),
        ({"segments": (segment(), segment(length=2))}, "share one name"),
        ({"cohort": 2**23}, "could wrap 32 bits"),
        ({"word_bits": 64, "cohort": 2**45 + 1}, "could wrap 64 bits"),
        ({"segments": (segment(), segment(name="t", fraction_bits=30))}, "'t'"),
    ],
)
def test_no_encoding_with_a_field_out_of_range(changes: dict[str, Any], text: str) -> None:
    good: dict[str, Any] = {"word_bits": 32, "cohort": 3, "segments": (segment(),), "weight_cap": 5.0}
    Encoding(**good)
    with pytest.raises(ParameterError, match=text):
        Encoding(**(good | changes))


def test_the_limit_is_reached_and_not_passed_by_one() -> None:
    Encoding(32, 2**31 - 1, (segment(fraction_bits=0),))
    Encoding(64, 2**53, (segment(fraction_bits=0),))
    for word_bits, cohort in ((32, 2**31), (64, 2**53 + 1)):
        with pytest.raises(ParameterError, match="could wrap"):
            Encoding(word_bits, cohort, (segment(fraction_bits=0),))  # type: ignore[arg-type]


def test_headroom_counts_the_tightest_segment() -> None:
    encoding = Encoding(64, 4, (segment(fraction_bits=40), segment(name="t", fraction_bits=45)))
    assert encoding.headroom_bits == 53 - 45 - 2


@given(data=st.data())
def test_what_the_wire_decodes_passed_the_constructor(data: st.DataObject) -> None:
    encoding = plan_sum(5, clip=data.draw(bounds), cohort=data.draw(cohorts), word_bits=data.draw(words))
    wire = msgspec.msgpack.encode(encoding)
    assert msgspec.msgpack.decode(wire, type=Encoding) == encoding
    record = msgspec.msgpack.decode(wire)
    record["segments"][0]["fraction_bits"] += 1
    with pytest.raises(msgspec.ValidationError, match="could wrap"):
        msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=Encoding)


def test_plan_sum_takes_32_bits_unless_more_is_asked_for() -> None:
    plain = plan_sum(10, clip=8.0, cohort=6)
    assert (plain.word_bits, plain.segments) == (32, (Segment("sum", 10, 8.0, 25),))
    assert worst_error_of_sum(plain) == 6 * 2.0**-26
    assert plan_sum(10, clip=8.0, cohort=6, precision=6 * 2.0**-26) == plain
    finer = plan_sum(10, clip=8.0, cohort=6, precision=5.9 * 2.0**-26)
    assert (finer.word_bits, finer.segments[0].fraction_bits) == (64, 47)
    assert plan_sum(10, clip=8.0, cohort=6, fraction_bits=25) == plain
    assert plan_sum(10, clip=8.0, cohort=6, fraction_bits=26).word_bits == 64


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"precision": 1e-15}, "64 bits .* lower clip or cohort, or loosen precision"),
        ({"precision": 1e-9, "word_bits": 32}, "32 bits .* loosen precision"),
        ({"precision": 1e-3, "fraction_bits": 4}, "raise fraction_bits"),
        ({"precision": math.nan}, "precision"),
        ({"fraction_bits": 26, "word_bits": 32}, "at most 25 fit"),
        ({"fraction_bits": 48}, "at most 47 fit"),
        ({"clip": math.nan}, "clip"),
        ({"clip": math.inf}, "clip"),
        ({"clip": 0.0}, "clip"),
        ({"cohort": 0}, "cohort"),
        ({"cohort": 2**60}, "lower clip or cohort"),
        ({"length": 0}, "length"),
        ({"word_bits": 8}, "word_bits"),
    ],
)
def test_plan_sum_refuses_and_says_what_to_change(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        plan_sum(**({"length": 10, "clip": 8.0, "cohort": 6} | changes))


@pytest.mark.parametrize("word_bits", WORDS)
def test_the_worst_error_of_a_sum_is_reached(word_bits: WordBits) -> None:
    encoding = plan_sum(1, clip=1.0, cohort=64, word_bits=word_bits)
    tie = encoding.segments[0].step / 2  # rounds to zero, half a step away, at every silo
    decoded = encoding.decode(wrapped_sum(encoding, [[tie]] * 64))["sum"][0]
    assert abs(Fraction(decoded) - 64 * Fraction(tie)) == Fraction(worst_error_of_sum(encoding))


@given(
    st.sampled_from([32, 64]),
    st.integers(-512, 512),
    st.floats(2.0**-60, 2.0**60),
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=20),
)
def test_a_quotient_is_rounded_once(
    word_bits: WordBits, fraction_bits: int, divisor: float, sums: list[int]
) -> None:
    """As the exact product with the step, divided: the same bits as two operations, of which one is exact."""
    segment = Segment("x", len(sums), math.ldexp(1.0, 20 - fraction_bits), fraction_bits)
    signed = np.array(sums, np.int32 if word_bits == 32 else np.int64)
    total: Any = signed.view(np.uint32 if word_bits == 32 else np.uint64)
    exact = [math.ldexp(float(value), -fraction_bits) for value in sums]
    assert segment.decode(total).tolist() == exact
    assert segment.decode(total, divisor=divisor).tolist() == [value / divisor for value in exact]
