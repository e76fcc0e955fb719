"""Integers in limbs: what CKKS opens is rounded to exactly what was summed, or it is refused."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from secagg.ckks.coordinator import CKKSAdder
from secagg.ckks.limbs import WORST_ERROR, Limbs, plan_limbs
from secagg.ckks.parameters import RINGS, plan
from secagg.ckks.secret import SecretKey, open_sum
from secagg.ckks.silo import CKKSCipher
from secagg.errors import InputRefused, ParameterError, RoundAborted
from secagg.fixedpoint import SUM_LIMIT, Encoding, Segment
from secagg.names import IntegerVector, RealVector, WordBits
from tests.counts import count

WORDS: tuple[WordBits, ...] = (32, 64)
DEGREES = tuple(RINGS)
SMALL = min(RINGS)
COHORTS = range(2, 65)
ROUND = bytes(range(32))
# Beyond any federation: where the number of limbs changes.
MANY = sorted({2**e for e in range(1, 17)} | {3, 5, 48, 1000, 4095, 4097, 50_000})

word_sizes = st.sampled_from(WORDS)
degrees = st.sampled_from(DEGREES)


@cache
def planned(word_bits: WordBits, cohort: int, degree: int = SMALL, length: int = 12) -> Limbs:
    return plan_limbs(length, word_bits=word_bits, cohort=cohort, degree=degree)


def most(limbs: Limbs) -> int:
    """The largest magnitude of one silo's integer."""
    return SUM_LIMIT[limbs.word_bits] // limbs.parameters.cohort


def words(integers: list[int], word_bits: WordBits) -> IntegerVector:
    """Two's complement, by Python's integers."""
    residues = [i % (1 << word_bits) for i in integers]
    return np.array(residues, np.uint32) if word_bits == 32 else np.array(residues, np.uint64)


def integers(vector: IntegerVector) -> list[int]:
    modulus = 1 << 8 * vector.itemsize
    return [i - modulus if 2 * i >= modulus else i for i in vector.tolist()]


def corners(limbs: Limbs) -> list[int]:
    """Integers at which a limb or the whole is as large as it can be, or rounds the other way."""
    step, limit = 1 << limbs.bits, most(limbs)
    halves = [k * step + step // 2 + d for k in (0, 1, limit // step - 1) for d in (-1, 0, 1)]
    near = [0, 1, step - 1, step, step + 1, limit - 1, limit, limit // step * step, *halves]
    return sorted({sign * i for i in near for sign in (1, -1) if abs(i) <= limit})


def summed(limbs: Limbs, vectors: list[list[int]]) -> RealVector:
    """What CKKS would open without any error."""
    return np.asarray(np.sum([limbs.split(words(v, limbs.word_bits)) for v in vectors], axis=0))


def exact(vectors: list[list[int]]) -> list[int]:
    return [sum(entries) for entries in zip(*vectors, strict=True)]


# Inverse under sums


@given(data=st.data(), word_bits=word_sizes, cohort=st.sampled_from(COHORTS), degree=degrees)
def test_what_is_joined_is_the_sum_of_what_was_split(
    data: st.DataObject, word_bits: WordBits, cohort: int, degree: int
) -> None:
    limbs = planned(word_bits, cohort, degree)
    one = st.one_of(st.integers(-most(limbs), most(limbs)), st.sampled_from(corners(limbs)))
    drawn = data.draw(st.lists(st.lists(one, min_size=12, max_size=12), min_size=1, max_size=4))
    silos = data.draw(st.integers(len(drawn), cohort)) if len(drawn) < cohort else cohort
    vectors = [drawn[i % len(drawn)] for i in range(silos)]
    bound = limbs.parameters.error_bound()
    sign = np.where(np.arange(12 * limbs.count) % 2, bound, -bound)
    for noise in (0.0, bound, -bound, sign):
        assert integers(limbs.join(summed(limbs, vectors) + noise)) == exact(vectors)


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("word_bits", WORDS)
def test_extremes_of_every_cohort_come_back(word_bits: WordBits, degree: int) -> None:
    for cohort in COHORTS:
        length = len(corners(planned(word_bits, cohort, degree)))
        limbs = planned(word_bits, cohort, degree, length)
        low, high = [-most(limbs)] * length, [most(limbs)] * length
        edges = corners(limbs)
        for silos in {1, 2, cohort - 1, cohort}:
            for vector in (low, high, edges, edges[::-1]):
                vectors = [vector] * silos
                for noise in (-WORST_ERROR, 0.0, WORST_ERROR):
                    found = limbs.join(summed(limbs, vectors) + noise)
                    assert integers(found) == [silos * i for i in vector]
                    assert found.dtype == (np.uint32 if word_bits == 32 else np.uint64)
            mixed = [edges if silo % 2 else high for silo in range(silos)]
            assert integers(limbs.join(summed(limbs, mixed))) == exact(mixed)


@pytest.mark.parametrize(("word_bits", "cohort"), [(32, 2**16), (32, 2**20), (32, 2**21), (64, 2**16)])
def test_large_cohorts_of_many_limbs(word_bits: WordBits, cohort: int) -> None:
    some = planned(word_bits, cohort)
    assert some.count > 1
    limit = most(some)
    every = list(range(-min(limit, 3000), min(limit, 3000) + 1)) + corners(some)
    limbs = planned(word_bits, cohort, SMALL, len(every))
    assert integers(limbs.join(summed(limbs, [every]))) == every
    # As many as the cohort, without adding them one by one: the limbs are whole numbers.
    assert integers(limbs.join(summed(limbs, [every]) * cohort)) == [cohort * i for i in every]


@pytest.mark.parametrize("word_bits", WORDS)
@pytest.mark.parametrize("cohort", MANY)
def test_limbs_are_whole_and_within_the_bound_that_is_encrypted(word_bits: WordBits, cohort: int) -> None:
    limbs = planned(word_bits, cohort)
    edges = corners(limbs)
    found = planned(word_bits, cohort, SMALL, len(edges)).split(words(edges, word_bits))
    assert found.dtype == np.float64
    assert np.array_equal(found, np.rint(found))
    assert np.abs(found).max() <= limbs.parameters.bound
    # Not looser than one bit: the bound decides the scale, and so the error.
    assert np.abs(found).max() > limbs.parameters.bound / 2


# Rounding


@pytest.mark.parametrize("word_bits", WORDS)
def test_an_error_beyond_the_worst_is_refused_wherever_it_is(word_bits: WordBits) -> None:
    limbs = planned(word_bits, 3)
    opened = summed(limbs, [[0] * 12] * 3)
    for place in range(opened.size):
        for error in (WORST_ERROR, -WORST_ERROR):
            opened[place] = error
            assert integers(limbs.join(opened)) == [0] * 12
        for error in (np.nextafter(WORST_ERROR, 1), -np.nextafter(WORST_ERROR, 1), 0.5, -0.5, 0.74, -0.74):
            opened[place] = error
            with pytest.raises(RoundAborted, match="no sum of integers"):
                limbs.join(opened)
        opened[place] = 0.0


@pytest.mark.parametrize("word_bits", WORDS)
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e300, -1e300, 2.0**63, 2.0**31 + 1])
def test_what_is_no_number_or_too_large_is_refused(word_bits: WordBits, number: float) -> None:
    limbs = planned(word_bits, 3)
    for place in range(12 * limbs.count):
        opened = summed(limbs, [[1] * 12] * 3)
        opened[place] = number
        with pytest.raises(RoundAborted, match="larger than any sum"):
            limbs.join(opened)


@pytest.mark.parametrize(("word_bits", "cohort"), [(64, 2), (64, 3), (64, 64), (32, 2**16), (64, 2**14)])
def test_limbs_of_no_vector_do_not_wrap_into_a_word(word_bits: WordBits, cohort: int) -> None:
    limbs = planned(word_bits, cohort)
    largest = limbs.parameters.bound * cohort  # Accepted in each limb.
    limit = most(limbs) * cohort
    for sign in (1, -1):
        with pytest.raises(RoundAborted, match="larger than any sum"):
            limbs.join(np.full(12 * limbs.count, sign * largest))
        # The last sum that is one, in limbs, and the next.
        for value, accepted in ((sign * limit, True), (sign * (limit + 1), False)):
            parts, rest = [], value
            for _ in range(limbs.count - 1):
                following = (rest + (1 << limbs.bits - 1)) >> limbs.bits
                parts.append(rest - (following << limbs.bits))
                rest = following
            opened = np.repeat([float(part) for part in (*parts, rest)], 12)
            if accepted:
                assert integers(limbs.join(opened)) == [value] * 12
            else:
                with pytest.raises(RoundAborted, match="larger than any sum"):
                    limbs.join(opened)


@pytest.mark.parametrize("word_bits", WORDS)
@pytest.mark.parametrize("cohort", [2, 3, 64])
def test_an_integer_that_is_too_large_for_the_cohort_is_refused(word_bits: WordBits, cohort: int) -> None:
    limbs = planned(word_bits, cohort)
    limit, lowest = most(limbs), -(1 << word_bits - 1)
    for accepted in (limit, -limit):
        limbs.split(words([0] * 11 + [accepted], word_bits))
    for refused in (limit + 1, -limit - 1, lowest, -lowest - 1):
        for place in range(12):
            vector = [0] * 12
            vector[place] = refused
            with pytest.raises(InputRefused, match=str(limit)) as refusal:
                limbs.split(words(vector, word_bits))
            assert refusal.value.rule == "bound"
            assert str(abs(refused)) not in str(refusal.value)


# Planning


@pytest.mark.parametrize("degree", DEGREES)
def test_a_word_of_32_bits_is_one_limb_and_one_of_64_two(degree: int) -> None:
    for cohort in COHORTS:
        assert [planned(word_bits, cohort, degree).count for word_bits in WORDS] == [1, 2]


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("word_bits", WORDS)
@pytest.mark.parametrize("cohort", MANY)
def test_fewer_limbs_of_any_size_would_not_do(word_bits: WordBits, cohort: int, degree: int) -> None:
    limbs = planned(word_bits, cohort, degree)
    limit = SUM_LIMIT[word_bits] // cohort
    for fewer in range(1, limbs.count):
        for bits in range(1, limit.bit_length() + 2) if fewer > 1 else (0,):
            # The least bound of the lowest limb, and of the highest, which takes the rest.
            bound = max(1 << bits - 1 if bits else 0, limit >> bits * (fewer - 1))
            with pytest.raises(ParameterError):
                plan(12, bound=float(bound), cohort=cohort, degree=degree, precision=WORST_ERROR)


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("word_bits", WORDS)
@pytest.mark.parametrize("cohort", MANY)
def test_a_plan_rounds_right_and_computes_in_int64(word_bits: WordBits, cohort: int, degree: int) -> None:
    limbs = planned(word_bits, cohort, degree)
    assert limbs.parameters.length == 12 * limbs.count
    assert limbs.parameters.error_bound() <= WORST_ERROR < 0.5
    largest = int(limbs.parameters.bound) * cohort
    assert sum(largest << limbs.bits * place for place in range(limbs.count)) < 2**63
    assert largest <= 2**53  # Whole numbers are float64s.


@pytest.mark.parametrize(("word_bits", "cohort"), [(32, 2**23), (32, 2**31), (64, 2**18), (64, 2**54)])
@pytest.mark.parametrize("degree", DEGREES)
def test_a_cohort_that_no_limbs_carry_is_refused(word_bits: WordBits, cohort: int, degree: int) -> None:
    with pytest.raises(ParameterError, match="lower the number of silos") as refusal:
        plan_limbs(12, word_bits=word_bits, cohort=cohort, degree=degree)
    assert refusal.value.parameter == "encoding"


# The whole way


def encoded(word_bits: WordBits, entries: int) -> Encoding:
    return Encoding(word_bits, 3, (Segment("sum", entries, 1.0, 8),))


def vectors_of(limbs: Limbs, entries: int, kind: str) -> list[list[int]]:
    limit, edges = most(limbs), corners(limbs)
    rng = np.random.default_rng(len(kind))
    match kind:
        case "high" | "low":
            return [[limit if kind == "high" else -limit] * entries] * 3
        case "turns":
            return [[limit if (i + silo) % 2 else -limit for i in range(entries)] for silo in range(3)]
        case "edges":
            return [[edges[(i * (silo + 1)) % len(edges)] for i in range(entries)] for silo in range(3)]
        case _:
            return [rng.integers(-limit, limit, entries, endpoint=True).tolist() for _ in range(3)]


@cache
def key_of(degree: int) -> SecretKey:
    return SecretKey.generate(degree)


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("word_bits", WORDS)
@pytest.mark.parametrize("kind", ["high", "low", "turns", "edges", "uniform"])
def test_an_encrypted_sum_is_that_of_pythons_integers(word_bits: WordBits, degree: int, kind: str) -> None:
    entries = RINGS[degree].entries + 5  # So that limbs do not begin where chunks do.
    key = key_of(degree)
    cipher = CKKSCipher(key, encoded(word_bits, entries))
    adder = CKKSAdder(key.key_id, degree, encoded(word_bits, entries))
    assert (cipher.parameters, cipher.upload, cipher.total) == (adder.parameters, adder.upload, adder.total)
    for _ in range(count(1, full=20)):
        vectors = [[*vector, 1] for vector in vectors_of(cipher.limbs, entries, kind)]
        for silos in (2, 3):
            running = adder.begin()
            for vector in vectors[:silos]:
                payload = cipher.encrypt(words(vector, word_bits), silo="a", round_id=ROUND)
                adder.check(payload, silo="a", round_id=ROUND)
                assert adder.upload.fits(payload)
                running.add(payload)
            total = running.total()
            assert adder.total.fits(total)
            found = cipher.open(total, silos=silos, round_id=ROUND)
            assert integers(found) == exact(vectors[:silos])
            assert int(found[-1]) == silos
            raw = open_sum(key, cipher.limbs.parameters, total, silos=silos, round_id=ROUND)
            error = np.abs(raw.values - np.rint(raw.values)).max()
            assert error <= raw.worst_error <= WORST_ERROR


def test_bytes_a_parameter() -> None:
    for word_bits, degree in product(WORDS, DEGREES):
        adder = CKKSAdder(bytes(32), degree, encoded(word_bits, 1_000_000))
        assert adder.upload.size / 1_000_000 == pytest.approx(word_bits / 2, rel=0.01)


def test_a_value_between_integers_ends_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    cipher = CKKSCipher(key_of(SMALL), encoded(32, 5))
    running = cipher.begin()
    for _ in range(2):
        running.add(cipher.encrypt(words([1] * 6, 32), silo="a", round_id=ROUND))

    def between(*found: Any, **named: Any) -> Any:
        result = open_sum(*found, **named)
        moved: NDArray[np.float64] = result.values + 0.3
        object.__setattr__(result, "values", moved)
        return result

    monkeypatch.setattr("secagg.ckks.silo.open_sum", between)
    with pytest.raises(RoundAborted, match="no sum of integers"):
        cipher.open(running.total(), silos=2, round_id=ROUND)
