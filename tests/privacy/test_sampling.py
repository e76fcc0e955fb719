"""Poisson sampling: each record with its probability, independently of all others, from fresh randomness."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, chi2

from secagg.errors import ParameterError
from secagg.privacy.sampling import BLOCK, PoissonSampler
from tests.adversary.reference import Tape, stream
from tests.privacy.randomness import Watched

FALSE_ALARM = 1e-12
"""Probability with which a right sampler fails one of the tests below that draw fresh samples."""


# --- what is drawn --------------------------------------------------------------------------------------


@given(st.floats(0.0, 1.0, exclude_min=True, exclude_max=True), st.sampled_from([1, 7, 100]))
def test_a_record_is_drawn_where_its_word_is_below_the_rate(rate: float, records: int) -> None:
    words = stream(Tape("sample")(32), records, 64).tolist()
    expected = [row for row, word in enumerate(words) if word < math.floor(rate * 2**64)]
    found = PoissonSampler(rate, random=Tape("sample")).draw(records)
    assert found.tolist() == expected
    assert found.dtype == np.int64


def test_a_rate_is_cut_off_at_the_word_and_nowhere_else() -> None:
    words = stream(Tape("exact")(32), 20_000, 64)
    # Those that a float64 holds, and the next integer too, as rates.
    rows = np.flatnonzero(words < 2**53).tolist()
    assert len(rows) > 3
    for row in rows:
        word = int(words[row])
        excluded = PoissonSampler(word * 2.0**-64, random=Tape("exact")).draw(20_000).tolist()
        included = PoissonSampler((word + 1) * 2.0**-64, random=Tape("exact")).draw(20_000).tolist()
        assert set(included) - set(excluded) == {row}


def test_the_rows_of_every_block_are_drawn_ascending() -> None:
    records = 2 * BLOCK + 5
    keys, expected = Tape("blocks"), []
    for start in range(0, records, BLOCK):
        words = stream(keys(32), min(BLOCK, records - start), 64)
        expected += [start + int(at) for at in np.flatnonzero(words < 2**62)]
    found = PoissonSampler(0.25, random=Tape("blocks")).draw(records).tolist()
    assert found == expected == sorted(set(expected))
    assert expected[-1] >= 2 * BLOCK


@pytest.mark.parametrize("records", [0, 1, BLOCK + 1])
def test_a_rate_of_one_draws_all_and_the_least_none(records: int) -> None:
    everything = PoissonSampler(1.0).draw(records)
    assert everything.tolist() == list(range(records))
    assert everything.dtype == np.int64
    # Rounded down to a multiple of 2**-64: an account of the rate is never too low.
    assert PoissonSampler(2.0**-65).draw(records).size == 0
    assert PoissonSampler(5e-324).draw(records).size == 0


def test_the_largest_rate_below_one_is_no_one() -> None:
    assert PoissonSampler(math.nextafter(1.0, 0.0)).draw(100).size == 100


# --- as often as it should --------------------------------------------------------------------------------


def p_value(drawn: int, of: int, rate: float) -> float:
    """Return the two-sided p-value of so many draws."""
    return 2 * min(float(binom.cdf(drawn, of, rate)), float(binom.sf(drawn - 1, of, rate)))


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.5, 0.99])
def test_the_number_drawn_fits_the_rate_and_no_other(rate: float) -> None:
    """Of 4,000,000 records: what 2/3 and 3/2 of the rate expect is at least 25 standard deviations away."""
    records = 4_000_000
    drawn = PoissonSampler(rate).draw(records).size
    assert p_value(drawn, records, rate) > FALSE_ALARM
    assert p_value(drawn, records, rate * 2 / 3) < FALSE_ALARM
    assert p_value(drawn, records, min(rate * 3 / 2, 0.9999)) < FALSE_ALARM


def test_the_size_of_a_sample_is_not_fixed() -> None:
    """Sizes of 1,000 samples of 500 records have the binomial variance; those of a shuffled loader none."""
    sampler = PoissonSampler(0.1)
    sizes = np.array([sampler.draw(500).size for _ in range(1000)])
    statistic = float(((sizes - 50) ** 2 / 45).sum())
    assert FALSE_ALARM < chi2.sf(statistic, 1000) < 1 - FALSE_ALARM
    assert chi2.sf(0.0, 1000) > 1 - FALSE_ALARM


def test_records_are_drawn_independently() -> None:
    """Pairs of neighbours, in a sample and in the next one, are both drawn with the square of the rate."""
    sampler, records, rate = PoissonSampler(0.3), 200_000, 0.3
    one, other = (np.isin(np.arange(records), sampler.draw(records)) for _ in range(2))
    assert p_value(int((one[::2] & one[1::2]).sum()), records // 2, rate**2) > FALSE_ALARM
    assert p_value(int((one & other).sum()), records, rate**2) > FALSE_ALARM
    blocks = one[:BLOCK] & one[BLOCK : 2 * BLOCK]
    assert p_value(int(blocks.sum()), BLOCK, rate**2) > FALSE_ALARM
    assert p_value(int((one & one).sum()), records, rate**2) < FALSE_ALARM


def test_each_record_has_the_same_chance() -> None:
    """How often each of 300 records is in 1,000 samples."""
    sampler, often = PoissonSampler(0.2), np.zeros(300)
    for _ in range(1000):
        often[sampler.draw(300)] += 1
    assert FALSE_ALARM < chi2.sf(float(((often - 200) ** 2 / 160).sum()), 300) < 1 - FALSE_ALARM


# --- randomness and counts --------------------------------------------------------------------------------


def test_each_block_of_each_step_takes_a_key_of_its_own() -> None:
    random = Watched()
    sampler = PoissonSampler(0.5, random=random)
    assert not random.given
    steps = [sampler.draw(BLOCK + 1).tolist() for _ in range(3)]
    assert [len(key) for key in random.given] == [32] * 6
    assert len(set(random.given)) == 6
    assert steps[0] != steps[1] != steps[2] != steps[0]


def test_the_same_bytes_draw_the_same_rows_and_fresh_ones_others() -> None:
    one, same, other = (PoissonSampler(0.5, random=Tape(name)).draw(100).tolist() for name in ("a", "a", "b"))
    assert one == same != other
    assert PoissonSampler(0.5).draw(200).tolist() != PoissonSampler(0.5).draw(200).tolist()


def test_draws_are_counted_also_where_nothing_can_be_drawn() -> None:
    sampler = PoissonSampler(0.5)
    assert sampler.draws == 0
    for records in (0, 10, 0):
        sampler.draw(records)
    assert sampler.draws == 3
    with pytest.raises(ParameterError):
        sampler.draw(-1)
    assert sampler.draws == 3
    assert sampler.rate == 0.5


# --- refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rate",
    [
        0.0,
        -0.0,
        -0.1,
        math.nextafter(1.0, 2.0),
        2,
        math.nan,
        math.inf,
        -math.inf,
        10**400,
        "0.5",
        None,
        True,
        1j,
    ],
)
def test_a_rate_outside_its_range_is_refused(rate: Any) -> None:
    with pytest.raises(ParameterError, match="sampling_rate"):
        PoissonSampler(rate)


@pytest.mark.parametrize("rate", [0.5, 1.0])
@pytest.mark.parametrize("records", [-1, 2.5, "7", None, True])
def test_a_number_of_records_that_is_none_is_refused(rate: float, records: Any) -> None:
    with pytest.raises(ParameterError, match="records"):
        PoissonSampler(rate).draw(records)
