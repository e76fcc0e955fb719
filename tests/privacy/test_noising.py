"""From numbers to noised integers and back: the norm holds exactly, noise is fresh, the mean is the mean."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chi2

from secagg.errors import FaultyCoordinator, InputRefused, UsageError
from secagg.fixedpoint import SUM_LIMIT, Encoding, Segment
from secagg.names import WordBits
from secagg.privacy.clip import squared_norm
from secagg.privacy.noise import DiscreteGaussian, reach
from secagg.privacy.noising import (
    StepNoise,
    check_noised,
    decode_noised,
    noised_gradient,
    noised_update,
)
from secagg.privacy.planning import largest_entry
from secagg.terms import DistributedNoise, LocalNoise, RecordNoise, SiloNoise
from tests.counts import count
from tests.privacy.noised import source

SHARE = 5.0
FALSE_ALARM = 1e-9
"""Probability with which right noise fails a statistical test of this file."""


def encoding_of(
    noise: DistributedNoise, length: int, bits: int, *, word_bits: WordBits = 64, silos: int = 4
) -> Encoding:
    bound = math.ldexp(largest_entry(noise, bits), -bits)
    return Encoding(word_bits, silos, (Segment("update", length, bound, bits),))


def noised_steps(noise: LocalNoise, total: NDArray[Any], **named: Any) -> NDArray[Any]:
    return StepNoise(noise, total.size, **named).add(total)


def signed(vector: NDArray[Any]) -> NDArray[np.int64]:
    return vector.view(np.int32 if vector.itemsize == 4 else np.int64).astype(np.int64)


def noise_of(length: int, *key: int, share: float = SHARE) -> NDArray[np.int64]:
    """Return the noise that a vector gets of this randomness."""
    return DiscreteGaussian(share, random=source(*key)).sample(length)


def update_steps(update: NDArray[Any], norm: float, bits: int, word_bits: WordBits = 64) -> NDArray[np.int64]:
    """Return what of ``noised_update`` is not noise."""
    noise = SiloNoise(norm, SHARE, 1e-5)
    encoding = encoding_of(noise, update.size, bits, word_bits=word_bits)
    vector = noised_update(encoding, noise, update, random=source(1))
    assert vector.dtype == encoding.dtype
    return signed(vector) - noise_of(update.size, 1)


# --- the norm of a silo's update --------------------------------------------------------------------------


def half_steps(length: int, bits: int) -> tuple[NDArray[Any], float]:
    """Return entries that all round up, and their norm."""
    each = math.ldexp(1.500001, -bits)
    return np.full(length, each), each * math.sqrt(length)


@st.composite
def adversarial(draw: st.DrawFn) -> NDArray[Any]:
    length = draw(st.integers(1, 300))
    kind = draw(st.sampled_from(["uniform", "one", "huge", "tiny", "alternating", "ties"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    match kind:
        case "uniform":
            return np.asarray(rng.normal(size=length) * 10.0 ** draw(st.floats(-8, 8)))
        case "one":
            vector = np.zeros(length)
            vector[0] = draw(st.floats(-1e9, 1e9))
            return vector
        case "huge":
            return np.full(length, draw(st.sampled_from([1.7e308, -1.7e308, 1e200])))
        case "tiny":
            return np.full(length, draw(st.sampled_from([5e-324, 1e-310, -1e-300])))
        case "alternating":
            return np.asarray((np.arange(length) % 2 * 2.0 - 1.0) * draw(st.floats(0, 1e3)))
        case _:
            return np.asarray(np.ldexp(rng.integers(-50, 50, length) + 0.5, -draw(st.integers(0, 12))))


@given(update=adversarial(), norm=st.floats(1e-4, 1e4), bits=st.integers(-4, 20), single=st.booleans())
@example(*half_steps(300, 8), 8, False)
@example(*half_steps(1, 4), 4, True)
def test_integers_have_at_most_the_clip_norm(
    update: NDArray[Any], norm: float, bits: int, single: bool
) -> None:
    if single:
        with np.errstate(over="ignore", under="ignore"):
            update = np.nan_to_num(update.astype(np.float32))
    assert squared_norm(update_steps(update, norm, bits)) <= (Fraction(norm) * Fraction(2) ** bits) ** 2


def test_rounding_alone_would_lift_the_norm() -> None:
    """The control: these integers, only clipped and rounded, are beyond the bound."""
    update, norm = half_steps(200, 4)
    assert np.linalg.norm(np.rint(update * 2**4)) > 1.3 * norm * 2**4
    assert squared_norm(update_steps(update, norm, 4)) <= (Fraction(norm) * 2**4) ** 2


@pytest.mark.parametrize("word_bits", get_args(WordBits))
def test_an_update_within_its_norm_is_rounded_and_no_more(word_bits: WordBits) -> None:
    update = np.array([0.25, -0.5, 0.125, 0.0, -0.001])
    assert update_steps(update, 1.0, 10, word_bits).tolist() == [256, -512, 128, 0, -1]


def test_a_longer_one_keeps_its_direction() -> None:
    update = np.random.default_rng(1).normal(size=50) * 100
    steps = update_steps(update, 1.0, 24)
    assert np.allclose(steps / 2**24, update / np.linalg.norm(update), atol=2.0**-22)
    assert math.sqrt(squared_norm(steps)) > 0.9999 * 2**24


@pytest.mark.parametrize(
    ("bad", "rule"), [(math.nan, "nan"), (math.inf, "infinite"), (-math.inf, "infinite")]
)
def test_what_is_no_number_is_refused(bad: float, rule: str) -> None:
    vector = np.array([0.0, 1.0, bad, 2.0])
    silo, record = SiloNoise(1.0, SHARE, 1e-5), RecordNoise(1.0, SHARE, 0.1, 8.0, 1e-5)
    local = LocalNoise(1.0, 1.0, 0.1, 1, 1e-5)
    for call in (
        lambda: noised_update(encoding_of(silo, 4, 8), silo, vector),
        lambda: noised_update(encoding_of(silo, 4, 8), silo, vector.astype(np.float32)),
        lambda: noised_gradient(encoding_of(record, 4, 8), record, vector),
        lambda: noised_steps(local, vector),
    ):
        with pytest.raises(InputRefused) as caught:
            call()
        assert caught.value.rule == rule
        assert "entry 2" in str(caught.value)


# --- sums of gradients ------------------------------------------------------------------------------------


def gradient_steps(
    gradient: NDArray[Any], *, norm: float = 1.0, batch: float = 8.0, bits: int = 8, word_bits: WordBits = 64
) -> NDArray[np.int64]:
    noise = RecordNoise(norm, SHARE, 0.1, batch, 1e-5)
    encoding = encoding_of(noise, gradient.size, bits, word_bits=word_bits)
    vector = noised_gradient(encoding, noise, gradient, random=source(2))
    assert vector.dtype == encoding.dtype
    return signed(vector) - noise_of(gradient.size, 2)


@pytest.mark.parametrize("word_bits", get_args(WordBits))
def test_a_sum_of_gradients_is_turned_and_cut_at_the_expected_batch(word_bits: WordBits) -> None:
    gradient = np.array([1.0, -2.5, 7.999, 8.0, 8.1, -1e300, 1.7e308])
    steps = gradient_steps(gradient, word_bits=word_bits)
    assert steps.tolist() == [-256, 640, -2048, -2048, -2048, 2048, -2048]


@given(
    seed=st.integers(0, 2**32),
    length=st.integers(1, 200),
    scale=st.floats(0.01, 20),
    bits=st.integers(0, 20),
    norm=st.floats(0.01, 100),
)
def test_one_record_moves_no_sum_further_than_the_sensitivity(
    seed: int, length: int, scale: float, bits: int, norm: float
) -> None:
    """Also where entries of the one sum are cut and those of the other are not."""
    rng = np.random.default_rng(seed)
    rest = rng.normal(size=length) * scale * norm
    record = rng.normal(size=length)
    record *= norm / np.linalg.norm(record)
    apart = gradient_steps(rest + record, norm=norm, bits=bits) - gradient_steps(rest, norm=norm, bits=bits)
    assert math.sqrt(squared_norm(apart)) <= norm * 2.0**bits * (1 + 1e-9) + math.sqrt(length)


# --- noise ------------------------------------------------------------------------------------------------

KINDS: tuple[Any, ...] = (
    (noised_update, SiloNoise(1.0, SHARE, 1e-5)),
    (noised_gradient, RecordNoise(1.0, SHARE, 0.1, 8.0, 1e-5)),
)


@pytest.mark.parametrize(("noised", "noise"), KINDS)
def test_the_same_randomness_gives_the_same_vector_and_fresh_randomness_never(
    noised: Any, noise: Any
) -> None:
    encoding, zeros = encoding_of(noise, 100, 8), np.zeros(100)
    first, again, other = (noised(encoding, noise, zeros, random=source(key)) for key in (1, 1, 2))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()
    # Each of 100 entries has about 3.7 bits, so that two draws are equal with a probability below 2**-300.
    drawn = {noised(encoding, noise, zeros).tobytes() for _ in range(10)}
    assert len(drawn) == 10


@pytest.mark.parametrize("word_bits", get_args(WordBits))
@pytest.mark.parametrize(("noised", "noise"), KINDS)
def test_a_share_has_the_variance_that_the_terms_say(noised: Any, noise: Any, word_bits: WordBits) -> None:
    """20,000 entries: 2/3 of the variance passes with a probability below 1e-100, and so does 3/2 of it."""
    size = 20_000
    steps = signed(noised(encoding_of(noise, size, 8, word_bits=word_bits), noise, np.zeros(size)))
    low, high = chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], size) * SHARE**2
    square = squared_norm(steps)
    assert low < square < high
    assert not low < square * 2 / 3 < high
    assert not low < square * 3 / 2 < high


# --- back to a mean ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("word_bits", get_args(WordBits))
@pytest.mark.parametrize("silos", [3, 4])
def test_a_sum_decodes_to_the_mean_over_its_silos(silos: int, word_bits: WordBits) -> None:
    noise = SiloNoise(1.0, SHARE, 1e-5)
    encoding = encoding_of(noise, 6, 16, word_bits=word_bits)
    updates = [np.random.default_rng(i).normal(size=6) / 10 for i in range(silos)]
    vectors = [noised_update(encoding, noise, update, random=source(i)) for i, update in enumerate(updates)]
    total = np.sum(vectors, axis=0, dtype=encoding.dtype)
    mean = decode_noised(encoding, noise, total, silos=silos)
    assert mean.values is not None
    exact = sum(signed(vector) for vector in vectors)
    assert mean.values.tolist() == [int(entry) / 2**16 / silos for entry in np.asarray(exact)]
    assert mean.weight == silos
    assert (dict(mean.metrics), mean.evaluation_weight, mean.saturated) == ({}, 0.0, 0)
    # But for the noise it is the mean of the updates, within what the report says.
    clear = np.asarray(exact) - sum(noise_of(6, i) for i in range(silos))
    assert np.abs(clear / 2**16 / silos - np.mean(updates, axis=0)).max() <= mean.worst_error


@pytest.mark.parametrize("silos", [3, 4])
def test_a_sum_of_gradients_decodes_over_the_expected_batch(silos: int) -> None:
    """Whoever is in it: the number of records that were drawn is not told, and not divided by."""
    noise = RecordNoise(1.0, SHARE, 0.1, 10.0, 1e-5)
    encoding = encoding_of(noise, 3, 16)
    gradients = [np.array([1.0, -0.5, 2.0])] * silos
    vectors = [noised_gradient(encoding, noise, g, random=source(i)) for i, g in enumerate(gradients)]
    mean = decode_noised(encoding, noise, np.asarray(np.sum(vectors, axis=0, dtype=np.uint64)), silos=silos)
    assert mean.values is not None
    assert np.allclose(
        mean.values, -np.array([1.0, -0.5, 2.0]) * silos / 10, atol=silos * reach(SHARE) / 2**16
    )
    assert mean.weight == 10.0


@pytest.mark.parametrize(
    "total", [np.zeros(5, np.uint64), np.zeros(6, np.uint32), np.zeros((6, 1), np.uint64)]
)
def test_what_is_no_total_of_the_encoding_is_refused(total: NDArray[Any]) -> None:
    noise = SiloNoise(1.0, SHARE, 1e-5)
    with pytest.raises(UsageError):
        decode_noised(encoding_of(noise, 6, 16), noise, total, silos=4)


# --- terms that no planner makes ----------------------------------------------------------------------------

SILO = SiloNoise(1.0, SHARE, 1e-5)
RECORD = RecordNoise(1.0, SHARE, 0.1, 8.0, 1e-5)


def segments(*given: tuple[str, int]) -> Encoding:
    return Encoding(64, 4, tuple(Segment(name, length, 2.0**20, 8) for name, length in given))


@pytest.mark.parametrize("noise", [SILO, RECORD])
def test_nothing_may_be_beside_the_update(noise: DistributedNoise) -> None:
    check_noised(segments(("update", 5)), noise, 5)
    for wrong in (
        segments(("update", 4)),
        segments(("update", 6)),
        segments(("sum", 5)),
        segments(("update", 5), ("weight", 1)),
        segments(("weight", 1), ("update", 5)),
        segments(("update", 2), ("rest", 3)),
    ):
        with pytest.raises(FaultyCoordinator, match="nothing but the update"):
            check_noised(wrong, noise, 5)


@pytest.mark.parametrize("noise", [SILO, RECORD])
def test_an_encoding_without_room_is_refused(noise: DistributedNoise) -> None:
    longest = largest_entry(noise, 8)
    check_noised(Encoding(64, 4, (Segment("update", 5, longest / 2**8, 8),)), noise, 5)
    with pytest.raises(FaultyCoordinator, match="no room"):
        check_noised(Encoding(64, 4, (Segment("update", 5, (longest - 1) / 2**8, 8),)), noise, 5)


@pytest.mark.parametrize("bits", [-512, -30, 0, 30, 512])
@pytest.mark.parametrize(
    "noise",
    [
        SiloNoise(1e300, SHARE, 1e-5),
        SiloNoise(1e-300, SHARE, 1e-5),
        SiloNoise(1.0, 1e300, 1e-5),
        SiloNoise(1.0, 2.0**40 + 1, 1e-5),
        SiloNoise(1.0, 3.9, 1e-5),
        RecordNoise(2.0**512, SHARE, 0.1, 1e308, 1e-5),
        RecordNoise(1e300, SHARE, 0.1, 1.0, 1e-5),
        RecordNoise(1.0, 1e300, 0.1, 1.0, 1e-5),
        RecordNoise(2.0**511, SHARE, 0.1, 1e300, 1e-5),
    ],
)
def test_numbers_beyond_all_use_are_a_fault_of_the_coordinator(noise: DistributedNoise, bits: int) -> None:
    """Never another error, whatever stands in terms: a silo's process would end by it."""
    largest = math.ldexp(float(SUM_LIMIT[64] // 4), -bits)
    encoding = Encoding(64, 4, (Segment("update", 5, largest, bits),))
    with pytest.raises(FaultyCoordinator):
        check_noised(encoding, noise, 5)


# --- the noise of one step of DP-SGD ------------------------------------------------------------------------


@pytest.mark.parametrize(("multiplier", "norm"), [(1.0, 1.0), (0.3, 5.0), (20.0, 1e-3)])
def test_the_noise_of_a_step_has_the_deviation_that_its_account_needs(multiplier: float, norm: float) -> None:
    size = count(10_000, full=100_000)
    noise = LocalNoise(norm, multiplier, 0.1, 1, 1e-5)
    drawn = noised_steps(noise, np.zeros(size))
    target = (multiplier * norm) ** 2
    low, high = chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], size) * target
    square = float(drawn @ drawn)
    assert low < square
    # A little more than that, against rounding, and less than two thirds or three halves could be.
    assert square < high * 1.01
    assert not low < square * 2 / 3
    assert not square * 3 / 2 < high * 1.01


def test_the_noise_of_a_step_is_added_to_the_sum() -> None:
    noise = LocalNoise(1.0, 1.0, 0.1, 1, 1e-5)
    total = np.random.default_rng(0).normal(size=20) * 3
    with_sum, alone = (noised_steps(noise, vector, random=source(3)) for vector in (total, np.zeros(20)))
    assert np.abs(with_sum - alone - total).max() < 1e-3
    assert noised_steps(noise, total).tolist() != noised_steps(noise, total).tolist()
