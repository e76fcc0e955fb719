"""Encrypted histograms open to the sums of their rows; their noise is as it must be; sizes are checked."""

from __future__ import annotations

import copy
import os
import pickle
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import MalformedMessage, ParameterError, UsageError
from secagg.hazmat.prg import add_streams
from secagg.hazmat.short import ERROR_LIMIT, ERROR_VARIANCE
from secagg.vertical.trees.cells import Binned, Cells
from secagg.vertical.trees.lattice import (
    FLOOD_BITS,
    MOST_ROWS,
    MOST_SUM,
    ROWS,
    SCALE_BITS,
    SECRETS,
    SENT_BITS,
    STRIDE,
    SUM_BITS,
    PublicKey,
    flood,
)
from secagg.vertical.trees.ring import LIMBS, PACKED, N, carried, coefficients, transform, uniform, unpacked
from secagg.vertical.trees.secret import SecretKey
from secagg.vertical.trees.sums import EncryptedRows, check_hiding, check_rows, ciphertext_bytes, groups_of
from tests.vertical.test_trees_ring import numbers

KEY = SecretKey()


def opened(binned: Binned, weights: np.ndarray, rows: np.ndarray, *, threads: int = 1) -> np.ndarray:
    public = PublicKey.of(KEY.public.seed, KEY.public.to_array())
    encrypted = EncryptedRows(*KEY.encrypt(weights[:, rows]), len(rows))
    sums = encrypted.sums(binned.of_rows(rows), public, random=os.urandom, threads=threads)
    return KEY.open(sums.reshape(-1), groups_of(binned.cells.count))


@given(
    rows=st.integers(1, 3 * ROWS),
    widths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    seed=st.integers(0, 1 << 30),
)
def test_sums_open_to_those_of_the_rows(rows: int, widths: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    columns = np.stack([random.integers(0, width, rows) for width in widths], axis=1).astype(float)
    binned = Binned.of(columns, 8)
    most = MOST_SUM // rows
    weights = random.integers(-most, most + 1, (SECRETS, rows))
    some = np.flatnonzero(random.random(rows) < random.random())
    some = some if len(some) else np.arange(rows)
    if not binned.cells.count:
        return
    found = opened(binned, weights, some, threads=2)
    np.testing.assert_array_equal(found[:, : binned.cells.count], binned.sums(list(weights), some))
    assert not found[:, binned.cells.count :].any()


def test_many_groups_are_opened_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    binned = Binned.of(random.normal(size=(60, 3)), 20)
    weights = random.integers(-100, 100, (SECRETS, 60))
    monkeypatch.setattr("secagg.vertical.trees.secret._AT_ONCE", 3)
    found = opened(binned, weights, np.arange(60))
    assert found.shape == (SECRETS, 8 * STRIDE)
    np.testing.assert_array_equal(found[:, :60], binned.sums(list(weights), np.arange(60)))


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_open(sign: int) -> None:
    weights = np.full((SECRETS, 1), sign * MOST_SUM)
    binned = Binned(np.zeros((1, 1), np.uint8), (np.zeros(1),), (0,), Cells((2,)))
    assert opened(binned, weights, np.arange(1))[:, 0].tolist() == [sign * MOST_SUM] * 2
    with pytest.raises(ParameterError, match="could be beyond"):
        KEY.encrypt(np.stack([weights[0] + sign, weights[1]]))
    with pytest.raises(ParameterError, match="could be beyond"):
        KEY.encrypt(np.tile(weights // 2 + sign, (1, 2)))


def test_noise_leaves_the_plaintext_alone() -> None:
    # Flood, a sum's own noise at its worst, and rounding of 4,096 coefficients times a ternary secret.
    own = ERROR_LIMIT * (5 * MOST_ROWS + 2 * N + 1)
    unit = 1 << (SCALE_BITS + SUM_BITS - SENT_BITS)
    assert (1 << (FLOOD_BITS - 1)) + own + (N // 2 + 1) * unit < 1 << (SCALE_BITS - 1)


def test_floods_are_drawn_as_they_must_be() -> None:
    limbs = flood((1, N), os.urandom)
    modulus = 1 << 105
    drawn = [n if n < modulus // 2 else n - modulus for n in numbers(carried(limbs[:, 0]))]
    half = 1 << (FLOOD_BITS - 1)
    assert -half <= min(drawn)
    assert max(drawn) < half
    tenths = np.histogram(np.array(drawn, float) / half, bins=10, range=(-1, 1))[0]
    assert np.abs(tenths - N / 10).max() < 6 * np.sqrt(N / 10)


def test_a_ciphertext_has_an_error_in_every_coefficient() -> None:
    seed, data = KEY.encrypt(np.zeros((SECRETS, 1), np.int64))
    sent = unpacked(data.reshape(1, SECRETS, N, PACKED))[0]
    masks = coefficients(transform(uniform(seed, 1)[0]) * KEY._points[:, None])
    left = carried(sent - masks)
    assert not left[:, 1:].any()
    for one in left[:, 0]:
        assert abs(one.var() / ERROR_VARIANCE - 1) < 0.2
    assert (left[0, 0] != left[1, 0]).any()


def test_nothing_is_encrypted_alike_twice() -> None:
    weights = np.ones((SECRETS, 10), np.int64)
    (seed, one), (again, other) = KEY.encrypt(weights), KEY.encrypt(weights)
    assert seed != again
    assert (one != other).mean() > 0.9


def test_no_randomness_changes_a_sum() -> None:
    random = np.random.default_rng(0)
    binned = Binned.of(random.normal(size=(50, 3)), 4)
    weights = random.integers(-100, 100, (SECRETS, 50))
    np.testing.assert_array_equal(
        opened(binned, weights, np.arange(40)), opened(binned, weights, np.arange(40))
    )


def test_the_source_of_randomness_is_the_one_handed_in() -> None:
    asked = count()

    def source(size: int) -> bytes:
        words = np.zeros(-(-size // 4), np.uint32)
        add_streams(words, plus=[next(asked).to_bytes(32, "big")])
        return words.tobytes()[:size]

    key = SecretKey(source)
    before = next(asked)
    assert before > 2
    weights = np.ones((SECRETS, 5), np.int64)
    encrypted = EncryptedRows(*key.encrypt(weights), 5)
    assert next(asked) > before + 2
    binned = Binned.of(np.arange(5.0)[:, None], 4)
    before = next(asked)
    encrypted.sums(binned, key.public, random=source, threads=1)
    assert next(asked) == before + 1 + 4 * groups_of(4)


@pytest.mark.parametrize("change", [-1, 1])
def test_ciphertexts_and_keys_of_another_size_are_refused(change: int) -> None:
    seed, data = KEY.encrypt(np.ones((SECRETS, ROWS + 1), np.int64))
    assert data.size == ciphertext_bytes(ROWS + 1) == 2 * ciphertext_bytes(ROWS)
    other = np.resize(data, data.size + change)
    with pytest.raises(MalformedMessage, match="no ciphertexts of"):
        EncryptedRows(seed, other, ROWS + 1)
    key = KEY.public.to_array()
    with pytest.raises(MalformedMessage, match="no public key"):
        PublicKey.of(seed, np.resize(key, key.size + change))


def test_coefficients_that_are_none_are_refused() -> None:
    seed, data = KEY.encrypt(np.ones((SECRETS, 1), np.int64))
    with pytest.raises(MalformedMessage, match="not below the modulus"):
        EncryptedRows(seed, np.full_like(data, 255), 1)
    with pytest.raises(MalformedMessage, match="not below the modulus"):
        PublicKey.of(seed, np.full_like(KEY.public.to_array(), 255))


def test_rows_and_sums_beyond_what_noise_hides_are_refused() -> None:
    check_rows(MOST_ROWS)
    with pytest.raises(ParameterError, match="rows; trees over encrypted sums take at most 262144"):
        check_rows(MOST_ROWS + 1)
    with pytest.raises(ParameterError, match="1 to 262144 can be encrypted"):
        KEY.encrypt(np.zeros((SECRETS, MOST_ROWS + 1), np.int64))
    binned = Binned.of(np.random.default_rng(0).normal(size=(1000, 3)), 32)
    values = groups_of(96) * STRIDE * SECRETS
    # 256 rows in eight cells of 32, if quantiles are even.
    deviation = np.sqrt(
        ERROR_VARIANCE * (binned.counts(np.arange(1000)).reshape(-1, 8).sum(1).max() + 2 * N + 1)
    )
    most = int(2.0 ** (FLOOD_BITS - 40) / (values * deviation))
    check_hiding(binned, most)
    with pytest.raises(ParameterError, match="take fewer trees, less depth or fewer bins"):
        check_hiding(binned, most + 1)
    check_hiding(Binned.of(np.ones((10, 2)), 32), 1 << 40)  # No column varies, so nothing is sent.


def test_secrets_are_not_shown_or_copied() -> None:
    assert repr(KEY) == "SecretKey()"
    assert repr(KEY.public) == "PublicKey()"
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(UsageError, match="not copied or pickled"):
            copied(KEY)


def test_limbs_are_as_many_as_sums_need() -> None:
    assert LIMBS * 21 == SCALE_BITS + SUM_BITS == 105 <= 109
