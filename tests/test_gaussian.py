"""Gaussian noise: the right shape and width, other noise for other keys, and nothing left out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from secagg.errors import ParameterError
from secagg.hazmat.gaussian import BLOCK, gaussian_blocks
from secagg.names import RealVector
from tests.adversary.reference import Tape, stream


def drawn(length: int, label: str = "noise") -> RealVector:
    return np.concatenate([np.empty(0), *gaussian_blocks(length, random=Tape(label))])


def test_it_is_box_muller_over_the_stream() -> None:
    key = Tape("noise")(32)
    words = np.frombuffer(stream(key, 12).tobytes(), "<u8")
    uniform = [((int(word) >> 11) + 1) / 2**53 for word in words]
    expected = [
        math.sqrt(-2 * math.log(uniform[pair])) * turn(2 * math.pi * uniform[3 + pair])
        for turn in (math.cos, math.sin)
        for pair in range(3)
    ]
    assert np.allclose(drawn(6), expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("length", [0, 1, 2, 7, BLOCK, BLOCK + 1, 2 * BLOCK + 3])
def test_as_many_as_asked_for_in_blocks(length: int) -> None:
    made = list(gaussian_blocks(length, random=Tape("noise")))
    assert sum(block.size for block in made) == length
    assert all(block.size == BLOCK for block in made[:-1])
    assert len(np.unique(np.concatenate([np.empty(0), *made]))) == length


def looks_standard(values: RealVector) -> bool:
    """Mean, variance, fourth moment and three tails, about six standard deviations each way."""
    sigmas = 6 / math.sqrt(values.size)
    return bool(
        abs(values.mean()) < sigmas
        and abs(values.var() - 1) < sigmas * math.sqrt(2)
        and abs((values**4).mean() - 3) < sigmas * math.sqrt(96)
        and all(
            abs((values > limit).mean() - tail) < sigmas * math.sqrt(tail)
            for limit, tail in ((1.0, 0.158655), (3.0, 0.00134990), (-2.0, 0.977250))
        )
    )


def test_its_moments_are_those_of_a_standard_gaussian_and_of_no_other_width() -> None:
    values = drawn(200_000)
    assert looks_standard(values)
    assert not looks_standard(values * 2 / 3)
    assert not looks_standard(values * 3 / 2)
    assert not looks_standard(np.sign(values))
    halves = values[:100_000], values[100_000:]
    assert abs(np.corrcoef(*halves)[0, 1]) < 6 / math.sqrt(100_000)


def test_each_block_and_each_key_has_other_noise() -> None:
    first, second = gaussian_blocks(2 * BLOCK, random=Tape("noise"))
    assert not np.intersect1d(first, second).size
    assert not np.intersect1d(first, drawn(BLOCK, "other")).size


def test_no_negative_length() -> None:
    with pytest.raises(ParameterError, match="length"):
        next(gaussian_blocks(-1))
