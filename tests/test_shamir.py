"""Secret sharing: any t shares, nothing from t - 1, and refusals."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import MalformedMessage, ParameterError
from secagg.hazmat.shamir import PRIME, SECRET_SIZE, SHARE_SIZE, combine, lagrange, split
from secagg.names import RandomSource

SECRET = bytes(range(32))
secrets = st.one_of(st.binary(min_size=32, max_size=32), st.sampled_from([bytes(32), b"\xff" * 32]))


def counter_source(seed: int) -> RandomSource:
    """Bytes that depend on the seed and on how often the source was asked."""
    calls = itertools.count()
    return lambda size: hashlib.shake_256(f"{seed}/{next(calls)}".encode()).digest(size)


def replay(values: Sequence[int]) -> RandomSource:
    """A source whose 48-byte answers are the given coefficients."""
    answers = iter(values)
    return lambda size: next(answers).to_bytes(size, "big")


def interpolate(points: Sequence[tuple[int, int]]) -> list[int]:
    """Coefficients, constant first, of the polynomial through the points: Newton's divided differences."""
    xs = [x for x, _ in points]
    table = [y for _, y in points]
    for level in range(1, len(points)):
        for i in range(len(points) - 1, level - 1, -1):
            table[i] = (table[i] - table[i - 1]) * pow(xs[i] - xs[i - level], -1, PRIME) % PRIME
    result = [0]
    for x, difference in zip(reversed(xs), reversed(table), strict=True):
        shifted = [0, *result]
        scaled = [coefficient * x for coefficient in (*result, 0)]
        result = [(a - b) % PRIME for a, b in zip(shifted, scaled, strict=True)]
        result[0] = (result[0] + difference) % PRIME
    return result[: len(points)]


def is_probable_prime(n: int) -> bool:
    """Miller-Rabin; 40 bases from a hash of n leave a composite one chance in 2**80."""
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for i in range(40):
        base = int.from_bytes(hashlib.shake_256(f"{n}/{i}".encode()).digest(48), "big") % (n - 3) + 2
        x = pow(base, odd, n)
        if x != 1 and n - 1 not in (pow(x, 2**j, n) for j in range(twos)):
            return False
    return True


def test_the_modulus_is_the_smallest_prime_above_every_secret() -> None:
    primes = [n for n in range(2**256, 2**256 + 298) if is_probable_prime(n)]
    assert primes == [PRIME]
    assert PRIME <= 256**SHARE_SIZE


@given(secret=secrets, n=st.integers(2, 9), data=st.data(), seed=st.integers(0, 2**32))
def test_any_t_of_n_shares_give_the_secret(secret: bytes, n: int, data: st.DataObject, seed: int) -> None:
    indices = data.draw(st.lists(st.integers(1, 1000), min_size=n, max_size=n, unique=True))
    threshold = data.draw(st.integers(2, n))
    shares = split(secret, threshold, indices, counter_source(seed))
    assert list(shares) == indices
    assert {len(share) for share in shares.values()} == {SHARE_SIZE}
    chosen = data.draw(st.permutations(indices))[: data.draw(st.integers(threshold, n))]
    assert combine(lagrange(chosen), [shares[i] for i in chosen]) == secret


def test_every_subset_of_six() -> None:
    shares = split(SECRET, 4, range(1, 7), os.urandom)
    for size in (4, 5, 6):
        for chosen in itertools.combinations(range(1, 7), size):
            assert combine(lagrange(chosen), [shares[i] for i in chosen]) == SECRET


@given(secret=secrets, candidate=secrets, t=st.integers(2, 6), data=st.data(), seed=st.integers(0, 2**32))
def test_fewer_shares_fit_every_secret(
    secret: bytes, candidate: bytes, t: int, data: st.DataObject, seed: int
) -> None:
    # For t - 1 shares and any candidate there is exactly one choice of coefficients, and the dealer picks
    # among all choices alike: the shares say nothing.
    indices = range(1, 9)
    shares = split(secret, t, indices, counter_source(seed))
    known = data.draw(st.permutations(indices))[: t - 1]
    points = [(0, int.from_bytes(candidate, "big"))]
    points += [(i, int.from_bytes(shares[i], "big")) for i in known]
    constant, *rising = interpolate(points)
    assert constant == int.from_bytes(candidate, "big")
    again = split(candidate, t, indices, replay(rising[::-1]))
    assert all(again[i] == shares[i] for i in known)


def test_every_coefficient_is_48_fresh_bytes() -> None:
    asked: list[int] = []

    def random(size: int) -> bytes:
        asked.append(size)
        return os.urandom(size)

    split(SECRET, 5, range(1, 8), random)
    assert asked == [48] * 4


@pytest.mark.parametrize("position", range(4))
def test_every_coefficient_reaches_every_share(position: int) -> None:
    coefficients = [3**200, 5**100, 7**90, 11**70]
    before = split(SECRET, 5, range(1, 8), replay(coefficients))
    coefficients[position] += 1
    after = split(SECRET, 5, range(1, 8), replay(coefficients))
    assert all(before[i] != after[i] for i in range(1, 8))


def test_coefficients_are_taken_modulo_the_prime() -> None:
    coefficients = [2**384 - 1, PRIME, PRIME - 1]
    reduced = [value % PRIME for value in coefficients]
    assert split(SECRET, 4, (1, 2, 3, 4), replay(coefficients)) == split(
        SECRET, 4, (1, 2, 3, 4), replay(reduced)
    )


def test_two_splits_of_one_secret_share_nothing() -> None:
    first = split(SECRET, 3, range(1, 6), os.urandom)
    second = split(SECRET, 3, range(1, 6), os.urandom)
    assert set(first.values()).isdisjoint(second.values())


@pytest.mark.parametrize("secret", [b"", bytes(31), bytes(33)])
def test_a_secret_of_another_length_is_refused(secret: bytes) -> None:
    with pytest.raises(ParameterError):
        split(secret, 2, (1, 2, 3), os.urandom)


@pytest.mark.parametrize("threshold", [-1, 0, 1, 4])
def test_a_threshold_that_protects_nothing_or_cannot_be_met_is_refused(threshold: int) -> None:
    with pytest.raises(ParameterError):
        split(SECRET, threshold, (1, 2, 3), os.urandom)


@pytest.mark.parametrize("indices", [(0, 1, 2), (1, 1, 2), (-1, 1, 2), (1, 2, PRIME), (1, 2, PRIME + 1)])
def test_indices_are_distinct_and_not_zero(indices: tuple[int, ...]) -> None:
    with pytest.raises(ParameterError):
        split(SECRET, 2, indices, os.urandom)
    with pytest.raises(ParameterError):
        lagrange(indices)


def test_no_indices_have_no_weights() -> None:
    with pytest.raises(ParameterError):
        lagrange(())


SHARES = [share for _, share in sorted(split(SECRET, 3, (1, 2, 3), counter_source(1)).items())]
WEIGHTS = lagrange((1, 2, 3))


@pytest.mark.parametrize(
    "share",
    [b"", SHARES[0][1:], SHARES[0] + b"\x00", b"\x00" + SHARES[0], PRIME.to_bytes(33, "big"), b"\xff" * 33],
)
def test_a_share_that_is_no_field_element_is_refused(share: bytes) -> None:
    with pytest.raises(MalformedMessage):
        combine(WEIGHTS, [share, *SHARES[1:]])


def test_shares_and_weights_go_together() -> None:
    assert combine(WEIGHTS, SHARES) == SECRET
    for shares in (SHARES[:2], [*SHARES, SHARES[0]], []):
        with pytest.raises(ParameterError):
            combine(WEIGHTS, shares)


def test_a_wrong_order_or_too_few_shares_do_not_give_the_secret() -> None:
    assert combine(lagrange((1, 2)), SHARES[:2]) != SECRET
    assert combine(WEIGHTS, SHARES[::-1]) != SECRET


def test_a_flipped_bit_does_not_give_the_secret() -> None:
    changed = bytearray(SHARES[1])
    changed[-1] ^= 1
    assert combine(WEIGHTS, [SHARES[0], bytes(changed), SHARES[2]]) != SECRET


@pytest.mark.parametrize("value", [2**256, PRIME - 1])
def test_a_combined_value_that_is_no_secret_is_refused(value: int) -> None:
    constant = value.to_bytes(SHARE_SIZE, "big")  # The polynomial of degree 0.
    with pytest.raises(MalformedMessage):
        combine(WEIGHTS, [constant] * 3)
    largest = (2**256 - 1).to_bytes(SHARE_SIZE, "big")
    assert combine(WEIGHTS, [largest] * 3) == b"\xff" * SECRET_SIZE


def test_no_error_shows_a_share() -> None:
    share = (PRIME + 12345).to_bytes(SHARE_SIZE, "big")
    with pytest.raises(MalformedMessage) as refused:
        combine(WEIGHTS, [share, *SHARES[1:]])
    assert share.hex() not in str(refused.value)
    assert str(PRIME + 12345) not in str(refused.value)
