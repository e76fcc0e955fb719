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


def added(packing: Packing, vectors: list[list[int]]) -> Any:
    """Add the plaintexts as Paillier does: as large integers."""
    rows = [packing.pack(words(vector, packing.word_bits)) for vector in vectors]
    width = rows[0].shape[1]
    totals = [
        sum(int.from_bytes(row[at].tobytes(), "little") for row in rows) for at in range(rows[0].shape[0])
    ]
    data = b"".join(total.to_bytes(width, "little") for total in totals)
    summed = np.frombuffer(data, np.uint8).reshape(-1, width)
    return packing.unpack(summed, length=len(vectors[0]), silos=len(vectors))


@st.composite
def sums(draw: st.DrawFn) -> tuple[Packing, list[list[int]]]:
    word_bits: WordBits = draw(st.sampled_from([32, 64]))
    cohort = draw(st.integers(2, 64))
    packing = Packing(word_bits, cohort, draw(st.integers(2047, 4095)))
    most = packing.bias
    number = st.sampled_from([-most, most, -1, 0, 1]) | st.integers(-most, most)
    length = draw(st.integers(1, 3 * packing.lanes))
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
    length = packing.lanes + 1
    vectors = [[sign * packing.bias] * length] * cohort
    assert (
        added(packing, vectors).tolist() == words([sign * packing.bias * cohort] * length, word_bits).tolist()
    )


def test_a_plaintext_of_3072_bits_holds_93_lanes_of_33() -> None:
    packing = Packing(32, 5, BITS)
    assert (packing.lanes, packing.lane_bits, packing.row_bytes) == (93, 33, 384)
    assert (packing.rows(1), packing.rows(93), packing.rows(94)) == (1, 1, 2)
    assert packing.pack(np.zeros(94, np.uint32)).shape == (2, 384)
    assert (Packing(64, 5, BITS).lanes, Packing(64, 5, BITS).lane_bits) == (55, 55)


@pytest.mark.parametrize("word_bits", [32, 64])
@pytest.mark.parametrize("rows", [511, 512, 513, 1025])
def test_long_vectors_are_packed_block_by_block(word_bits: WordBits, rows: int) -> None:
    packing = Packing(word_bits, 3, 127)
    numbers = np.random.default_rng(rows).integers(-packing.bias, packing.bias + 1, rows * packing.lanes - 1)
    vector = words(numbers.tolist(), word_bits)
    packed = packing.pack(vector)
    plaintexts = [int.from_bytes(row.tobytes(), "little") for row in packed]
    lanes = [row >> packing.lane_bits * at for row in plaintexts for at in range(packing.lanes)]
    found = [lane % 2**packing.lane_bits - packing.bias for lane in lanes]
    assert found[: numbers.size] == numbers.tolist()
    assert (packing.unpack(packed, length=numbers.size, silos=1) == vector).all()


@given(st.sampled_from([32, 64]), st.integers(1, 100), st.data())
def test_what_no_packed_vectors_sum_to_is_refused(
    word_bits: WordBits, cohort: int, data: st.DataObject
) -> None:
    packing = Packing(word_bits, cohort, BITS)
    length = 100
    silos = data.draw(st.integers(1, cohort))
    rows = np.zeros((packing.rows(length), packing.row_bytes), np.uint8)
    row, at = divmod(data.draw(st.integers(0, len(rows) * packing.lanes - 1)), packing.lanes)
    most = 2 * silos * packing.bias if row * packing.lanes + at < length else 0
    lane = data.draw(st.integers(most + 1, 2**packing.lane_bits - 1))
    plaintext = lane << packing.lane_bits * at
    rows[row] = np.frombuffer(plaintext.to_bytes(packing.row_bytes, "little"), np.uint8)
    with pytest.raises(RoundAborted):
        packing.unpack(rows, length=length, silos=silos)


@pytest.mark.parametrize("bit", range(93 * 33, 384 * 8))
def test_what_lies_above_the_last_lane_is_refused(bit: int) -> None:
    rows = np.frombuffer((1 << bit).to_bytes(384, "little"), np.uint8).reshape(1, 384)
    with pytest.raises(RoundAborted):
        Packing(32, 3, BITS).unpack(rows, length=93, silos=3)


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
        packing.pack(words([0, sign * (packing.bias + 1)], word_bits))
    assert refused.value.rule == "bound"


@pytest.mark.parametrize(
    ("word_bits", "cohort", "bits"),
    [(16, 3, BITS), (32, 0, BITS), (32, SUM_LIMIT[32] + 1, BITS), (32, 3, 32), (64, 3, 54)],
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
        Packing(32, 3, BITS).pack(vector)


@pytest.mark.parametrize(("length", "silos"), [(93, 0), (93, 4), (94, 3), (186, 3)])
def test_only_sums_of_the_cohort_are_unpacked(length: int, silos: int) -> None:
    rows = np.zeros((1, 384), np.uint8)
    with pytest.raises(UsageError):
        Packing(32, 3, BITS).unpack(rows, length=length, silos=silos)
