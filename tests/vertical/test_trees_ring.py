"""Products of polynomials are exact, also where they are largest, and coefficients survive packing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from secagg.errors import MalformedMessage
from secagg.vertical.trees.lattice import STRIDE
from secagg.vertical.trees.ring import (
    LIMB_BITS,
    LIMBS,
    MODULUS_BITS,
    PACKED,
    PRODUCTS,
    Integers,
    N,
    carried,
    coefficients,
    packed,
    rounded,
    transform,
    uniform,
    unpacked,
)

MODULUS = 1 << MODULUS_BITS
RANDOM = np.random.default_rng(1)


def numbers(limbs: Integers) -> list[int]:
    """Return coefficients as Python integers below the modulus."""
    weights = [1 << LIMB_BITS * at for at in range(LIMBS)]
    return [
        sum(int(limb) * weight for limb, weight in zip(column, weights, strict=True)) % MODULUS
        for column in limbs.T
    ]


def product(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a product modulo X^N + 1 of integers small enough for int64, the slow way."""
    full = np.zeros(2 * N, np.int64)
    for at in np.flatnonzero(a):
        full[at : at + N] += a[at] * b
    return full[:N] - full[N:]


def test_transforms_multiply_modulo_x_to_the_n_plus_1() -> None:
    a = RANDOM.integers(-1, 2, N)
    for b in (RANDOM.integers(-(1 << 20), 1 << 20, N), np.full(N, -(1 << 20)), np.eye(1, N, N - 1, int)[0]):
        np.testing.assert_array_equal(coefficients(transform(a) * transform(b)), product(a, b))


WAVE = np.cos(2 * np.pi * 5 * (np.arange(N) + 0.5) / N)
LARGEST = {
    "all of one sign": np.full(N, -(1 << 20)),
    "alternating": np.where(np.arange(N) % 2, -(1 << 20), (1 << 20) - 1),
    "one frequency": np.where(WAVE < 0, -(1 << 20), (1 << 20) - 1),  # What a transform gathers in one point.
    "any": RANDOM.choice([-(1 << 20), (1 << 20) - 1], N),
}


@pytest.mark.parametrize("five", [(0, 1, 2, 3, 4), (0, 2, 4, 5, 7)])
def test_as_many_products_as_may_be_added_come_out_exactly(five: tuple[int, ...]) -> None:
    """Full ciphertexts of the largest limbs, each row in five of eight cells, all alike: errors add up."""
    ones = np.zeros(N, np.int64)
    ones[(np.array(five)[:, None] - STRIDE * np.arange(N // STRIDE)).reshape(-1) % N] = 1
    ones[N // 2 :] *= -1  # As where X^N wraps.
    assert np.abs(ones).sum() == 2560
    limbs = np.stack([*LARGEST.values()])
    # By the same products of matrices as sums are.
    selected = np.repeat(transform(ones)[:, None, None], PRODUCTS, axis=2)
    total = np.matmul(selected, np.repeat(transform(limbs).T[:, None], PRODUCTS, axis=1))[:, 0].T
    wanted = PRODUCTS * np.stack([product(ones, limb) for limb in limbs])
    np.testing.assert_array_equal(coefficients(total), wanted)
    exact = np.fft.ifft(total) * np.exp(-1j * np.pi * np.arange(N // 2) / N)
    error = np.abs(np.concatenate([exact.real, exact.imag], axis=-1) - wanted).max()
    assert error < 0.05, "rounding has less room than was reckoned"


def test_products_bound_what_rows_can_ask_for() -> None:
    # Eight neighbouring cells are of five columns at most, since each has two or more: five ones for a row.
    most = 5 * (N // STRIDE)
    assert most == 2560
    error = (152 + 3 * PRODUCTS) * PRODUCTS * 2.0**-53 * np.sqrt(most) * 2.0**20 * np.sqrt(N)
    assert error < 0.34


@given(st.lists(st.integers(-(1 << 61), 1 << 61), min_size=LIMBS, max_size=LIMBS))
def test_carrying_changes_no_coefficient(column: list[int]) -> None:
    limbs = np.tile(np.array(column)[:, None], (1, N))
    found = carried(limbs)
    assert numbers(found[:, :1]) == numbers(limbs[:, :1])
    assert found.min() >= -(1 << 20)
    assert found.max() < 1 << 20


def test_elements_survive_packing() -> None:
    limbs = np.concatenate(
        [
            uniform(bytes(32), 2),
            np.full((1, LIMBS, N), -(1 << 20)),
            np.full((1, LIMBS, N), (1 << 20) - 1),
        ]
    )
    data = packed(limbs)
    assert data.shape == (4, N, PACKED)
    np.testing.assert_array_equal(unpacked(data), limbs)
    assert [int.from_bytes(row.tobytes(), "little") for row in data[0, :3, :8]] == [
        number & ((1 << 63) - 1) for number in numbers(limbs[0])[:3]
    ]


@pytest.mark.parametrize("byte", [7, 13])
def test_coefficients_beyond_the_modulus_are_refused(byte: int) -> None:
    data = packed(uniform(bytes(32), 1)).copy()
    data[0, 5, byte] |= 0x80
    with pytest.raises(MalformedMessage, match="not below the modulus"):
        unpacked(data)


@pytest.mark.parametrize("bits", [43, 48, 62])
def test_upper_bits_are_rounded(bits: int) -> None:
    limbs = uniform(bytes(range(32)), 1)[0]
    away = MODULUS_BITS - bits
    wanted = [((number + (1 << (away - 1))) >> away) % (1 << bits) for number in numbers(limbs)]
    assert rounded(limbs, bits).tolist() == wanted


def test_a_seed_makes_uniform_limbs() -> None:
    one, other = uniform(bytes(32), 3), uniform(b"\1" + bytes(31), 3)
    np.testing.assert_array_equal(one, uniform(bytes(32), 3))
    assert (one != other).mean() > 0.99
    np.testing.assert_array_equal(one[:2], uniform(bytes(32), 2))
    for limb in one[0]:
        bits = [(limb >> at & 1).mean() for at in range(LIMB_BITS)]
        assert np.abs(np.array(bits) - 0.5).max() < 6 * 0.5 / np.sqrt(N)
