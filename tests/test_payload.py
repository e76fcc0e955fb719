"""The array of a message: its bytes are handed on in pieces, never copied whole, and never half added."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import MalformedMessage
from secagg.payload import PIECE_SIZE, EndToEnd, Payload, describe

LARGE = np.arange(PIECE_SIZE // 4 * 2 + 3, dtype=np.uint32)


def spooled(raw: bytes, sizes: list[int]) -> Callable[[], Iterator[memoryview]]:
    """Return a source that yields ``raw`` in pieces of the given sizes, then the rest."""

    def pieces() -> Iterator[memoryview]:
        start = 0
        for size in sizes:
            yield memoryview(raw[start : start + size])
            start += size
        yield memoryview(raw[start:])

    return pieces


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64, np.float64])
def test_a_payload_is_its_vector(dtype: Any) -> None:
    vector = np.arange(5, dtype=dtype)
    payload = Payload.of(vector)
    assert payload.dtype == vector.dtype.str[1:]
    assert (payload.length, payload.size) == (5, vector.nbytes)
    assert payload.digest == blake3(vector.tobytes()).digest()
    assert payload.array().tolist() == vector.tolist()
    assert b"".join(payload.pieces()) == vector.tobytes()
    assert describe(payload) == (payload.dtype, 5, payload.digest)


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(3, np.int32),
        np.zeros(3, np.float32),
        np.zeros(3, ">u4"),
        np.zeros(3, ">f8"),
        np.zeros(3, object),
        np.zeros((3, 1), np.uint32),
        np.zeros((), np.uint32),
        np.zeros(6, np.uint32)[::2],
        np.zeros(6, np.uint32)[::-1],
    ],
)
def test_what_is_no_contiguous_vector_of_words_is_refused(vector: Any) -> None:
    with pytest.raises(MalformedMessage):
        Payload.of(vector)


def test_nothing_is_copied() -> None:
    payload = Payload.of(LARGE)
    assert np.shares_memory(payload.array(), LARGE)
    assert np.shares_memory(np.frombuffer(payload.buffer()[:], np.uint8), LARGE)
    pieces = list(payload.pieces())
    assert [len(piece) for piece in pieces] == [PIECE_SIZE, PIECE_SIZE, 12]
    assert all(np.shares_memory(np.frombuffer(piece, np.uint8), LARGE) for piece in pieces)
    with pytest.raises(ValueError, match="read-only"):
        payload.array()[0] = 1


@given(st.integers(0, 20), st.lists(st.integers(0, 40), max_size=4))
def test_pieces_yield_exactly_the_announced_bytes_or_raise(length: int, sizes: list[int]) -> None:
    """Guarantee, whatever the source does: never a byte more, and a byte less is an error."""
    raw = bytes(range(48))
    payload = Payload("u4", length, spooled(raw, sizes))
    given = b""
    try:
        for piece in payload.pieces():
            given += piece
            assert len(given) <= payload.size
    except MalformedMessage:
        assert payload.size != len(raw)
    else:
        assert given == raw
        assert payload.size == len(raw)
    assert raw.startswith(given)


def test_a_source_that_breaks_off_is_never_an_array() -> None:
    for length in (11, 13):
        payload = Payload("u4", length, spooled(bytes(48), [16, 16]))
        for use in (payload.buffer, payload.array):
            with pytest.raises(MalformedMessage):
                use()
        with pytest.raises(MalformedMessage):
            payload.add_into(np.zeros(length, np.uint32))
    over = Payload.over("u4", 3, memoryview(bytes(16)))
    with pytest.raises(MalformedMessage):
        over.array()


@pytest.mark.parametrize("sizes", [[], [16], [4, 4, 4], [PIECE_SIZE]])
def test_a_spooled_payload_adds_like_one_in_memory(sizes: list[int]) -> None:
    total = np.full(LARGE.size, 2**32 - 5, np.uint32)
    expected = total + LARGE
    payload = Payload("u4", LARGE.size, spooled(LARGE.tobytes(), sizes))
    payload.add_into(total)
    assert np.array_equal(total, expected)
    assert payload.digest == Payload.of(LARGE).digest
    assert np.array_equal(payload.array(), LARGE)


@given(st.integers(0, 5), st.integers(1, 7), st.integers(-40, 40), st.integers(-40, 40))
def test_buffers_end_to_end_are_sliced_as_one(count: int, size: int, first: int, last: int) -> None:
    """And nothing is asked for that a slice does not read."""
    whole, asked = bytes(range(count * size)), list[int]()

    def part(place: int) -> memoryview:
        asked.append(place)
        return memoryview(whole)[place * size : (place + 1) * size]

    buffer = EndToEnd(count, size, part)
    assert len(buffer) == len(whole)
    assert bytes(buffer[first:last]) == whole[first:last]
    assert asked == sorted({at // size for at in range(len(whole))[first:last]})
    assert Payload.over("u1", len(whole), buffer).digest == blake3(whole).digest()


def test_a_slice_of_one_of_several_buffers_is_not_copied() -> None:
    parts = LARGE[:8].reshape(2, 4)
    buffer = EndToEnd(2, 16, lambda place: parts[place].data.cast("B"))
    assert np.shares_memory(np.frombuffer(buffer[20:28], np.uint8), LARGE)


@pytest.mark.parametrize(
    "total", [np.zeros(4, np.uint32), np.zeros(6, np.uint32), np.zeros(5, np.uint64), np.zeros(5)]
)
def test_a_payload_is_added_to_its_own_form_only(total: Any) -> None:
    with pytest.raises(MalformedMessage):
        Payload.of(np.ones(5, np.uint32)).add_into(total)
    assert not total.any()


def test_a_digest_that_is_known_is_not_computed_again() -> None:
    def broken() -> Iterator[memoryview]:
        raise AssertionError("read")

    assert Payload("u4", 3, broken, digest=b"d" * 32).digest == b"d" * 32


def test_a_repr_shows_no_value() -> None:
    assert repr(Payload.of(np.full(2, 77, np.uint32))) == "Payload(u4, length=2)"


def test_only_payloads_are_described() -> None:
    with pytest.raises(NotImplementedError):
        describe(object())
