"""What terms cost: for the fewest silos before a round, for the real ones after it, and never too little."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from secagg.cohort import Cohort
from secagg.errors import ParameterError
from secagg.fixedpoint import Encoding, Segment
from secagg.privacy.accountant import epsilon
from secagg.privacy.charge import (
    ROUNDING_ERROR,
    events_of,
    of_one_upload,
    sensitivity,
    slack_of_steps,
    slack_of_sum,
)
from secagg.privacy.events import Event, Release, Unprotected
from secagg.privacy.noise import SAMPLING_ERROR
from secagg.terms import (
    CKKSParameters,
    LocalNoise,
    MaskingParameters,
    PaillierParameters,
    PlainParameters,
    PrivacyParameters,
    RecordNoise,
    SiloNoise,
    Terms,
    ThresholdPaillierParameters,
)

LENGTH, BITS = 100, 6
SILO = SiloNoise(2.0, 50.0, 1e-5)
RECORD = RecordNoise(2.0, 50.0, 0.25, 8.0, 1e-5)
LOCAL = LocalNoise(2.0, 1.5, 0.25, 7, 1e-5)


def terms_of(noise: PrivacyParameters | None, cohort: Cohort | None = None, **changes: Any) -> Terms:
    cohort = Cohort.of(7) if cohort is None else cohort
    fields: dict[str, Any] = {
        "federation": "tests",
        "job": "job",
        "round": 1,
        "kind": "train",
        "release": 1,
        "roster": bytes(32),
        "base": bytes(32),
        "scheme": MaskingParameters(cohort),
        "encoding": Encoding(64, cohort.n, (Segment("update", LENGTH, 2.0**20, BITS),)),
        "privacy": noise,
    }
    return Terms(**(fields | changes))


def only(events: tuple[Event, ...]) -> Release:
    (event,) = events
    assert isinstance(event, Release)
    return event


def four_digits(multiplier: float) -> float:
    """Return a multiplier as events have it: rounded down."""
    unit = 10.0 ** (3 - math.floor(math.log10(multiplier)))
    return math.floor(multiplier * unit) / unit


def test_a_silo_is_charged_for_the_fewest_and_told_of_the_real_ones() -> None:
    terms = terms_of(SILO)  # n = 7, c = 2, t = 5.
    for survivors, honest in ((None, 3), (5, 3), (6, 4), (7, 5)):
        event = only(events_of(terms, survivors=survivors))
        assert event.noise_multiplier == four_digits(math.sqrt(honest * 50.0**2 - 4) / (2.0 * 2**BITS))
        assert (event.unit, event.sampling_rate, event.count) == ("silo", 1.0, 1)


def test_a_record_is_charged_with_what_rounding_the_sum_moves() -> None:
    event = only(events_of(terms_of(RECORD)))
    steps = 2.0 * 2**BITS + math.sqrt(LENGTH)
    assert event.noise_multiplier == four_digits(math.sqrt(3 * 50.0**2 - 4) / steps)
    assert (event.unit, event.sampling_rate, event.count) == ("record", 0.25, 1)


def test_local_noise_is_charged_by_step_whoever_takes_part() -> None:
    for scheme in (MaskingParameters(Cohort.of(7)), PlainParameters()):
        for survivors in (None, 3, 7):
            event = only(events_of(terms_of(LOCAL, scheme=scheme), survivors=survivors))
            assert event == Release("record", 1.5, 0.25, 7, slack_of_steps(LENGTH, 7))


def test_terms_without_noise_are_an_unprotected_sum() -> None:
    assert events_of(terms_of(None)) == of_one_upload(terms_of(None)) == (Unprotected(),)


@pytest.mark.parametrize("noise", [SILO, RECORD])
def test_the_slack_is_that_of_every_entry_and_silo(noise: PrivacyParameters) -> None:
    assert only(events_of(terms_of(noise))).slack == slack_of_sum(LENGTH, 7)
    assert slack_of_sum(LENGTH, 7) == pytest.approx(LENGTH * (1e-30 + 7 * 2.0**-104), abs=0)
    assert slack_of_steps(LENGTH, 9) == pytest.approx(9 * LENGTH * (ROUNDING_ERROR + SAMPLING_ERROR), abs=0)
    assert only(of_one_upload(terms_of(noise))).slack == slack_of_sum(LENGTH, 1)


@given(
    n=st.integers(3, 50),
    data=st.data(),
    share=st.floats(4.0, 1e6),
    record=st.booleans(),
)
def test_more_survivors_never_cost_more(n: int, data: st.DataObject, share: float, record: bool) -> None:
    cohort = Cohort.of(n, c=data.draw(st.integers(1, n - 2)))
    noise: Any = replace(RECORD, share=share, sampling_rate=1.0) if record else replace(SILO, share=share)
    terms = terms_of(noise, cohort)
    worst = only(events_of(terms))
    assert worst == only(events_of(terms, survivors=cohort.min_survivors))
    last = epsilon([worst], delta=1e-5, unit=worst.unit)
    for survivors in range(cohort.min_survivors, n + 1):
        event = only(events_of(terms, survivors=survivors))
        assert event.noise_multiplier >= worst.noise_multiplier
        cost = epsilon([event], delta=1e-5, unit=worst.unit)
        assert cost <= last * (1 + 1e-6)
        last = cost


@given(n=st.integers(3, 50), c=st.integers(1, 48))
def test_shares_of_colluders_do_not_count(n: int, c: int) -> None:
    if c > n - 2:
        return
    cohort = Cohort.of(n, c=c)
    multiplier = only(events_of(terms_of(SILO, cohort))).noise_multiplier
    shares = math.sqrt((cohort.min_survivors - c) * 50.0**2 - 4) / (2.0 * 2**BITS)
    assert multiplier == four_digits(shares)


@pytest.mark.parametrize("noise", [SILO, RECORD])
def test_one_upload_alone_has_one_share(noise: PrivacyParameters) -> None:
    for scheme in (
        PaillierParameters(Cohort.of(7), bytes(32)),
        CKKSParameters(Cohort.of(7), bytes(32)),
        ThresholdPaillierParameters(Cohort.of(7), bytes(32)),
    ):
        terms = terms_of(noise, scheme=scheme)
        alone, together = only(of_one_upload(terms)), only(events_of(terms))
        assert alone.noise_multiplier < together.noise_multiplier / 1.7
        steps = 2.0 * 2**BITS + (math.sqrt(LENGTH) if noise is RECORD else 0.0)
        assert alone.noise_multiplier == four_digits(math.sqrt(50.0**2 - 4) / steps)
        assert (alone.unit, alone.sampling_rate) == (together.unit, together.sampling_rate)


def test_one_upload_with_local_noise_costs_what_the_sum_does() -> None:
    assert of_one_upload(terms_of(LOCAL)) == events_of(terms_of(LOCAL))


@pytest.mark.parametrize("noise", [SILO, RECORD])
def test_shares_hide_nothing_where_uploads_are_read(noise: PrivacyParameters) -> None:
    with pytest.raises(ParameterError, match="shares of noise hide nothing"):
        events_of(terms_of(noise, scheme=PlainParameters()))


@pytest.mark.parametrize("share", [3.999999, 1.0, 1e-9])
@pytest.mark.parametrize("noise", [SILO, RECORD])
def test_shares_too_short_for_the_rounding_are_refused(noise: Any, share: float) -> None:
    with pytest.raises(ParameterError, match="must have at least 4"):
        events_of(terms_of(replace(noise, share=share)))


def test_fewer_survivors_than_colluders_and_one_are_refused() -> None:
    for survivors in (0, 1, 2):
        with pytest.raises(ParameterError):
            events_of(terms_of(SILO), survivors=survivors)


def test_the_sensitivity_of_a_silo_is_its_clip_norm_and_that_of_a_record_has_the_rounding() -> None:
    assert sensitivity("silo", 3.0, fraction_bits=4, length=10**6) == 48.0
    assert sensitivity("record", 3.0, fraction_bits=4, length=10**6) == pytest.approx(48.0 + 1000.0)
