"""Sizes that sets are padded to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from secagg.psi.sizes import LARGEST, SMALLEST, padded


@given(st.integers(0, LARGEST))
def test_a_bucket_holds_its_sizes_and_is_its_own(size: int) -> None:
    """Guarantees of ``padded``."""
    bucket = padded(size)
    assert bucket >= max(size, SMALLEST)
    assert padded(bucket) == bucket
    assert bucket == SMALLEST or bucket <= size * 9 / 8


def test_there_are_few_buckets() -> None:
    assert len({padded(size) for size in range(100_000)}) < 200
    assert [padded(size) for size in (0, 64, 65, 1000, 5822, 100_000, 10**6)] == [
        64, 64, 72, 1024, 5888, 100_352, 1_015_808
    ]  # fmt: skip
