"""Oblivious key-value stores: every key has its value, others have none, and a table shows no keys."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secagg.errors import UsageError
from secagg.psi.okvs import (
    DENSE,
    SEED_SIZE,
    _eliminate,
    _hashed,
    _peeled,
    _third,
    decode,
    encode,
    table_length,
)
from tests.counts import count


def values_of(size: int) -> NDArray[np.uint64]:
    return np.frombuffer(os.urandom(16 * size), np.uint64).reshape(size, 2)


@settings(max_examples=count(30, full=500))
@given(st.sets(st.binary(max_size=6), max_size=300))
def test_each_key_has_its_value(keys: set[bytes]) -> None:
    ordered = sorted(keys)
    values = values_of(len(ordered))
    seed, table = encode(ordered, values)
    assert len(table) == table_length(len(ordered))
    assert np.array_equal(decode(table, ordered, seed=seed), values)


def test_a_large_table_is_a_third_longer_than_its_keys() -> None:
    keys = [str(number).encode() for number in range(30_000)]
    values = values_of(len(keys))
    seed, table = encode(keys, values)
    assert np.array_equal(decode(table, keys, seed=seed), values)
    assert len(table) < 1.31 * len(keys)


def test_what_peeling_leaves_is_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer places than keys there is always something left, which the dense entries take."""
    monkeypatch.setattr("secagg.psi.okvs._EXPANSION", 0.5)
    monkeypatch.setattr("secagg.psi.okvs._SLACK", 10)
    for size in (60, 90, 120):
        keys, seed = [str(number).encode() for number in range(size)], os.urandom(SEED_SIZE)
        _, core = _peeled(_hashed(keys, seed, _third(size)).places, 3 * _third(size))
        assert len(core) > size // 3
        values = values_of(size)
        drawn, table = encode(keys, values)
        assert np.array_equal(decode(table, keys, seed=drawn), values)


def test_two_equal_keys_are_refused() -> None:
    with pytest.raises(UsageError, match="two keys"):
        encode([b"a", b"b", b"a"], values_of(3))


def test_another_key_or_seed_gives_nothing() -> None:
    keys = [str(number).encode() for number in range(200)]
    values = values_of(200)
    seed, table = encode(keys, values)
    known = {value.tobytes() for value in values}
    others = [f"other {number}".encode() for number in range(200)]
    for found in (
        decode(table, others, seed=seed),
        decode(table, keys, seed=os.urandom(SEED_SIZE)),
    ):
        assert not known & {value.tobytes() for value in found}
        assert len({value.tobytes() for value in found}) == 200


def test_a_table_of_random_values_shows_no_keys() -> None:
    """Guarantee of the module: entries are uniform, whatever the keys; each bit is set half of the time."""
    keys = [str(number).encode() for number in range(500)]
    ones = np.zeros(128)
    entries = 0
    for _ in range(20):
        _, table = encode(keys, values_of(500))
        ones += np.unpackbits(table.view(np.uint8), axis=1).sum(axis=0)
        entries += len(table)
        assert len({entry.tobytes() for entry in table}) == len(table)
    # Standard deviations from a half; of 128 bits none is beyond 6 but with probability 3e-7.
    assert (np.abs(ones - entries / 2) < 6 * np.sqrt(entries) / 2).all()


def test_a_seed_that_serves_no_table_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def at_the_third(*given: Any) -> bool:
        tried.append(1)
        return len(tried) > 2 and _eliminate(*given)

    monkeypatch.setattr("secagg.psi.okvs._eliminate", at_the_third)
    keys, values = [b"a", b"b"], values_of(2)
    seed, table = encode(keys, values)
    assert len(tried) == 3
    assert np.array_equal(decode(table, keys, seed=seed), values)


def test_the_table_is_as_long_for_any_keys() -> None:
    assert table_length(64) == 3 * (28 + 45) + DENSE
