"""Mask streams: equal to AES-CTR by another path, every key bit used, the same on any number of threads."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from secagg.errors import ParameterError
from secagg.hazmat import prg
from secagg.hazmat.prg import SPAN, add_streams

KEY = bytes(range(32))
OTHER = hashlib.sha256(b"other").digest()
BLOCK = 1 << 16  # uint32 elements that one pass of the product handles.
WORDS = [np.uint32, np.uint64]
# Of KEY's stream: the first words, and SHA-256 of SPAN + 5 elements.
FIXED_32 = [114617779, 3889545341, 765025662, 281597746]
FIXED_DIGEST_32 = "fae486335a8e285ddbae704c6456e375a23fefcf885c33c7c4f3b4f23ffbedad"
FIXED_DIGEST_64 = "ca801602b58d75217abfceb4bc38aee0fb6c24981bf6641cefdd8a9b2b42be49"


def span_key(key: bytes, span: int) -> bytes:
    """HKDF-Expand to one hash length is a single HMAC (RFC 5869, section 2.3)."""
    return hmac.digest(key, b"span" + span.to_bytes(4, "big") + b"\x01", "sha256")


def blocks(key: bytes, first: int, count: int) -> bytes:
    """AES-256 of the counter blocks ``0^96 || first``, ``0^96 || first + 1``, ..., one by one in ECB."""
    counters = np.zeros((count, 4), ">u4")
    counters[:, 3] = np.arange(first, first + count)
    encryptor = Cipher(AES(key), ECB()).encryptor()  # noqa: S305 - the bare block cipher is what is wanted
    return encryptor.update(counters.tobytes())


def expected(key: bytes, length: int, word: type[np.unsignedinteger[Any]]) -> NDArray[Any]:
    size = np.dtype(word).itemsize
    made = b""
    for span in range(-(-length // SPAN)):
        wanted = min(SPAN, length - span * SPAN) * size
        made += blocks(span_key(key, span), 2, -(-wanted // 16))[:wanted]
    return np.frombuffer(made, np.dtype(word).newbyteorder("<")).astype(word)


def stream(key: bytes, length: int, word: type[np.unsignedinteger[Any]] = np.uint32) -> NDArray[Any]:
    total = np.zeros(length, word)
    add_streams(total, plus=[key])
    return total


def test_the_block_cipher_of_these_tests_is_the_published_one() -> None:
    # FIPS 197, appendix C.3, and the GCM proposal's test case 14: the first keystream block is block 2.
    encryptor = Cipher(AES(KEY), ECB()).encryptor()  # noqa: S305
    block = encryptor.update(bytes.fromhex("00112233445566778899aabbccddeeff"))
    assert block.hex() == "8ea2b7ca516745bfeafc49904b496089"
    assert blocks(bytes(32), 2, 1).hex() == "cea7403d4d606b6e074ec5d3baf39d18"


def test_fixed_streams() -> None:
    # Frozen: a change here is a change of the protocol, and old and new silos' masks no longer cancel.
    assert stream(KEY, 4).tolist() == FIXED_32
    assert hashlib.sha256(stream(KEY, SPAN + 5).astype("<u4").tobytes()).hexdigest() == FIXED_DIGEST_32
    assert (
        hashlib.sha256(stream(KEY, SPAN + 5, np.uint64).astype("<u8").tobytes()).hexdigest()
        == FIXED_DIGEST_64
    )


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize(
    "length",
    [
        *range(1, 10),
        BLOCK // 2 - 1,
        BLOCK // 2,
        BLOCK // 2 + 1,
        BLOCK - 1,
        BLOCK,
        BLOCK + 1,
        3 * BLOCK + 3,
        SPAN - 1,
        SPAN,
        SPAN + 1,
        SPAN + BLOCK + 7,
    ],
)
def test_a_stream_is_aes_ctr_from_block_2_of_each_span(
    length: int, word: type[np.unsignedinteger[Any]]
) -> None:
    assert np.array_equal(stream(KEY, length, word), expected(KEY, length, word))


def test_a_stream_is_what_counter_mode_gives() -> None:
    start = (2).to_bytes(16, "big")
    encryptor = Cipher(AES(span_key(KEY, 0)), CTR(start)).encryptor()
    assert stream(KEY, 100_001).astype("<u4").tobytes() == encryptor.update(bytes(4 * 100_001))


def test_the_word_size_does_not_change_the_bytes() -> None:
    narrow, wide = stream(KEY, 20_000, np.uint32), stream(KEY, 10_000, np.uint64)
    assert narrow.astype("<u4").tobytes() == wide.astype("<u8").tobytes()


def test_each_of_256_key_bits_changes_the_whole_stream() -> None:
    original = stream(KEY, 64)
    streams = {original.tobytes()}
    for bit in range(256):
        changed = bytearray(KEY)
        changed[bit // 8] ^= 1 << bit % 8
        other = stream(bytes(changed), 64)
        assert not np.any(other == original), bit  # Chance alone: one in 2**26.
        streams.add(other.tobytes())
    assert len(streams) == 257


def test_spans_have_unrelated_streams() -> None:
    total = stream(KEY, 2 * SPAN + 1000)
    spans = [total[i * SPAN : i * SPAN + 1000] for i in range(3)]
    # Nor does a span go on where the last one's counter stopped.
    went_on = np.frombuffer(blocks(span_key(KEY, 0), 2 + SPAN // 4, 250), "<u4")
    for first in range(3):
        for second in range(first):
            assert np.count_nonzero(spans[first] == spans[second]) <= 1
    assert np.count_nonzero(spans[1] == went_on) <= 1


@pytest.mark.parametrize("word", WORDS)
def test_any_number_of_threads_gives_the_same_bytes(word: type[np.unsignedinteger[Any]]) -> None:
    start = np.random.default_rng(1).integers(0, 2**32, 2 * SPAN + 12_345, dtype=word)
    results = []
    for threads in (1, 2, 3, 8, None):
        total = start.copy()
        add_streams(total, plus=[KEY], minus=[OTHER], threads=threads)
        results.append(total)
    wanted = start + expected(KEY, start.size, word) - expected(OTHER, start.size, word)
    for total in results:
        assert np.array_equal(total, wanted)


def test_what_a_thread_raises_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(key: bytes, span: int) -> None:
        raise MemoryError

    monkeypatch.setattr(prg, "_encryptor", fail)
    with pytest.raises(MemoryError):
        add_streams(np.zeros(SPAN + 1, np.uint32), plus=[KEY], threads=2)


@given(
    length=st.integers(0, 2000),
    plus=st.lists(st.integers(0, 5), max_size=4),
    minus=st.lists(st.integers(0, 5), max_size=4),
    wide=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_sums_wrap_and_undo(length: int, plus: list[int], minus: list[int], wide: bool, seed: int) -> None:
    word = np.uint64 if wide else np.uint32
    keys = [hashlib.sha256(bytes([i])).digest() for i in range(6)]
    start = np.random.default_rng(seed).integers(0, np.iinfo(word).max, length, dtype=word, endpoint=True)
    total: NDArray[Any] = start.copy()
    add_streams(total, plus=[keys[i] for i in plus], minus=[keys[i] for i in minus])
    # Python's integers do not wrap, so they are an oracle for words that do.
    wanted = start.astype(object)
    for signs, chosen in ((1, plus), (-1, minus)):
        for i in chosen:
            wanted = wanted + signs * stream(keys[i], length, word).astype(object)
    assert total.tolist() == [value % (int(np.iinfo(word).max) + 1) for value in wanted]
    add_streams(total, plus=[keys[i] for i in minus], minus=[keys[i] for i in plus])
    assert np.array_equal(total, start)


def test_no_keys_and_no_elements_change_nothing() -> None:
    total = np.arange(10, dtype=np.uint32)
    add_streams(total)
    assert total.tolist() == list(range(10))
    add_streams(np.zeros(0, np.uint64), plus=[KEY])


def test_a_slice_is_changed_in_place_and_nothing_around_it() -> None:
    whole = np.zeros(1000, np.uint32)
    add_streams(whole[100:900], plus=[KEY])
    assert np.array_equal(whole[100:900], stream(KEY, 800))
    assert not whole[:100].any()
    assert not whole[900:].any()


def read_only() -> NDArray[Any]:
    total = np.zeros(10, np.uint32)
    total.flags.writeable = False
    return total


@pytest.mark.parametrize(
    "total",
    [
        np.zeros(10, np.int32),
        np.zeros(10, np.int64),
        np.zeros(10, np.uint16),
        np.zeros(10, np.float32),
        np.zeros(10, np.float64),
        np.zeros(10, ">u4"),
        np.zeros(10, ">u8"),
        np.zeros(10, object),
        np.zeros(20, np.uint32)[::2],
        np.zeros(10, np.uint32)[::-1],
        np.zeros((5, 2), np.uint32),
        np.zeros((), np.uint32),
        read_only(),
    ],
)
def test_a_vector_of_another_kind_is_refused_unchanged(total: NDArray[Any]) -> None:
    with pytest.raises(ParameterError):
        add_streams(total, plus=[KEY])
    assert not np.any(total)


@pytest.mark.parametrize("key", [b"", KEY[:16], KEY[:31], KEY + b"\x00"])
def test_a_key_of_another_length_is_refused_before_any_change(key: bytes) -> None:
    total = np.zeros(10, np.uint32)
    with pytest.raises(ParameterError):
        add_streams(total, plus=[KEY, key])
    with pytest.raises(ParameterError):
        add_streams(total, plus=[KEY], minus=[key])
    assert not total.any()


@pytest.mark.parametrize("threads", [0, -1])
def test_less_than_one_thread_is_refused(threads: int) -> None:
    total = np.zeros(10, np.uint32)
    with pytest.raises(ParameterError):
        add_streams(total, plus=[KEY], threads=threads)
    assert not total.any()


def test_the_words_look_uniform() -> None:
    # Only a smoke alarm: known answers and key bits, above, are the proof. 1e6 words, bits and bytes.
    words = stream(OTHER, 1_000_000)
    bits = np.unpackbits(words.view(np.uint8)).reshape(-1, 32).mean(axis=0)
    assert np.all(np.abs(bits - 0.5) < 6 * 0.5 / 1000)
    counts = np.bincount(words.view(np.uint8), minlength=256)
    chi_square = np.sum((counts - 15_625.0) ** 2) / 15_625.0
    assert 140 < chi_square < 390  # 255 degrees of freedom, about six standard deviations each way.
