"""Bounds on norms: reals clipped, integers held to an exact bound, and how far one record moves a sum."""

from __future__ import annotations

import math
import tracemalloc
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from numpy.typing import NDArray

from secagg.errors import InputRefused, ParameterError
from secagg.privacy.clip import BLOCK, clip_l2, enforce_l2, record_sensitivity, squared_norm
from tests.adversary.reference import Tape, stream
from tests.counts import count

INT64 = np.iinfo(np.int64)


def exact_square(vector: NDArray[Any]) -> Fraction:
    return sum((Fraction(value) ** 2 for value in vector.tolist()), Fraction(0))


def reals(length: int, label: str) -> NDArray[np.float64]:
    """Return numbers from -1 to 1 that are the same in every run."""
    return stream(Tape(label)(32), length, 64).view(np.int64) / 2.0**63


# --- reals ----------------------------------------------------------------------------------------------

FINITE = st.floats(allow_nan=False, allow_infinity=False)
UPDATES = st.one_of(
    nps.arrays(np.float64, st.integers(0, 20), elements=FINITE),
    nps.arrays(np.float64, st.integers(0, 20), elements=st.floats(-1.0, 1.0)),
    nps.arrays(
        np.float32, st.integers(0, 20), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
    ),
)
NORMS = st.one_of(st.floats(2.0**-512, 2.0**512), st.floats(0.1, 10.0))


@given(UPDATES, NORMS)
def test_a_clipped_update_has_at_most_the_norm(update: NDArray[Any], norm: float) -> None:
    before = update.copy()
    clipped = clip_l2(update, norm)
    assert clipped.dtype == np.float64
    assert clipped.shape == update.shape
    assert exact_square(clipped) <= Fraction(norm) ** 2
    assert np.array_equal(update, before)
    assert not np.shares_memory(clipped, update)


@given(UPDATES, NORMS)
def test_an_update_within_the_norm_stays_and_another_keeps_its_direction(
    update: NDArray[Any], norm: float
) -> None:
    clipped, square = clip_l2(update, norm), exact_square(update)
    if square <= (Fraction(norm) * (1 - Fraction(2) ** -35)) ** 2:
        assert np.array_equal(clipped, update.astype(np.float64))
    else:
        assert exact_square(clipped) >= (Fraction(norm) * (1 - Fraction(2) ** -33)) ** 2
        subnormal = Fraction(2) ** -1074 * (1 + 2 * Fraction(norm))
        factor = Fraction(norm) * 2**2000 / math.isqrt(math.floor(square * 2**4000))
        for value, found in zip(update.tolist(), clipped.tolist(), strict=True):
            wanted = Fraction(value) * factor
            assert abs(Fraction(found) - wanted) <= abs(wanted) * Fraction(2) ** -33 + subnormal


@pytest.mark.parametrize("length", [0, 1, 5, BLOCK + 1])
def test_zeros_stay_zeros(length: int) -> None:
    assert not clip_l2(np.zeros(length, np.float32), 2.0**-512).any()


@pytest.mark.parametrize("largest", [1.7e308, 1e200, 5e-324, 1e-310])
def test_squares_may_overflow_and_vanish(largest: float) -> None:
    clipped = clip_l2(np.array([largest, -largest, largest, largest]), 2.0)
    wanted = min(largest, 1.0)
    assert np.allclose(clipped, [wanted, -wanted, wanted, wanted], rtol=1e-9, atol=0)


def test_a_norm_of_many_blocks_counts_all_of_them() -> None:
    update = reals(3 * BLOCK + 7, "update")
    clipped = clip_l2(update, 1.0)
    assert math.isclose(float(np.linalg.norm(clipped)), 1.0, rel_tol=1e-9)
    assert squared_norm((clipped * 2.0**60).astype(np.int64)) <= 2**120
    assert np.allclose(clipped / clipped[0], update / update[0])
    assert np.array_equal(clip_l2(update, 1e4), update)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("bad", "rule"), [(math.nan, "nan"), (math.inf, "infinite"), (-math.inf, "infinite")]
)
@pytest.mark.parametrize("at", [0, 3, BLOCK + 2])
def test_what_is_no_number_is_refused_by_its_index(dtype: type[Any], bad: float, rule: str, at: int) -> None:
    update = np.full(BLOCK + 3, 0.123, dtype)
    update[at] = bad
    with pytest.raises(InputRefused, match=f"entry {at} of the update is") as refused:
        clip_l2(update, 1.0)
    assert refused.value.rule == rule
    assert "0.123" not in str(refused.value)


@pytest.mark.parametrize(
    ("update", "rule"),
    [
        (np.zeros(3, np.int64), "dtype"),
        (np.zeros(3, np.float16), "dtype"),
        (np.zeros(3, np.complex128), "dtype"),
        (np.zeros(3, ">f8"), "dtype"),
        (np.zeros((3, 1)), "shape"),
        (np.array(1.0), "shape"),
    ],
)
def test_an_update_of_another_kind_is_refused(update: Any, rule: str) -> None:
    with pytest.raises(InputRefused) as refused:
        clip_l2(update, 1.0)
    assert refused.value.rule == rule


@pytest.mark.parametrize("norm", [0.0, -1.0, math.nan, math.inf, 2.0**-513, 2.0**513, "1", None, True])
def test_a_norm_outside_its_range_is_refused(norm: Any) -> None:
    with pytest.raises(ParameterError, match="norm"):
        clip_l2(np.ones(3), norm)


# --- integers -------------------------------------------------------------------------------------------

INTEGERS = st.one_of(
    st.integers(INT64.min, INT64.max),
    st.integers(-100, 100),
    st.sampled_from(
        [INT64.min, INT64.min + 1, INT64.max, 2**53 + 1, 2**32, 2**32 - 1, 2**31, 2**23, 2**23 - 1]
    ),
)
VECTORS = nps.arrays(np.int64, st.integers(0, 30), elements=INTEGERS)
BOUNDS = st.one_of(st.integers(1, 2**70), st.integers(1, 1000), st.floats(1e-3, 2.0**70), st.just(5e-324))


@given(VECTORS)
def test_the_squared_norm_is_exact(vector: NDArray[np.int64]) -> None:
    assert squared_norm(vector) == sum(value * value for value in vector.tolist())


@pytest.mark.parametrize(
    "value", [2**23 - 1, -(2**23), 2**24 - 1, 2**30, -(2**31), 2**32 - 1, 2**53 + 1, INT64.max, INT64.min]
)
def test_the_squared_norm_of_full_blocks_is_exact(value: int) -> None:
    vector = np.full(2 * BLOCK + 3, value, np.int64)
    assert squared_norm(vector) == (2 * BLOCK + 3) * value * value


@given(VECTORS, BOUNDS)
def test_an_enforced_vector_is_within_the_bound_exactly(vector: NDArray[np.int64], bound: float) -> None:
    before = vector.copy()
    held = enforce_l2(vector, bound)
    assert held.dtype == np.int64
    assert exact_square(held) <= Fraction(bound) ** 2
    assert np.array_equal(vector, before)
    assert held is vector or not np.shares_memory(held, vector)
    assert (held is vector) == (exact_square(vector) <= Fraction(bound) ** 2)


@given(VECTORS, BOUNDS)
def test_each_entry_is_scaled_and_cut_off(vector: NDArray[np.int64], bound: float) -> None:
    square, held = exact_square(vector), enforce_l2(vector, bound)
    if square <= Fraction(bound) ** 2:
        return
    share = Fraction(bound) / (Fraction(math.isqrt(int(square) << 400)) / 2**200)
    for value, found in zip(vector.tolist(), held.tolist(), strict=True):
        wanted = value * share
        assert abs(found) <= abs(wanted)
        assert found * value >= 0
        assert abs(wanted) - abs(found) < 1 + abs(value) * Fraction(2) ** -48


def test_the_bound_itself_is_kept_and_one_below_is_not() -> None:
    vector = np.array([3, -4], np.int64)
    assert enforce_l2(vector, 5) is vector
    assert enforce_l2(vector, math.nextafter(5.0, 0)).tolist() in ([2, -3], [3, -3], [2, -4])
    # Where float64 cannot tell both apart.
    long = np.array([2**53 + 1], np.int64)
    assert enforce_l2(long, 2**53 + 1) is long
    assert enforce_l2(long, np.int64(2**53 + 1)) is long  # type: ignore[arg-type]
    assert enforce_l2(long, float(2**53)) is not long
    assert abs(int(enforce_l2(long, 2**53)[0])) <= 2**53


@pytest.mark.parametrize("length", [10, 1000, BLOCK + 5])
def test_rounding_lifts_a_clipped_vector_above_the_bound_and_enforcing_mends_it(length: int) -> None:
    """Entries just above a half: each is rounded up, and the norm grows by nearly ``sqrt(length) / 2``."""
    fraction_bits = 10
    clip = 0.5001 * 2.0**-fraction_bits * math.sqrt(length)
    clipped = clip_l2(np.full(length, 1.0), clip)
    encoded = np.rint(clipped * 2.0**fraction_bits).astype(np.int64)
    bound = clip * 2.0**fraction_bits
    assert squared_norm(encoded) > Fraction(bound) ** 2
    assert math.sqrt(squared_norm(encoded)) > bound + 0.499 * math.sqrt(length)
    assert squared_norm(enforce_l2(encoded, bound)) <= Fraction(bound) ** 2


def test_rounding_to_the_nearest_would_not_do() -> None:
    """What is rescaled must be cut off: rounded to the nearest, it is above the bound again."""
    encoded = np.array([1] * 9, np.int64)
    bound = 2.4
    rescaled = np.rint(encoded * (bound / 3)).astype(np.int64)
    assert squared_norm(rescaled) > bound**2
    assert squared_norm(enforce_l2(encoded, bound)) <= bound**2


@pytest.mark.parametrize("value", [10, 33, 1000, 2**40 + 1, 2**62 + 1, INT64.min])
def test_a_share_just_below_an_integer_is_not_rounded_up_to_it(value: int) -> None:
    for whole in range(1, 10):
        held = enforce_l2(np.array([value], np.int64), math.nextafter(float(whole), 0))
        assert abs(int(held[0])) == whole - 1


def test_no_second_copy_of_a_long_vector_is_made() -> None:
    vector = np.full(20 * BLOCK, 2**40, np.int64)
    tracemalloc.start()
    held = enforce_l2(vector, 2**41)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert squared_norm(held) <= 2**82
    assert most < vector.nbytes + 12 * 8 * BLOCK


@pytest.mark.parametrize(
    ("vector", "rule"),
    [
        (np.zeros(3), "dtype"),
        (np.zeros(3, np.uint64), "dtype"),
        (np.zeros(3, np.int32), "dtype"),
        (np.zeros((1, 3), np.int64), "shape"),
    ],
)
def test_a_vector_of_another_kind_is_refused(vector: Any, rule: str) -> None:
    with pytest.raises(InputRefused) as refused:
        enforce_l2(vector, 5)
    assert refused.value.rule == rule


@pytest.mark.parametrize("bound", [0, 0.0, -1, math.nan, math.inf, 10**400, "5", None, True])
def test_a_bound_that_bounds_nothing_is_refused(bound: Any) -> None:
    with pytest.raises(ParameterError, match="bound"):
        enforce_l2(np.ones(3, np.int64), bound)


# --- one record -----------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(0, 6), st.integers(1, 8), st.randoms(use_true_random=False))
def test_a_record_moves_a_rounded_sum_by_at_most_its_sensitivity(
    length: int, bits: int, records: int, r: Any
) -> None:
    """Gradients are multiples of 2**-20, so that their sums are exact."""
    clip = r.choice([0.1, 1.0, 3.0])
    gradients = [
        np.trunc(clip_l2(np.array([r.gauss(0, 1) for _ in range(length)]), clip) * 2.0**20) / 2.0**20
        for _ in range(records)
    ]
    with_it = np.rint(np.sum(gradients, axis=0) * 2.0**bits).astype(np.int64)
    without = np.rint(np.sum([*gradients[1:], np.zeros(length)], axis=0) * 2.0**bits).astype(np.int64)
    assert squared_norm(with_it - without) <= record_sensitivity(clip, bits, length) ** 2


def test_rounding_moves_a_sum_by_nearly_the_square_root_of_its_length() -> None:
    """So a sensitivity that leaves it out, or half of it, is wrong."""
    length, step = 10_000, 0.01
    without = np.full(length, 0.495)
    moved = np.rint(without + step) - np.rint(without)
    norm = step * math.sqrt(length)
    assert float(np.linalg.norm(moved)) == math.sqrt(length) > norm + math.sqrt(length) / 2
    assert float(np.linalg.norm(moved)) <= record_sensitivity(norm, 0, length)


@given(st.floats(2.0**-512, 2.0**500), st.integers(-512, 500), st.integers(1, 10**12))
def test_a_sensitivity_is_rounded_up_and_not_far(norm: float, bits: int, length: int) -> None:
    found = Fraction(record_sensitivity(norm, bits, length))
    scaled = Fraction(norm) * Fraction(2) ** bits
    assert (found - scaled) ** 2 >= length
    assert found > scaled
    root = Fraction(math.isqrt(length << 200)) / 2**100
    assert found <= (scaled + root) * (1 + Fraction(2) ** -50)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0.0, 10, 5), "l2_clip_norm"),
        ((math.nan, 10, 5), "l2_clip_norm"),
        ((2.0**513, 10, 5), "l2_clip_norm"),
        ((2.0**-513, 10, 5), "l2_clip_norm"),
        ((1.0, 513, 5), "fraction_bits"),
        ((1.0, -513, 5), "fraction_bits"),
        ((1.0, 1.5, 5), "fraction_bits"),
        ((1.0, 10, 0), "length"),
        ((1.0, 10, 5.0), "length"),
        ((2.0**512, 512, 5), "beyond float64"),
        ((math.nextafter(2.0**512, 0), 512, 5), "beyond float64"),
        ((1.0, 10, 10**700), "beyond float64"),
    ],
)
def test_a_sensitivity_of_nothing_sensible_is_refused(arguments: Any, text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        record_sensitivity(*arguments)


@pytest.mark.parametrize("seed", range(count(3, full=50)))
def test_a_long_vector_of_any_scale_is_held(seed: int) -> None:
    scale = 2.0 ** (7 * (seed % 9) + 2)
    vector = (reals(BLOCK + 100, f"vector {seed}") * scale).astype(np.int64)
    norm = math.sqrt(squared_norm(vector))
    for bound in (norm * 0.999999, norm / 3, 1.0):
        held = enforce_l2(vector, bound)
        assert squared_norm(held) <= Fraction(bound) ** 2
        assert math.sqrt(squared_norm(held)) >= bound * (1 - 2.0**-48) - math.sqrt(vector.size)
