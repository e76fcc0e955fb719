"""Packed integers: sums of plaintexts are plaintexts of sums, for every cohort and at the extremes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import InputRefused, ParameterError, RoundAborted, UsageError
from secagg.fixedpoint import SUM_LIMIT
from secagg.names import WordBits
from secagg.packing import Packing

BITS = 3071


def words(values: list[int], word_bits: WordBits) -> Any:
    signed = np.array(values, np.int32 if word_bits == 32 else np.int64)
    return signed.view(np.uint32 if word_bits == 32 else np.uint64)


def checked(packing: Packing, length: int, seed: int = 0) -> Any:
    """Return what is written into the first lanes, the extremes among them."""
    # Public in a round: nothing secret is drawn.
    drawn = np.random.default_rng(seed).integers(-packing.bias, packing.bias + 1, packing.rows(length))
    drawn[:2] = np.array([packing.bias, -packing.bias])[: drawn.size]
    return drawn


def nothing(packing: Packing, length: int) -> Any:
    """Return the checks of rows that are zeros throughout."""
    return np.full(packing.rows(length), -packing.bias)


def added(packing: Packing, vectors: list[list[int]]) -> Any:
    """Add the plaintexts as Paillier does: as large integers."""
    checks = checked(packing, len(vectors[0]))
    rows = [packing.pack(words(vector, packing.word_bits), checks) for vector in vectors]
    width = rows[0].shape[1]
    totals = [
        sum(int.from_bytes(row[at].tobytes(), "little") for row in rows) for at in range(rows[0].shape[0])
    ]
    data = b"".join(total.to_bytes(width, "little") for total in totals)
    summed = np.frombuffer(data, np.uint8).reshape(-1, width)
    return packing.unpack(summed, checks, length=len(vectors[0]), silos=len(vectors))


@st.composite
def sums(draw: st.DrawFn) -> tuple[Packing, list[list[int]]]:
    word_bits: WordBits = draw(st.sampled_from([32, 64]))
    cohort = draw(st.integers(2, 64))
    packing = Packing(word_bits, cohort, draw(st.integers(2047, 4095)))
    most = packing.bias
    number = st.sampled_from([-most, most, -1, 0, 1]) | st.integers(-most, most)
    length = draw(st.integers(1, 3 * packing.entries))
    silos = draw(st.integers(1, cohort))
    one = st.lists(number, min_size=length, max_size=length)
    return packing, draw(st.lists(one, min_size=silos, max_size=silos))


@given(sums())
def test_the_sum_of_plaintexts_is_the_plaintext_of_the_sum(case: tuple[Packing, list[list[int]]]) -> None:
    packing, vectors = case
    expected = [sum(column) for column in zip(*vectors, strict=True)]
    assert added(packing, vectors).tolist() == words(expected, packing.word_bits).tolist()


@pytest.mark.parametrize("word_bits", [32, 64])
@pytest.mark.parametrize("cohort", [1, 2, 3, 64, 1000])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_sums_fit(word_bits: WordBits, cohort: int, sign: int) -> None:
    packing = Packing(word_bits, cohort, BITS)
    length = packing.entries + 1
    vectors = [[sign * packing.bias] * length] * cohort
    assert (
        added(packing, vectors).tolist() == words([sign * packing.bias * cohort] * length, word_bits).tolist()
    )


def test_a_plaintext_of_3072_bits_holds_a_check_and_92_entries_of_33_bits() -> None:
    packing = Packing(32, 5, BITS)
    assert (packing.lanes, packing.entries, packing.lane_bits, packing.row_bytes) == (93, 92, 33, 384)
    assert (packing.rows(1), packing.rows(92), packing.rows(93)) == (1, 1, 2)
    assert packing.pack(np.zeros(93, np.uint32), nothing(packing, 93)).shape == (2, 384)
    assert (Packing(64, 5, BITS).entries, Packing(64, 5, BITS).lane_bits) == (54, 55)


@pytest.mark.parametrize("word_bits", [32, 64])
@pytest.mark.parametrize("rows", [511, 512, 513, 1025])
def test_long_vectors_are_packed_block_by_block(word_bits: WordBits, rows: int) -> None:
    packing = Packing(word_bits, 3, 127)
    length = rows * packing.entries - 1
    # What is packed, not what hides it.
    numbers = np.random.default_rng(rows).integers(-packing.bias, packing.bias + 1, length)
    vector, checks = words(numbers.tolist(), word_bits), checked(packing, length)
    packed = packing.pack(vector, checks)
    plaintexts = [int.from_bytes(row.tobytes(), "little") for row in packed]
    mask = 2**packing.lane_bits - 1
    lanes = [
        [(row >> packing.lane_bits * at & mask) - packing.bias for at in range(packing.lanes)]
        for row in plaintexts
    ]
    assert [first for first, *_ in lanes] == checks.tolist()
    assert [entry for _, *entries in lanes for entry in entries][:length] == numbers.tolist()
    assert (packing.unpack(packed, checks, length=length, silos=1) == vector).all()


@pytest.mark.parametrize("silos", [1, 2, 3])
def test_rows_that_changed_places_or_are_of_another_round_are_no_sum(silos: int) -> None:
    packing = Packing(32, 3, BITS)
    length = 3 * packing.entries
    vector, checks = words([1] * length, 32), checked(packing, length)
    rows = packing.pack(vector, checks)
    summed = [silos * int.from_bytes(row.tobytes(), "little") for row in rows]

    def opened(*order: int, by: Any = checks, of: int = silos) -> Any:
        data = b"".join(summed[at].to_bytes(packing.row_bytes, "little") for at in order)
        return packing.unpack(
            np.frombuffer(data, np.uint8).reshape(3, -1), by, length=length, silos=of
        ).tolist()

    assert opened(0, 1, 2) == [silos] * length
    for order in ((1, 0, 2), (0, 0, 2), (2, 1, 0), (1, 2, 0)):
        with pytest.raises(RoundAborted):
            opened(*order)
    with pytest.raises(RoundAborted):
        opened(0, 1, 2, by=checked(packing, length, seed=1))
    with pytest.raises(RoundAborted):
        opened(0, 1, 2, of=silos % 3 + 1)


@given(st.sampled_from([32, 64]), st.integers(1, 100), st.data())
def test_what_no_packed_vectors_sum_to_is_refused(
    word_bits: WordBits, cohort: int, data: st.DataObject
) -> None:
    packing = Packing(word_bits, cohort, BITS)
    length = 100
    silos = data.draw(st.integers(1, cohort))
    rows = np.zeros((packing.rows(length), packing.row_bytes), np.uint8)
    row, at = divmod(data.draw(st.integers(0, len(rows) * packing.lanes - 1)), packing.lanes)
    most = 2 * silos * packing.bias if at and row * packing.entries + at - 1 < length else 0
    lane = data.draw(st.integers(most + 1, 2**packing.lane_bits - 1))
    plaintext = lane << packing.lane_bits * at
    rows[row] = np.frombuffer(plaintext.to_bytes(packing.row_bytes, "little"), np.uint8)
    with pytest.raises(RoundAborted):
        packing.unpack(rows, nothing(packing, length), length=length, silos=silos)


@pytest.mark.parametrize("bit", range(93 * 33, 384 * 8))
def test_what_lies_above_the_last_lane_is_refused(bit: int) -> None:
    rows = np.frombuffer((1 << bit).to_bytes(384, "little"), np.uint8).reshape(1, 384)
    packing = Packing(32, 3, BITS)
    with pytest.raises(RoundAborted):
        packing.unpack(rows, nothing(packing, 92), length=92, silos=3)


@pytest.mark.parametrize("word_bits", [32, 64])
@pytest.mark.parametrize("cohort", [1, 2, 3, 64, 1000])
def test_sums_take_no_more_than_half_of_a_lane(word_bits: WordBits, cohort: int) -> None:
    packing = Packing(word_bits, cohort, BITS)
    assert 2 * cohort * packing.bias <= 2 ** (packing.lane_bits - 1)


@pytest.mark.parametrize("cohort", [3, 64])
@pytest.mark.parametrize("word_bits", [32, 64])
@pytest.mark.parametrize("sign", [-1, 1])
def test_an_integer_beyond_the_bias_is_refused(word_bits: WordBits, cohort: int, sign: int) -> None:
    packing = Packing(word_bits, cohort, BITS)
    with pytest.raises(InputRefused) as refused:
        packing.pack(words([0, sign * (packing.bias + 1)], word_bits), nothing(packing, 2))
    assert refused.value.rule == "bound"


@pytest.mark.parametrize(
    ("word_bits", "cohort", "bits"),
    [(16, 3, BITS), (32, 0, BITS), (32, SUM_LIMIT[32] + 1, BITS), (32, 3, 65), (64, 3, 109)],
)
def test_what_cannot_hold_a_sum_cannot_be_built(word_bits: Any, cohort: int, bits: int) -> None:
    with pytest.raises(ParameterError):
        Packing(word_bits, cohort, bits)


@pytest.mark.parametrize(
    "vector",
    [np.zeros(3, np.uint64), np.zeros(3, np.int32), np.zeros(3), np.zeros((1, 3), np.uint32)],
    ids=str,
)
def test_only_vectors_of_the_word_are_packed(vector: Any) -> None:
    with pytest.raises(UsageError):
        Packing(32, 3, BITS).pack(vector, np.zeros(1, np.int64))


@pytest.mark.parametrize(("length", "silos"), [(92, 0), (92, 4), (93, 3), (184, 3)])
def test_only_sums_of_the_cohort_are_unpacked(length: int, silos: int) -> None:
    rows = np.zeros((1, 384), np.uint8)
    with pytest.raises(UsageError):
        Packing(32, 3, BITS).unpack(rows, np.zeros(1, np.int64), length=length, silos=silos)
