"""The ring, what is drawn, ciphertexts and products, against big integers and against their own bounds."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secagg.errors import ParameterError, UsageError
from secagg.hazmat.short import ERROR_LIMIT
from secagg.vertical.lattice import product
from secagg.vertical.lattice.ciphertexts import MASK, PLAIN, PLAIN_BITS, SecretKey, centred
from secagg.vertical.lattice.product import (
    Layout,
    Matrix,
    hide,
    noise_bound,
    opened,
    rounded_to,
    scale_bits,
    unmasked,
)
from secagg.vertical.lattice.ring import (
    DEGREE,
    MODULUS,
    MOST_MODULUS_BITS,
    NARROW,
    PRIMES,
    WIDE,
    Limbs,
    Ring,
    Sum,
    narrowed,
)
from secagg.vertical.lattice.sampling import (
    FLOOD_BITS,
    flood,
    uniform,
    words,
)
from tests.counts import count

NARROW_MODULUS = math.prod(NARROW.primes)


def joined(limbs: Limbs, primes: tuple[int, ...] = PRIMES) -> list[int]:
    """Return what residues, shape (primes, n), are of, centred: by the Chinese remainder theorem."""
    modulus = math.prod(primes)
    bases = [modulus // p * pow(modulus // p, -1, p) for p in primes]
    found = [sum(int(r) * b for r, b in zip(column, bases, strict=True)) % modulus for column in limbs.T]
    return [value - modulus if value > modulus // 2 else value for value in found]


def schoolbook(sparse: dict[int, int], dense: NDArray[np.int64], prime: int) -> list[int]:
    """Multiply modulo X^N + 1 and a prime with Python's integers."""
    total = [0] * DEGREE
    for power, factor in sparse.items():
        for at, value in enumerate(dense.tolist()):
            place = at + power
            total[place % DEGREE] += factor * value * (-1 if place >= DEGREE else 1)
    return [value % prime for value in total]


# --- the ring ----------------------------------------------------------------------------------------


def test_the_primes_are_the_largest_that_serve_and_leave_the_standards_security() -> None:
    def prime(number: int) -> bool:
        # Deterministic for numbers below 3 * 10^9 with these bases; and by trial, as a second opinion.
        return all(number % divisor for divisor in range(2, math.isqrt(number) + 1))

    assert all(prime(p) and p % (2 * DEGREE) == 1 for p in PRIMES)
    between = range(PRIMES[-1], 1 << 30, 2 * DEGREE)
    assert sorted(p for p in between if prime(p)) == sorted(PRIMES)
    assert MODULUS.bit_length() <= MOST_MODULUS_BITS


@settings(max_examples=5)
@given(
    sparse=st.dictionaries(st.integers(0, DEGREE - 1), st.integers(-(2**29), 2**29), min_size=1, max_size=4),
    seed=st.integers(0, 2**32 - 1),
)
def test_products_are_those_of_polynomials(sparse: dict[int, int], seed: int) -> None:
    dense = np.random.default_rng(seed).integers(-(2**29), 2**29, DEGREE)
    one = np.zeros(DEGREE, np.int64)
    one[list(sparse)] = list(sparse.values())
    values = WIDE.product(WIDE.forward(one[None]), WIDE.forward(dense[None]))
    for limb, prime in zip(WIDE.inverse(values), PRIMES, strict=True):
        assert limb.tolist() == schoolbook(sparse, dense, prime)


@pytest.mark.parametrize("ring", [WIDE, NARROW])
def test_the_largest_residues_are_transformed_exactly(ring: Ring) -> None:
    most = np.repeat(ring.moduli.astype(np.uint32) - 1, DEGREE, axis=1)  # -1 in every coefficient.
    product_of = ring.inverse(ring.product(ring.forward(most), ring.forward(most)))
    # (sum of X^k)^2: k + 1 ways to reach k, and N - 1 - k to reach it beyond X^N = -1.
    expected = 2 * np.arange(DEGREE) + 2 - DEGREE
    np.testing.assert_array_equal(product_of, ring.of_integers(expected))
    np.testing.assert_array_equal(ring.inverse(ring.forward(most)), most)


def test_a_sum_does_not_overflow_however_many_products_it_has() -> None:
    most = np.repeat(WIDE.moduli - 1, DEGREE, axis=1)
    total = Sum(WIDE, 1)
    for _ in range(40):
        total.add(most[None], most.astype(np.uint32))
    assert (total.residues() == 40).all()  # (-1)^2, 40 times.


def test_narrowing_divides_and_rounds() -> None:
    limbs = uniform(bytes(32), 1, WIDE)[0]
    exact = [value * NARROW_MODULUS / MODULUS for value in joined(limbs[:, :200])]
    found = joined(narrowed(limbs)[:, :200], NARROW.primes)
    assert max(abs(f - e) for f, e in zip(found, exact, strict=True)) <= 0.5 + 2**-20


# --- what is drawn -----------------------------------------------------------------------------------


def test_public_polynomials_are_a_function_of_their_seed_and_uniform() -> None:
    one = uniform(bytes(32), 8, WIDE)
    np.testing.assert_array_equal(one, uniform(bytes(32), 8, WIDE))
    assert (one < WIDE.moduli).all()
    assert (one != uniform(bytes(31) + b"\x01", 8, WIDE)).mean() > 0.99
    assert len({limb.tobytes() for polynomial in one for limb in polynomial}) == 40
    assert_uniform((one / WIDE.moduli).reshape(-1))


def test_flooding_noise_is_uniform_over_its_whole_range() -> None:
    drawn = joined(flood(20_000, WIDE, np.random.default_rng(4).bytes))
    half = 1 << FLOOD_BITS - 1
    assert -half <= min(drawn)
    assert max(drawn) < half
    assert_uniform(np.array([(value + half) / 2**FLOOD_BITS for value in drawn]))
    assert_uniform(np.array([value % 2**20 / 2**20 for value in drawn]))


def test_the_ends_of_flooding_noise_are_where_they_should_be() -> None:
    assert joined(flood(3, WIDE, lambda size: bytes(size))) == [-(1 << FLOOD_BITS - 1)] * 3
    assert joined(flood(3, WIDE, lambda size: b"\xff" * size)) == [(1 << FLOOD_BITS - 1) - 1] * 3


def assert_uniform(unit: NDArray[np.float64]) -> None:
    """Refuse numbers from 0 to 1 whose histogram is none of a uniform one, but for one in a billion."""
    counts = np.histogram(unit, bins=64, range=(0, 1))[0]
    expected = len(unit) / 64
    assert ((counts - expected) ** 2 / expected).sum() < 63 + 6.5 * math.sqrt(2 * 63) + 20


# --- ciphertexts -------------------------------------------------------------------------------------


def test_a_ciphertext_is_what_it_says_by_big_integers() -> None:
    key = SecretKey()
    plain = np.random.default_rng(5).integers(-(2**58), 2**58, (1, DEGREE))
    seed, seconds = key.encrypt(plain)
    secret = joined(WIDE.inverse(key._secret))
    assert set(secret) == {-1, 0, 1}
    first, second = WIDE.inverse(uniform(seed, 1, WIDE)[0]), WIDE.inverse(seconds[0])
    a, b = joined(first), joined(second)
    for at in (0, 1, 4095, DEGREE - 1):
        product_of = sum(a[i] * secret[(at - i) % DEGREE] * (1 if i <= at else -1) for i in range(DEGREE))
        inverse = pow(PLAIN, -1, MODULUS)
        error = (b[at] - product_of - int(plain[0, at]) * inverse) % MODULUS
        assert min(error, MODULUS - error) <= ERROR_LIMIT


def test_a_key_shows_nothing_and_stays_where_it_is() -> None:
    key = SecretKey()
    assert repr(key) == "SecretKey()"
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(UsageError):
            copied(key)


@given(st.lists(st.integers(-(2**59), 2**59 - 1), min_size=1, max_size=20))
def test_words_stand_for_the_integers_around_zero(values: list[int]) -> None:
    integers = np.array(values)
    np.testing.assert_array_equal(centred(integers.view(np.uint64) & MASK), integers)


# --- products ----------------------------------------------------------------------------------------


@settings(max_examples=count(5, full=60))
@given(data=st.data())
def test_products_are_exact(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 3000)), data.draw(st.integers(1, 12))
    layout = data.draw(st.sampled_from([Layout.of(rows, columns), Layout(rows, 256), Layout(rows, DEGREE)]))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    entries = generator.integers(-(2**20), 2**20, (rows, columns)).astype(np.int32)
    vector = generator.integers(-(2**23), 2**23, rows).astype(np.int32)
    cached = data.draw(st.booleans())
    key, matrix = SecretKey(), Matrix(entries, layout, cache_size=1 << 26 if cached else 0)
    for _ in range(2):
        masked, masks = matrix.masked_product(key.public(), hide(key, vector, layout))
        products = unmasked(opened(key, masked, layout, columns), masks)
        np.testing.assert_array_equal(products, vector.astype(np.int64) @ entries.astype(np.int64))


def test_products_at_the_very_bounds_do_not_wrap() -> None:
    rows, bound = 5000, 1 << 23
    layout = Layout.of(rows, 2)
    real = np.full((rows, 2), 0.37)
    bits = scale_bits(real, layout, bound=bound, values=1 << 14)
    entries = rounded_to(real, bits)
    key, vector = SecretKey(), np.full(rows, -bound, np.int32)
    masked, masks = Matrix(entries, layout).masked_product(key.public(), hide(key, vector, layout))
    exact = -int(entries[:, 0].astype(object).sum()) * bound
    assert abs(exact) > 2 ** (PLAIN_BITS - 3), "the bounds are not reached"
    assert unmasked(opened(key, masked, layout, 2), masks).tolist() == [exact, exact]


@given(
    rows=st.integers(1, 400),
    columns=st.integers(1, 5),
    exponent=st.integers(-60, 60),
    bound=st.integers(1, 1 << 30),
    values=st.integers(1, 1 << 18),
    seed=st.integers(0, 2**32 - 1),
)
def test_fraction_bits_leave_no_room_for_wraps_or_for_what_noise_tells(
    rows: int, columns: int, exponent: int, bound: int, values: int, seed: int
) -> None:
    real = np.ldexp(np.random.default_rng(seed).normal(size=(rows, columns)), exponent)
    layout = Layout.of(rows, columns)
    bits = scale_bits(real, layout, bound=bound, values=values)
    entries = rounded_to(real, bits).astype(object)
    assert max(abs(entries).sum(axis=0)) * bound < 2 ** (PLAIN_BITS - 1)
    assert abs(entries).max() < 2**30
    norm = math.sqrt(max((entries**2).sum(axis=0)) * layout.packed)
    assert values * noise_bound(norm) <= 2 ** (FLOOD_BITS - product.STATISTICAL_BITS)


def test_too_many_rows_for_the_fixed_point_are_refused() -> None:
    with pytest.raises(ParameterError, match="fewer rows"):
        scale_bits(np.ones((1000, 1)), Layout.of(1000, 1), bound=1 << 30, values=1, least=25)


def test_what_is_opened_is_exact_with_the_largest_noise_there_can_be() -> None:
    # Noise, flooding and what narrowing rounds stay below half a plaintext's step.
    largest = (1 << FLOOD_BITS - 1) + (1 << FLOOD_BITS - product.STATISTICAL_BITS)
    # Two divisions, each of which rounds by (1 + |s|_1) / 2 at most.
    rounding = 2 * (1 + DEGREE) * MODULUS // NARROW_MODULUS
    assert 2 * PLAIN * (largest + rounding) < MODULUS


def bare_error(columns: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    """Return the largest error of products before flooding and narrowing, and its bound."""
    layout = Layout.of(rows, columns)
    seen: list[Limbs] = []

    def kept(limbs: Limbs) -> Limbs:
        seen.append(limbs)
        return narrowed(limbs)

    monkeypatch.setattr(product, "flood", lambda n, ring, _random: np.zeros((len(ring.primes), n), np.uint32))
    monkeypatch.setattr(product, "narrowed", kept)
    monkeypatch.setattr(product, "usable_cores", lambda: 1)  # Halves come in order.
    generator = np.random.default_rng(6)
    entries = generator.integers(-(2**20), 2**20, (rows, columns)).astype(np.int32)
    vector = generator.integers(-(2**23), 2**23, rows).astype(np.int32)
    key = SecretKey()
    _, masks = Matrix(entries, layout).masked_product(key.public(), hide(key, vector, layout))
    exact = vector.astype(np.int64) @ entries.astype(np.int64)
    worst = 0
    for at, (first, second) in enumerate(zip(seen[::2], seen[1::2], strict=True)):
        masked = WIDE.inverse(WIDE.product(WIDE.forward(first), key._secret))[:, layout.places]
        phase = joined(WIDE.difference(second, masked))
        for place, value in enumerate(phase):
            column = at * layout.packed + place
            if column < columns:
                plain = (int(exact[column]) + int(masks[column])) % PLAIN
                error = (value - plain * pow(PLAIN, -1, MODULUS)) % MODULUS
                worst = max(worst, min(error, MODULUS - error))
    norm = math.sqrt(max((entries.astype(np.int64) ** 2).sum(axis=0)) * layout.packed)
    return float(worst), noise_bound(norm)


@pytest.mark.parametrize(("columns", "rows"), [(24, 700), (6, 9000)])
def test_errors_of_products_stay_within_their_bound(
    columns: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    worst, bound = bare_error(columns, rows, monkeypatch)
    # Not beyond it, and not so far below that the bound would be of something else.
    assert bound / 100 < worst <= bound


def test_masks_are_uniform_and_of_every_product() -> None:
    layout, key = Layout(10, 16), SecretKey()
    matrix = Matrix(np.zeros((10, 2000), np.int32), layout)
    masked, masks = matrix.masked_product(key.public(), hide(key, np.zeros(10, np.int32), layout))
    products = opened(key, masked, layout, 2000)
    np.testing.assert_array_equal(products, masks)  # All that the holder gets of a zero is its mask.
    assert_uniform(products / PLAIN)
    assert_uniform(products % 1024 / 1024)
    assert len(set(words(1000, PLAIN_BITS, np.random.default_rng(7).bytes).tolist())) == 1000
