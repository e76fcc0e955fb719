"""Discrete Gaussian noise: its exact distribution, what is drawn of it, and what it may not give away.

Exact: the tables are read out as integers, put together and held to weights of 80 digits. Drawn: p-values of
fresh samples. A right sampler fails one such test with probability ``FALSE_ALARM``, and a wrong scale passes
it with less, at the sizes given beside each.
"""

from __future__ import annotations

import math
import os
import tracemalloc
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chi2

from secagg.errors import ParameterError
from secagg.privacy import noise
from secagg.privacy.noise import BLOCK, SAMPLING_ERROR, AliasTable, DiscreteGaussian, reach
from tests.adversary.reference import Tape, stream
from tests.counts import FULL, count
from tests.privacy.randomness import Watched

mp = mpmath.mp.clone()
mp.dps = 80

FALSE_ALARM = 1e-12
"""Probability with which a right sampler fails one statistical test; there are about forty in a run."""

ONE_TABLE = (0.5, 0.61, 4.0, 17.3, 256.0, 682.0) if FULL else (0.5, 4.0, 256.0)
TWO_TABLES = (682.0000001, 700.0, 1500.5) if FULL else (700.0,)


# --- the exact distribution -----------------------------------------------------------------------------


@cache
def drawn(sigma: float) -> tuple[NDArray[Any], int]:
    """Return the integers proportional to the probabilities of -reach to reach, and their sum."""
    total, whole = np.array([1], object), 1
    for factor, table in DiscreteGaussian(sigma).parts:
        units = table.units()
        spread = np.zeros(total.size + factor * (len(units) - 1), object)
        for i, unit in enumerate(units):
            spread[factor * i : factor * i + total.size] += unit * total
        total, whole = spread, whole * sum(units)
    return total, whole


@cache
def true_weights(sigma: float, radius: int) -> tuple[list[Any], Any]:
    """Return ``exp(-z**2 / (2 sigma**2))`` for z from -radius to radius, and the sum over all integers."""
    variance = mp.mpf(sigma) ** 2
    side = [mp.exp(-mp.mpf(z * z) / (2 * variance)) for z in range(radius + 1)]
    # By Poisson summation, to more digits than are kept.
    waves = mp.fsum(mp.exp(-2 * (mp.pi * n) ** 2 * variance) for n in range(1, 10))
    return [*reversed(side[1:]), *side], sigma * mp.sqrt(2 * mp.pi) * (1 + 2 * waves)


def distance(sigma: float, *, true_sigma: float | None = None) -> Any:
    """Return the total variation distance between what is drawn and the discrete Gaussian."""
    units, whole = drawn(sigma)
    weights, total = true_weights(sigma if true_sigma is None else true_sigma, units.size // 2)
    inside = [weight / total for weight in weights]
    apart = mp.fsum(abs(mp.mpf(int(u)) / whole - p) for u, p in zip(units, inside, strict=True))
    return (apart + (1 - mp.fsum(inside))) / 2


@pytest.mark.parametrize("sigma", [*ONE_TABLE, *TWO_TABLES])
def test_what_is_drawn_is_within_the_sampling_error(sigma: float) -> None:
    assert len(DiscreteGaussian(sigma).parts) == (2 if sigma > 682 else 1)
    assert 0 < distance(sigma) < SAMPLING_ERROR


@pytest.mark.parametrize("sigma", [4.0, *TWO_TABLES])
def test_a_neighbouring_sigma_is_not(sigma: float) -> None:
    assert distance(sigma, true_sigma=math.nextafter(sigma, 0)) > 2**20 * SAMPLING_ERROR


def test_the_parts_of_the_error_add_up_to_less_than_the_bound() -> None:
    """The derivation of the docstring, for the largest sigma and where the convolution is at its worst."""
    tail = mp.erfc(12 / mp.sqrt(2))
    rounded = mp.mpf(2) ** -113
    t = mp.mpf(512) / 160 * mp.sqrt(1 - mp.mpf(512**2) / 682**2)
    e = 2 * mp.fsum(mp.exp(-2 * (mp.pi * n * t) ** 2) for n in range(1, 10))
    assert tail < mp.mpf(2) ** -107.7
    assert t > 2.11
    assert e / (1 - e) < mp.mpf(2) ** -125
    parts = DiscreteGaussian(2.0**40).parts
    assert len(parts) == 6
    assert all(2 * table.radius + 1 <= 2**14 for _, table in parts)
    assert len(parts) * (tail + rounded) + (len(parts) - 1) * e / (1 - e) < SAMPLING_ERROR


@given(st.floats(math.log(682.01), 40 * math.log(2)))
def test_the_variances_of_the_parts_add_up_exactly(logarithm: float) -> None:
    sigma = math.exp(logarithm)
    parts = noise._parts(sigma)
    assert sum(factor**2 * variance for factor, variance in parts) == Fraction(sigma) ** 2
    assert all(0.25 <= variance <= 682**2 for _, variance in parts)
    # What the bound on the convolution rests on, at each level: t > 2.11.
    for i in range(len(parts) - 1):
        inner, outer = parts[i], parts[i + 1 :]
        rest = sum(factor**2 * variance for factor, variance in outer) / (inner[0] * 160) ** 2
        assert inner[1] * rest / (inner[1] + 160**2 * rest) > 2.11**2


@pytest.mark.parametrize("sigma", ONE_TABLE)
def test_probabilities_are_symmetric_and_add_up_to_one(sigma: float) -> None:
    ((_, table),) = DiscreteGaussian(sigma).parts
    assert table.units() == table.units()[::-1]
    assert sum(table.units()) == 2**128


# --- reach --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [*ONE_TABLE, *TWO_TABLES])
def test_what_is_drawn_goes_as_far_as_reach_says(sigma: float) -> None:
    units, _ = drawn(sigma)
    assert units.size == 2 * reach(sigma) + 1
    assert units[0] == units[-1] > 0


SIGMAS = st.one_of(st.floats(0.5, 1000.0), st.floats(-1.0, 40.0).map(lambda exponent: 2.0**exponent))


@given(SIGMAS, SIGMAS)
def test_reach_is_12_to_18_sigma_and_never_falls(one: float, other: float) -> None:
    assert 12 * one <= reach(one) <= 18 * one
    assert reach(min(one, other)) <= reach(max(one, other))


def test_reach_does_not_fall_where_another_table_comes_in() -> None:
    edge = float(noise._LARGEST)
    for _ in range(5):
        near = [edge * (1 + k * 1e-9) for k in range(-20, 21)]
        reaches = [reach(sigma) for sigma in near]
        assert reaches == sorted(reaches)
        assert len({len(noise._parts(sigma)) for sigma in near}) == 2
        edge = math.hypot(160 * edge, 512)


# --- from words to values ---------------------------------------------------------------------------------


def value_of(table: AliasTable, word: int) -> int:
    """Return the value for 128 bits, one column and one comparison at a time."""
    bits = 128 - table._column_bits
    column = word >> bits
    threshold = int(table._first[column]) << 64 | int(table._second[column])
    above, below = table._values.reshape(-1, 2)[column].tolist()
    return int(below if word < threshold else above)


class Tie:
    """A random source that decides ties by one number."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.asked = 0

    def __call__(self, size: int) -> bytes:
        self.asked += 1
        return (self.number % 2**64).to_bytes(size, "little")


def draw(table: AliasTable, words: Sequence[int], random: Tie) -> list[int]:
    out = np.empty(len(words), np.int64)
    table.draw_into(out, np.array(words, np.uint64), random=random)
    return [int(value) for value in out]


@pytest.mark.parametrize("sigma", [0.5, 4.0, 256.0])
def test_the_first_word_decides_unless_it_is_tied(sigma: float) -> None:
    ((_, table),) = DiscreteGaussian(sigma).parts
    edges = [word % 2**64 for first in table._first.tolist() for word in (first - 1, first + 1)]
    words = [0, 2**64 - 1, *edges, *np.frombuffer(os.urandom(8000), np.uint64).tolist()]
    ties = set(table._first.tolist())
    words = [word for word in words if word not in ties]
    never = Tie(0)
    assert draw(table, words, never) == [value_of(table, word << 64) for word in words]
    assert never.asked == 0


@pytest.mark.parametrize("sigma", [0.5, 4.0])
def test_a_tie_takes_a_second_word(sigma: float) -> None:
    ((_, table),) = DiscreteGaussian(sigma).parts
    differ = 0
    for first, second in zip(table._first.tolist(), table._second.tolist(), strict=True):
        for number in {0, max(second - 1, 0), second, 2**64 - 1}:
            tie = Tie(number)
            assert draw(table, [first], tie) == [value_of(table, first << 64 | number)]
            assert tie.asked == 1
        differ += value_of(table, first << 64) != value_of(table, first << 64 | 2**64 - 1)
    assert differ > 1


def test_each_part_of_each_block_has_words_of_its_own() -> None:
    sigma, length = 700.0, BLOCK + 5
    gaussian = DiscreteGaussian(sigma, random=Tape("words"))
    keys, expected = Tape("words"), []
    for size in (BLOCK, 5):
        words = stream(keys(32), 2 * size, 64).tolist()
        (_, inner), (factor, outer) = gaussian.parts
        expected += [
            value_of(inner, x << 64) + factor * value_of(outer, y << 64)
            for x, y in zip(words[:size], words[size:], strict=True)
        ][:50]
    made = gaussian.sample(length)
    assert [*made[:50], *made[BLOCK:]] == expected


# --- samples --------------------------------------------------------------------------------------------


def quantile_edges(sigma: float, bins: int) -> NDArray[np.float64]:
    """Return half-integers between bins of about the same probability."""
    steps = mpmath.mp
    at = [float(sigma * math.sqrt(2) * steps.erfinv(2 * i / bins - 1)) for i in range(1, bins)]
    return np.unique(np.floor(at) + 0.5)


def bin_probabilities(sigma: float, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probabilities between ``edges``, off by less than 1e-9: sums of the weights of integers."""
    z = np.arange(-math.ceil(9 * sigma), math.ceil(9 * sigma) + 1)
    weights = np.exp(-0.5 * (z / sigma) ** 2)
    return np.asarray(np.bincount(np.searchsorted(edges, z), weights, edges.size + 1) / weights.sum())


def p_value(sample: NDArray[np.int64], sigma: float) -> float:
    """Return the p-value of Pearson's chi-square for the discrete Gaussian of ``sigma``, in 32 bins."""
    edges = quantile_edges(sigma, 32)
    expected = sample.size * bin_probabilities(sigma, edges)
    assert expected.min() > 500  # so that the statistic has the distribution that it is named after
    seen = np.bincount(np.searchsorted(edges, sample), minlength=edges.size + 1)
    return float(chi2.sf(((seen - expected) ** 2 / expected).sum(), edges.size))


def p_value_of_two(one: NDArray[np.int64], other: NDArray[np.int64], sigma: float) -> float:
    """Return the p-value for two samples of the same size being from one distribution, in 32 bins."""
    edges = quantile_edges(sigma, 32)
    a, b = (np.bincount(np.searchsorted(edges, sample), minlength=edges.size + 1) for sample in (one, other))
    kept = a + b > 0
    return float(chi2.sf(((a - b)[kept] ** 2 / (a + b)[kept]).sum(), kept.sum() - 1))


SIZE = count(100_000, full=1_000_000)
"""With 100,000 variables the expected chi-square of 2/3 and 3/2 of the scale is above 15,000, and at most 122
is accepted; its standard deviation is a few hundred."""


@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0, 256.0, 700.0, 1e5])
def test_the_right_scale_fits_and_two_thirds_and_three_halves_of_it_do_not(sigma: float) -> None:
    sample = DiscreteGaussian(sigma).sample(SIZE)
    assert p_value(sample, sigma) > FALSE_ALARM
    for wrong in (2 / 3, 3 / 2):
        if sigma * wrong >= 0.5:
            assert p_value(DiscreteGaussian(sigma * wrong).sample(SIZE), sigma) < FALSE_ALARM
        assert p_value(sample, sigma * wrong) < FALSE_ALARM


@pytest.mark.parametrize("sigma", [3e7, 2.0**40])
def test_the_second_moment_of_many_parts_is_that_of_the_right_scale_alone(sigma: float) -> None:
    """The mean of squares of n variables has a standard deviation of sqrt(2 / n); 7 of them are 3e-12."""
    sample = DiscreteGaussian(sigma).sample(20_000)

    def fits(scale: float) -> bool:
        return bool(abs(np.mean((sample / (sigma * scale)) ** 2) - 1) < 7 * math.sqrt(2 / sample.size))

    assert fits(1)
    assert not fits(2 / 3)
    assert not fits(3 / 2)
    assert not fits(1.1)
    assert not fits(0.9)
    assert abs(sample.mean()) < 7 * sigma / math.sqrt(sample.size)


@pytest.mark.parametrize("sigma", [700.0, 1e5, 2.0**40])
def test_no_trace_of_the_factor_is_left(sigma: float) -> None:
    """160 divides the outer part: remainders are uniform all the same (100,000 of them, 160 bins)."""
    seen = np.bincount(DiscreteGaussian(sigma).sample(100_000) % 160, minlength=160)
    assert chi2.sf(((seen - 625) ** 2 / 625).sum(), 159) > FALSE_ALARM


def test_neighbours_are_independent() -> None:
    """Correlations of 100,000 pairs have a standard deviation of 0.0032; 7 of them are 3e-12."""
    sample = DiscreteGaussian(700.0).sample(100_000 + BLOCK) / 700.0
    for lag in (1, 2, BLOCK):
        assert abs(np.mean(sample[:100_000] * sample[lag : lag + 100_000])) < 7 / math.sqrt(100_000)


@pytest.mark.parametrize("sigma", [4.5, 256.0, 1000.0])
def test_it_cannot_be_told_from_the_exact_sampler_of_opendp(sigma: float) -> None:
    """10,000 variables of each; the expected chi-square of 2/3 and 3/2 of the scale is above 1,000, and at
    most 122 is accepted.
    """
    import opendp.prelude as dp

    size = count(10_000, full=100_000)
    dp.enable_features("contrib")
    add_noise = dp.m.make_gaussian(dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="i64"), sigma)
    theirs = np.array(add_noise([0] * size), np.int64)
    assert p_value_of_two(theirs, DiscreteGaussian(sigma).sample(size), sigma) > FALSE_ALARM
    for wrong in (2 / 3, 3 / 2):
        ours = DiscreteGaussian(sigma * wrong).sample(size)
        assert p_value_of_two(theirs, ours, sigma) < FALSE_ALARM


# --- what the noise is added to -------------------------------------------------------------------------


@pytest.mark.parametrize("word_bits", [32, 64])
@pytest.mark.parametrize("sigma", [*ONE_TABLE, *TWO_TABLES])
def test_neighbouring_integers_become_the_same_integers(sigma: float, word_bits: int) -> None:
    """But for some that are as improbable as the sampling error says; also where the word wraps."""
    units, whole = drawn(sigma)
    assert min(units) > 0  # no holes that a neighbour does not have

    def becomes(value: int) -> dict[int, int]:
        return {(value + z - units.size // 2) % 2**word_bits: int(unit) for z, unit in enumerate(units)}

    for value in (0, 2 ** (word_bits - 1) - 1, 2**word_bits - 1):
        one, other = becomes(value), becomes(value + 1)
        for mine, theirs in ((one, other), (other, one)):
            alone = sum(mine[output] for output in mine.keys() - theirs.keys())
            assert 0 < mp.mpf(alone) / whole <= SAMPLING_ERROR


@pytest.mark.parametrize(("sigma", "bits"), [(4.0, 1), (256.0, 5), (700.0, 7)])
def test_low_bits_do_not_tell_what_they_were_added_to(sigma: float, bits: int) -> None:
    units, whole = drawn(sigma)
    remainders = (np.arange(units.size) - units.size // 2) % 2**bits
    apart = [mp.mpf(int(units[remainders == r].sum())) / whole - mp.mpf(2) ** -bits for r in range(2**bits)]
    assert mp.fsum(map(abs, apart)) / 2 < SAMPLING_ERROR


def test_the_parity_of_narrow_noise_tells() -> None:
    """So the test above can fail."""
    units, whole = drawn(0.5)
    assert abs(int(units[::2].sum()) / whole - 0.5) > 0.2


SHARE = mp.mpf(4)
GRID = 4
"""Points of quadrature for each unit. The integrand is analytic, Gaussian along the line, and has its nearest
poles 4 pi off it, so the trapezoidal rule is off by far less than 1e-100."""


def rounded_at_random(variance: Any, radius: int, *, grid: int = GRID) -> list[Any]:
    """Return the probabilities of a continuous Gaussian that a discrete one of standard deviation 2 rounds.

    That is the mean over c of ``exp(-(z - c)**2 / 8)`` over its sum for all integers z.
    """
    points = range(-radius * grid, radius * grid + 1)
    kernel = [mp.exp(-(mp.mpf(i) ** 2) / (8 * grid**2)) for i in range(2 * radius * grid + 1)]
    # The sum has a period of 1, and is cut off beyond 13 standard deviations.
    sums = [mp.fsum(kernel[abs(z * grid - i)] for z in range(-radius // 2, radius // 2)) for i in range(grid)]
    density = [
        mp.exp(-(mp.mpf(i) ** 2) / (2 * variance * grid**2))
        / (mp.sqrt(2 * mp.pi * variance) * grid * sums[i % grid])
        for i in points
    ]
    side = [
        mp.fsum(d * kernel[abs(z * grid - i)] for i, d in zip(points, density, strict=True))
        for z in range(radius + 1)
    ]
    return [*reversed(side[1:]), *side]


def sum_of_shares(m: int, radius: int) -> list[Any]:
    """Return the probabilities of a sum of m discrete Gaussians of standard deviation 4."""
    weights, total = true_weights(float(SHARE), radius)
    one = np.array([weight / total for weight in weights], object)
    summed = one
    for _ in range(m - 1):
        summed = np.convolve(summed, one)
    middle = summed.size // 2
    return list(summed[middle - radius : middle + radius + 1])


@pytest.mark.parametrize("m", [1, 2, 3] if FULL else [2, 3])
def test_a_sum_of_shares_is_a_rounded_gaussian_of_less_variance(m: int) -> None:
    """Of 4 less than the sum's: what is accounted for m honest shares of sigma 4 or more."""
    radius = math.ceil(13 * 4 * math.sqrt(m))
    shares, rounded = sum_of_shares(m, radius), rounded_at_random(m * SHARE**2 - 4, radius)
    beyond = 1 - mp.fsum(shares), 1 - mp.fsum(rounded)
    assert all(abs(mass) < 1e-34 for mass in beyond)
    apart = mp.fsum(abs(a - b) for a, b in zip(shares, rounded, strict=True)) + sum(map(abs, beyond))
    assert 0 < apart / 2 < 1e-30


def test_a_sum_of_shares_is_no_rounded_gaussian_of_other_variance() -> None:
    radius = math.ceil(13 * 4 * math.sqrt(2))
    shares, rounded = sum_of_shares(2, radius), rounded_at_random(2 * SHARE**2 - mp.mpf("3.999999"), radius)
    assert mp.fsum(abs(a - b) for a, b in zip(shares, rounded, strict=True)) / 2 > 1e-9


def test_the_quadrature_of_the_two_tests_above_is_fine_enough() -> None:
    coarse, fine = (rounded_at_random(mp.mpf(28), 90, grid=grid) for grid in (GRID, 2 * GRID))
    assert max(abs(a - b) for a, b in zip(coarse, fine, strict=True)) < 1e-60


# --- vectors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [4.0, 700.0, 2.0**40])
@pytest.mark.parametrize("length", [0, 1, 7, BLOCK, 2 * BLOCK + 3])
@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_it_is_added_modulo_the_word_size(sigma: float, length: int, dtype: type[Any]) -> None:
    noise_added = DiscreteGaussian(sigma, random=Tape("add")).sample(length)
    top = 2 ** (8 * np.dtype(dtype).itemsize)
    vector = np.resize(np.array([0, top - 1, top // 2, 5], dtype), length)
    expected = [(int(v) + int(z)) % top for v, z in zip(vector, noise_added, strict=True)]
    DiscreteGaussian(sigma, random=Tape("add")).add_to(vector)
    assert vector.dtype == dtype
    assert vector.tolist() == expected


def test_every_other_entry_of_a_vector_can_be_meant() -> None:
    vector = np.zeros(2000, np.uint32)
    DiscreteGaussian(1e5).add_to(vector[::2])
    assert np.count_nonzero(vector[::2]) > 900
    assert not vector[1::2].any()


def test_each_block_takes_a_key_of_its_own() -> None:
    random = Watched()
    gaussian = DiscreteGaussian(256.0, random=random)
    assert not random.given
    blocks = gaussian.sample(3 * BLOCK + 1)
    gaussian.add_to(np.zeros(2 * BLOCK, np.uint32))
    assert [len(key) for key in random.given] == [32] * (4 + 2)
    assert len(set(random.given)) == 6
    assert not np.array_equal(blocks[:BLOCK], blocks[BLOCK : 2 * BLOCK])


@pytest.mark.parametrize("sigma", [4.0, 1e5])
def test_the_same_bytes_give_the_same_noise_and_others_give_other_noise(sigma: float) -> None:
    made = [DiscreteGaussian(sigma, random=Tape(name)).sample(1000).tolist() for name in ("a", "a", "b")]
    assert made[0] == made[1] != made[2]
    again = DiscreteGaussian(sigma, random=Tape("a"))
    assert again.sample(1000).tolist() == made[0]
    assert again.sample(1000).tolist() != made[0]
    assert DiscreteGaussian(sigma).sample(1000).tolist() != DiscreteGaussian(sigma).sample(1000).tolist()


def test_what_is_added_is_made_block_by_block() -> None:
    gaussian = DiscreteGaussian(1e5)

    def peak(blocks: int) -> int:
        vector = np.zeros(blocks * BLOCK, np.uint32)
        tracemalloc.start()
        gaussian.add_to(vector)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(12) < peak(2) + BLOCK


# --- refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sigma",
    [
        0.0,
        -4.0,
        0.4999,
        math.nextafter(2.0**40, math.inf),
        math.nan,
        math.inf,
        -math.inf,
        10**400,
        True,
        "4",
        None,
    ],
)
def test_a_sigma_outside_its_range_is_refused(sigma: Any) -> None:
    with pytest.raises(ParameterError, match="sigma"):
        DiscreteGaussian(sigma)
    with pytest.raises(ParameterError, match="sigma"):
        reach(sigma)


@pytest.mark.parametrize(
    ("vector", "text"),
    [
        (np.zeros(3, np.int64), "int64"),
        (np.zeros(3, np.float64), "float64"),
        (np.zeros(3, np.uint16), "uint16"),
        (np.zeros(3, ">u4"), ">u4"),
        (np.zeros((3, 1), np.uint32), "one-dimensional"),
        (np.frombuffer(bytes(12), np.uint32), "writable"),
    ],
)
def test_a_vector_of_another_kind_is_refused_and_not_touched(vector: Any, text: str) -> None:
    random = Watched()
    with pytest.raises(ParameterError, match=text):
        DiscreteGaussian(4.0, random=random).add_to(vector)
    assert not vector.any()
    assert not random.given


@pytest.mark.parametrize("length", [-1, 1.5, "3", True])
def test_a_length_that_is_none_is_refused(length: Any) -> None:
    with pytest.raises(ParameterError, match="length"):
        DiscreteGaussian(4.0).sample(length)


def test_a_text_form_shows_no_noise_and_no_table() -> None:
    gaussian = DiscreteGaussian(4.0)
    assert "array" not in repr(gaussian) + repr(gaussian.parts)
