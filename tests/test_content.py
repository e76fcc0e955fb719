"""The hash of long content: known answers, and pieces that do not matter."""

from __future__ import annotations

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from secagg.hazmat.content import ContentHash, content_digest

# Of the official test vectors, https://github.com/BLAKE3-team/BLAKE3/blob/master/test_vectors/test_vectors.json,
# "hash" cut to 32 bytes; the input is the bytes 0 to 250 over and over.
KNOWN = {
    0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    1: "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
    1024: "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
    102400: "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085",
}


@pytest.mark.parametrize("size", KNOWN)
def test_known_answers(size: int) -> None:
    data = bytes(i % 251 for i in range(size))
    assert content_digest(data).hex() == ContentHash(data).digest().hex() == KNOWN[size]


@given(st.binary(max_size=5000), st.lists(st.integers(0, 5000)))
def test_the_digest_does_not_depend_on_the_cuts(data: bytes, cuts: list[int]) -> None:
    content, at = ContentHash(data[:1]), 1
    for cut in (*sorted(cuts), len(data)):
        content.update(memoryview(data)[at:cut])
        at = max(at, cut)
    assert content.digest() == content_digest(data) == blake3(data).digest()


def test_bytes_count_and_not_what_they_stand_for() -> None:
    words = np.arange(1000, dtype=np.uint32)
    content = ContentHash()
    content.update(words.data)
    assert content.digest() == content_digest(words.tobytes())
