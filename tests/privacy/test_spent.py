"""What is said of privacy: always epsilon, delta, whom it hides and from whom; rounded up; every release."""

from __future__ import annotations

import math
import re
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from secagg.cohort import Cohort
from secagg.privacy import spent as spent_module
from secagg.privacy.accountant import epsilon
from secagg.privacy.charge import events_of, of_one_upload
from secagg.privacy.spent import NEIGHBORING_RELATION, Spent, shown_epsilon
from secagg.report import privacy_sentence
from secagg.terms import (
    CKKSParameters,
    LocalNoise,
    MaskingParameters,
    PaillierParameters,
    PlainParameters,
    PrivacyParameters,
    RecordNoise,
    SiloNoise,
    ThresholdPaillierParameters,
)
from tests.privacy.test_charge import only, terms_of

COHORT = Cohort.of(7)  # c = 2, t = 5.
SILO = SiloNoise(2.0, 200.0, 1e-6)
RECORD = RecordNoise(2.0, 200.0, 1.0, 8.0, 1e-6)
LOCAL = LocalNoise(2.0, 4.0, 1.0, 7, 1e-6)
SHARED = (PaillierParameters(COHORT, bytes(32)), CKKSParameters(COHORT, bytes(32)))
TRUSTLESS = (MaskingParameters(COHORT), ThresholdPaillierParameters(COHORT, bytes(32)))


def spent(
    noise: PrivacyParameters, *, survivors: int = 7, before: Spent | None = None, **changes: Any
) -> Spent:
    found = Spent.of(terms_of(noise, **changes), survivors, before)
    assert found is not None
    return found


def test_without_noise_nothing_is_promised() -> None:
    assert Spent.of(terms_of(None), 7, None) is None
    assert privacy_sentence(None) == "no differential privacy: the sum itself may reveal"


# --- the sentence -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [*SHARED, *TRUSTLESS], ids=lambda scheme: type(scheme).__name__)
@pytest.mark.parametrize("noise", [SILO, RECORD, LOCAL], ids=lambda noise: type(noise).__name__)
def test_epsilon_never_stands_without_what_it_means(noise: PrivacyParameters, scheme: Any) -> None:
    found = spent(noise, scheme=scheme)
    text = found.sentence()
    assert text == privacy_sentence(found)
    assert text.startswith(f"epsilon {shown_epsilon(found.epsilon)} at delta 1e-06 for one ")
    unit = "one silo's whole contribution" if noise is SILO else "one record"
    assert f"for {unit} ({NEIGHBORING_RELATION}; " in text
    assert ", against " in text
    if noise is SILO:
        assert "who takes part is public" in text
    else:
        assert "how many records there are is not hidden" in text


@pytest.mark.parametrize("noise", [SILO, RECORD])
@pytest.mark.parametrize("scheme", TRUSTLESS)
def test_shares_are_hidden_from_the_coordinator_with_its_colluders(
    noise: PrivacyParameters, scheme: Any
) -> None:
    text = spent(noise, scheme=scheme).sentence()
    assert text.endswith("against whoever reads the model, the coordinator with 2 silos included")


@pytest.mark.parametrize("noise", [SILO, RECORD])
@pytest.mark.parametrize("scheme", SHARED)
def test_where_one_key_opens_the_epsilon_against_its_holder_is_named(
    noise: PrivacyParameters, scheme: Any
) -> None:
    """There a silo and the coordinator together could open a single upload, which has one share."""
    found = spent(noise, scheme=scheme)
    text = found.sentence()
    assert "against whoever reads the model, and up to 2 silos that pool what they know;" in text
    assert "coordinator with" not in text
    (alone,) = re.findall(r"against a silo and the coordinator together, .*: ([\d.]+)$", text)
    terms = terms_of(noise, scheme=scheme)
    exact = epsilon(of_one_upload(terms), delta=1e-6, unit=found.unit)
    assert exact <= float(alone) <= exact * 1.01
    assert float(alone) > 1.5 * found.epsilon


@pytest.mark.parametrize("scheme", [*SHARED, *TRUSTLESS, PlainParameters()])
def test_local_noise_trusts_nobody(scheme: Any) -> None:
    found = spent(LOCAL, scheme=scheme)
    assert found.sentence().endswith("against whoever reads updates or models")
    assert (found.colluders, found.uploads) == (0, ())


def test_without_the_package_epsilon_is_not_invented(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith(("dp_accounting", "secagg.privacy.pld"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    monkeypatch.delattr("secagg.privacy.pld", raising=False)
    spent_module._epsilon.cache_clear()  # What was reckoned before, it would still know.
    sampled = spent(replace(RECORD, sampling_rate=0.123, share=201.5))
    text = sampled.sentence()
    assert text.startswith("epsilon unknown here (")
    assert "secagg[dp]" in text
    assert "at delta 1e-06 for one record" in text


# --- digits -------------------------------------------------------------------------------------------------


@given(st.floats(1e-12, 1e12))
@example(0.07)
@example(2.0000000000001)
@example(1.0000000000000002)
@example(9.991)
@example(99.95)
@example(1234567.0)
def test_epsilon_is_rounded_up_by_less_than_one_percent(value: float) -> None:
    shown = shown_epsilon(value)
    assert float(shown) >= value
    assert float(shown) <= value * 1.01
    assert len(shown.replace(".", "").strip("0")) <= 3


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (math.inf, "unbounded"),
        (3.0, "3.00"),
        (2.991, "3.00"),
        (2.9900001, "3.00"),
        (2.99, "2.99"),
        (36.5954, "36.6"),
        (0.07, "0.0700"),
        (9.999, "10.00"),
        (1234.0, "1240"),
    ],
)
def test_epsilon_has_three_digits(value: float, text: str) -> None:
    assert shown_epsilon(value) == text


# --- what adds up -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [SILO, RECORD, LOCAL])
def test_every_round_adds_up(noise: PrivacyParameters) -> None:
    total = None
    for rounds in range(1, 6):
        total = spent(noise, before=total)
        (release,) = total.releases
        event = only(events_of(terms_of(noise), survivors=7))
        assert release.count == rounds * event.count
        assert release.slack == pytest.approx(rounds * event.slack, abs=0)
        assert total.epsilon == pytest.approx(
            epsilon([event] * rounds, delta=1e-6, unit=total.unit), rel=1e-9
        )
    assert total is not None
    assert total.epsilon > 1.8 * spent(noise).epsilon


def test_rounds_with_fewer_silos_stand_beside_the_others() -> None:
    found = spent(SILO, survivors=5, before=spent(SILO, survivors=7, before=spent(SILO, survivors=7)))
    assert [release.count for release in found.releases] == [1, 2]  # The least noise first.
    assert found.noise_multiplier == min(release.noise_multiplier for release in found.releases)
    assert found.epsilon > spent(SILO, survivors=7, before=spent(SILO, before=spent(SILO))).epsilon


def test_single_uploads_add_up_too() -> None:
    scheme = SHARED[0]
    once = spent(SILO, scheme=scheme)
    twice = spent(SILO, scheme=scheme, survivors=5, before=once)
    assert [release.count for release in twice.uploads] == [2]
    assert twice.sentence() != once.sentence()


# --- the card -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [SILO, RECORD, LOCAL])
def test_the_card_says_the_same(noise: PrivacyParameters) -> None:
    found = spent(noise, before=spent(noise))
    assert found.card() == {
        "epsilon": found.epsilon,
        "delta": 1e-6,
        "unit": "silo" if noise is SILO else "record",
        "neighboring_relation": "replaced by an empty one",
        "noise": "local" if noise is LOCAL else "distributed",
        "noise_multiplier": found.noise_multiplier,
        "releases": 14 if noise is LOCAL else 2,
    }
