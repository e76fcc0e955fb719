"""Secrets and errors of ring-LWE are distributed as its security needs them."""

from __future__ import annotations

import os

import numpy as np
import pytest

from secagg.hazmat.short import ERROR_LIMIT, ERROR_VARIANCE, errors, ternary


def test_secrets_are_ternary() -> None:
    secret = ternary((20, 4096), os.urandom)
    assert secret.shape == (20, 4096)
    for value in (-1, 0, 1):
        assert abs((secret == value).mean() - 1 / 3) < 6 * np.sqrt(2 / 9 / secret.size)
    assert not set(np.unique(secret)) - {-1, 0, 1}


def test_errors_are_centred_binomial() -> None:
    found = errors((10, 20_000), os.urandom)
    assert found.shape == (10, 20_000)
    assert abs(found.mean()) < 6 * np.sqrt(ERROR_VARIANCE / found.size)
    assert abs(found.var() / ERROR_VARIANCE - 1) < 0.02
    assert np.abs(found).max() <= ERROR_LIMIT


@pytest.mark.parametrize(("ones", "error"), [(0b000, 0), (0b111, 21), (0b100, 5)])
def test_an_error_is_the_difference_of_two_sums_of_21_bits(ones: int, error: int) -> None:
    first = bytes(255 if ones >> at & 1 else 0 for at in range(3))
    assert errors((1,), lambda size: (first + bytes(3))[:size])[0] == error
    assert errors((1,), lambda size: (bytes(3) + first)[:size])[0] == -error
