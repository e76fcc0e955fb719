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


def test_a_plaintext_of_3072_bits_holds_76_lanes_of_40() -> None:
    packing = Packing(32, 5, BITS)
    assert (packing.lanes, packing.lane_bytes) == (76, 5)
    assert (packing.rows(1), packing.rows(76), packing.rows(77)) == (1, 1, 2)
    assert packing.pack(np.zeros(77, np.uint32)).shape == (2, 380)
    assert Packing(64, 5, BITS).lanes == 54


@given(st.sampled_from([32, 64]), st.integers(1, 100), st.data())
def test_what_no_packed_vectors_sum_to_is_refused(
    word_bits: WordBits, cohort: int, data: st.DataObject
) -> None:
    packing = Packing(word_bits, cohort, BITS)
    length = 100
    silos = data.draw(st.integers(1, cohort))
    rows = np.zeros((packing.rows(length), packing.lanes * packing.lane_bytes), np.uint8)
    lanes = rows.reshape(-1, packing.lane_bytes)
    at = data.draw(st.integers(0, len(lanes) - 1))
    most = 2 * silos * packing.bias if at < length else 0
    lane = data.draw(st.integers(most + 1, 2 ** (8 * packing.lane_bytes) - 1))
    lanes[at] = np.frombuffer(lane.to_bytes(packing.lane_bytes, "little"), np.uint8)
    with pytest.raises(RoundAborted):
        packing.unpack(rows, length=length, silos=silos)


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
    [(16, 3, BITS), (32, 0, BITS), (32, SUM_LIMIT[32] + 1, BITS), (32, 3, 39), (64, 3, 55)],
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


@pytest.mark.parametrize(("length", "silos"), [(76, 0), (76, 4), (77, 3), (152, 3)])
def test_only_sums_of_the_cohort_are_unpacked(length: int, silos: int) -> None:
    rows = np.zeros((1, 380), np.uint8)
    with pytest.raises(UsageError):
        Packing(32, 3, BITS).unpack(rows, length=length, silos=silos)
