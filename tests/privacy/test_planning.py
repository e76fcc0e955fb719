"""What a run plans for its noise: the least accepted sum carries the target, and no sum can wrap."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from secagg.cohort import Cohort
from secagg.errors import ParameterError
from secagg.fixedpoint import SUM_LIMIT
from secagg.privacy.accountant import epsilon
from secagg.privacy.calibration import Privacy
from secagg.privacy.charge import LEAST_SHARE, events_of, slack_of_sum
from secagg.privacy.events import Release
from secagg.privacy.noise import reach
from secagg.privacy.noising import check_noised
from secagg.privacy.params import DistributedDP, LocalDPSGD, PrivacyMode
from secagg.privacy.planning import COARSEST, RESOLUTION, Planned, largest_entry, plan_privacy
from secagg.terms import LocalNoise, MaskingParameters, RecordNoise, SiloNoise, Terms
from secagg.weighting import UPDATE


def terms_of(planned: Planned, cohort: Cohort) -> Terms:
    assert planned.encoding is not None
    return Terms(
        federation="tests",
        job="job",
        round=1,
        kind="train",
        release=1,
        roster=bytes(32),
        base=bytes(32),
        scheme=MaskingParameters(cohort),
        encoding=planned.encoding,
        privacy=planned.noise,
    )


@st.composite
def cohorts(draw: st.DrawFn) -> Cohort:
    n = draw(st.integers(3, 50))
    c = draw(st.integers(1, n - 2))
    least = Cohort.of(n, c=c)
    return Cohort.of(n, c=c, t=draw(st.integers(least.t, n)), k_min=draw(st.integers(2, n - c)))


def power(least: float, most: float) -> st.SearchStrategy[float]:
    return st.floats(math.log10(least), math.log10(most)).map(lambda exponent: 10.0**exponent)


@st.composite
def modes(draw: st.DrawFn) -> DistributedDP:
    target = Privacy(
        epsilon=draw(power(0.01, 10)), delta=draw(power(1e-12, 1e-3)), rounds=draw(st.integers(1, 10_000))
    )
    norm = draw(power(1e-6, 1e6))
    if draw(st.booleans()):
        return DistributedDP(target, l2_clip_norm=norm)
    batch = draw(power(0.5, 1e6))
    # A rate of 1 has a closed form; what is amplified is accounted in ``test_a_sampled_run_*``.
    return DistributedDP(target, unit="record", l2_clip_norm=norm, sampling_rate=1.0, batch_size=batch)


LENGTHS = st.one_of(st.integers(1, 100), st.integers(1, 10**8))


@given(mode=modes(), cohort=cohorts(), length=LENGTHS)
@example(DistributedDP(Privacy(30, 1e-3, 1)), Cohort.of(50, c=1), 1)
@example(DistributedDP(Privacy(0.01, 1e-12, 10_000), l2_clip_norm=1e6), Cohort.of(50, c=48), 10**8)
def test_a_plan_carries_its_target_in_the_least_sum_and_cannot_wrap(
    mode: DistributedDP, cohort: Cohort, length: int
) -> None:
    planned = plan_privacy(mode, length=length, n=cohort.n, cohort=cohort, epochs=1)
    noise, encoding = planned.noise, planned.encoding
    assert encoding is not None
    assert isinstance(noise, SiloNoise | RecordNoise)
    assert [(segment.name, segment.length) for segment in encoding.segments] == [(UPDATE, length)]
    assert encoding.cohort == cohort.n

    # The longest entry of an update and the longest noise, from every silo, with one sign.
    clip = mode.l2_clip_norm * (1.0 if mode.batch_size is None else mode.batch_size)
    bits = encoding.segments[0].fraction_bits
    longest = math.ceil(math.ldexp(clip, bits)) + reach(noise.share)
    assert largest_entry(noise, bits) == longest
    assert cohort.n * longest <= SUM_LIMIT[encoding.word_bits]
    check_noised(encoding, noise, length)

    assert noise.share >= LEAST_SHARE
    wanted = mode.target.noise_multiplier(unit=mode.unit, slack=slack_of_sum(length, cohort.n))
    terms = terms_of(planned, cohort)
    (event,) = events_of(terms)
    assert isinstance(event, Release)
    assert wanted <= event.noise_multiplier <= wanted * 1.001, "less noise than the target needs, or far more"
    rounds = [
        Release(event.unit, event.noise_multiplier, 1.0, mode.target.rounds, event.slack * mode.target.rounds)
    ]
    assert epsilon(rounds, delta=mode.target.delta, unit=mode.unit) <= mode.target.epsilon


@given(mode=modes(), cohort=cohorts(), length=LENGTHS)
def test_a_plan_is_as_fine_as_it_is_useful(mode: DistributedDP, cohort: Cohort, length: int) -> None:
    planned = plan_privacy(mode, length=length, n=cohort.n, cohort=cohort, epochs=1)
    assert planned.encoding is not None
    steps = math.ldexp(mode.l2_clip_norm, planned.encoding.segments[0].fraction_bits)
    assert isinstance(planned.noise, SiloNoise | RecordNoise)
    if planned.encoding.word_bits == 32:
        assert steps >= COARSEST * math.sqrt(length)
    if planned.noise.share > 2 * LEAST_SHARE:  # Where shares are short, finer steps make them longer.
        assert steps < 2 * RESOLUTION * math.sqrt(length)


def test_words_grow_where_short_ones_are_too_coarse() -> None:
    def words(length: int, **named: Any) -> int:
        mode = DistributedDP(Privacy(1.0, 1e-6, 10_000), **named)
        encoding = plan_privacy(mode, length=length, n=10, cohort=Cohort.of(10), epochs=1).encoding
        assert encoding is not None
        return encoding.word_bits

    assert words(1_000) == 32
    assert words(10**8) == 64
    batch: dict[str, Any] = {"unit": "record", "sampling_rate": 1.0, "batch_size": 1e9}
    assert words(1_000, **batch) == 64
    assert words(10**8, l2_clip_norm=1e6) == 64


@pytest.mark.parametrize("word_bits", [32, 64])
def test_chosen_words_are_kept(word_bits: Any) -> None:
    mode = DistributedDP(Privacy(1.0, 1e-6, 10))
    planned = plan_privacy(mode, length=50, n=5, cohort=Cohort.of(5), epochs=1, word_bits=word_bits)
    assert planned.encoding is not None
    assert planned.encoding.word_bits == word_bits


def test_more_assumed_colluders_make_longer_shares() -> None:
    mode = DistributedDP(Privacy(1.0, 1e-6, 10))
    shares = []
    for c in (1, 2, 3):
        noise = plan_privacy(mode, length=50, n=6, cohort=Cohort.of(6, c=c, t=6), epochs=1).noise
        assert isinstance(noise, SiloNoise)
        shares.append(noise.share)
    assert shares == sorted(shares)
    assert shares[2] / shares[0] == pytest.approx(math.sqrt(5 / 3), rel=1e-4)


# --- sampled records -------------------------------------------------------------------------------------


def test_a_sampled_run_of_shares_keeps_its_target() -> None:
    mode = DistributedDP(
        Privacy(2.0, 1e-4, 4), unit="record", l2_clip_norm=0.5, sampling_rate=0.1, batch_size=64
    )
    cohort = Cohort.of(6)
    planned = plan_privacy(mode, length=100, n=6, cohort=cohort, epochs=1)
    noise = planned.noise
    assert isinstance(noise, RecordNoise)
    assert (noise.sampling_rate, noise.batch, noise.l2_clip_norm, noise.delta) == (0.1, 64, 0.5, 1e-4)
    (event,) = events_of(terms_of(planned, cohort))
    assert isinstance(event, Release)
    assert event.sampling_rate == 0.1
    assert 1.95 < epsilon([event] * 4, delta=1e-4, unit="record") <= 2.0
    bare = Release("record", event.noise_multiplier, count=4)  # Without the amplification.
    assert epsilon([bare], delta=1e-4, unit="record") > 4.0


@pytest.mark.parametrize(
    ("epochs", "rate", "steps"), [(2, 0.1, 20), (1, 1.0, 1), (3, 1.0, 3), (1, 0.3, 3), (1, 0.9, 1)]
)
def test_local_noise_is_planned_for_every_step_of_every_round(
    monkeypatch: pytest.MonkeyPatch, epochs: int, rate: float, steps: int
) -> None:
    """A round has as many steps as pass over all records; what calibration makes of them is tested there."""
    asked: list[tuple[float, float, Release]] = []

    def calibrated(epsilon: float, delta: float, sample: Release, fine: bool) -> float:
        asked.append((epsilon, delta, sample))
        return 1.25

    monkeypatch.setattr("secagg.privacy.calibration._least_multiplier", calibrated)
    mode = LocalDPSGD(Privacy(2.0, 1e-5, 10), l2_clip_norm=0.5, sampling_rate=rate)
    # It takes no protection: nobody is trusted.
    planned = plan_privacy(mode, length=100, n=4, cohort=None, epochs=epochs)
    assert planned == Planned(LocalNoise(0.5, 1.25, rate, steps, 1e-5), None)
    ((target, delta, sample),) = asked
    assert (target, delta) == (2.0, 1e-5)
    assert (sample.unit, sample.sampling_rate, sample.count) == ("record", rate, 10 * steps)
    assert sample.slack == pytest.approx(10 * steps * slack_of_sum(100, 1), abs=0)


# --- refused ----------------------------------------------------------------------------------------------


def test_shares_need_a_protection() -> None:
    for mode in (
        DistributedDP(Privacy(1.0, 1e-5, 1)),
        DistributedDP(Privacy(1.0, 1e-5, 1), unit="record", sampling_rate=1.0, batch_size=8),
    ):
        with pytest.raises(ParameterError, match="without protection the coordinator would read each silo's"):
            plan_privacy(mode, length=5, n=4, cohort=None, epochs=1)


@pytest.mark.parametrize(
    ("mode", "length", "text"),
    [
        # A sum over this many records has no room for a step that noise could be four of.
        (
            DistributedDP(Privacy(50, 1e-3, 1), unit="record", sampling_rate=1.0, batch_size=1e12),
            1,
            "32 bits cannot hold the noise of 4 silos: raise epsilon, lower the rounds",
        ),
        # delta is below what the sampler itself is off by.
        (DistributedDP(Privacy(1.0, 1e-24, 1)), 10**7, "is spent before any noise counts"),
    ],
)
def test_what_no_encoding_holds_is_refused(mode: PrivacyMode, length: int, text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        plan_privacy(mode, length=length, n=4, cohort=Cohort.of(4), epochs=1, word_bits=32)


def test_a_word_is_32_or_64_bits() -> None:
    with pytest.raises(ParameterError, match="word_bits is 16"):
        plan_privacy(
            DistributedDP(Privacy(1.0, 1e-5, 1)),
            length=5,
            n=4,
            cohort=Cohort.of(4),
            epochs=1,
            word_bits=16,  # type: ignore[arg-type]
        )


@pytest.mark.parametrize("epsilon_", [1e-9, 1e-6])
def test_noise_beyond_what_can_be_drawn_takes_coarser_steps(epsilon_: float) -> None:
    cohort = Cohort.of(5)
    mode = DistributedDP(Privacy(epsilon_, 1e-9, 1))
    planned = plan_privacy(mode, length=10**6, n=5, cohort=cohort, epochs=1)
    (event,) = events_of(terms_of(planned, cohort))
    assert epsilon([event], delta=1e-9, unit="silo") <= epsilon_
