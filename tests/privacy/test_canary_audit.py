"""Many tiny trainings with a canary and without it: what an attacker learns stays below the claimed epsilon.

The canary is the worst there is: alone in its direction, as long as the clip norm allows, and against an
attacker that sees every step, knows all others' data, the shares of ``c`` colluding silos, and computes the
best test there is. The vectors are those of ``noised_update`` and ``noised_gradient`` and go back through
``decode_noised``; games of unit record lie beside one another in one long vector, since nothing there looks
at more than one entry.

A bound on epsilon is above the true one with a probability below ``auditing.FALSE_ALARM``, 1e-6, which is how
often a right noise fails one of these tests. In reduced runs there are 4,000 games a side, half of which
choose a threshold. With a tenth of the noise the bound is far beyond what is claimed."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray
from scipy.stats import norm

from secagg.cohort import Cohort
from secagg.fixedpoint import Encoding, Segment
from secagg.privacy.calibration import Privacy
from secagg.privacy.gaussian import least_epsilon
from secagg.privacy.noising import StepNoise, decode_noised, noised_gradient, noised_update
from secagg.privacy.params import DistributedDP, LocalDPSGD, PrivacyMode
from secagg.privacy.planning import Planned, plan_privacy
from secagg.privacy.sampling import PoissonSampler
from secagg.terms import LocalNoise, RecordNoise, SiloNoise
from tests.counts import count
from tests.privacy.auditing import FALSE_ALARM, at_most, likelihood, lower_bound

WEIGHTS = 4
N = 4
COHORT = Cohort.of(N)
HONEST = COHORT.min_survivors - COHORT.c
"""Silos in the smallest sum whose shares nobody tells."""

LEARNT = 0.3
"""A bound that shows that the attacker learns; it comes out at about 1, with a standard deviation of 0.12."""

GAMES = count(4_000, full=40_000)
SILO_GAMES = count(2_000, full=10_000)
DELTA = 1e-2
"""Large, as so few games are: at a small one a noise may be right by far more than any of them shows."""
STEPS, RATE = 3, 0.5
TARGET = Privacy(epsilon=3.0, delta=DELTA, rounds=STEPS)


@cache
def planned(mode: PrivacyMode) -> Planned:
    return plan_privacy(mode, length=WEIGHTS, n=N, cohort=COHORT, epochs=1)


RECORD = DistributedDP(TARGET, unit="record", l2_clip_norm=0.5, sampling_rate=RATE, batch_size=8)
SILO = DistributedDP(TARGET, l2_clip_norm=0.5)


def weakened(noise: Any, part: float) -> Any:
    """Return parameters under which ``part`` of the noise is drawn."""
    if isinstance(noise, LocalNoise):
        return replace(noise, noise_multiplier=noise.noise_multiplier * part)
    return replace(noise, share=noise.share * part)


def long(encoding: Encoding, length: int) -> Encoding:
    (segment,) = encoding.segments
    return Encoding(
        encoding.word_bits, N, (Segment(segment.name, length, segment.bound, segment.fraction_bits),)
    )


def others(weights: NDArray[Any]) -> NDArray[Any]:
    """Return the sum of gradients of all other records: they pull the weights, but not along the canary."""
    pull = 2.0 * (weights - np.linspace(0.0, 1.0, WEIGHTS))
    pull[:, 0] = 0.0
    return np.clip(pull, -2.0, 2.0)


# --- records ------------------------------------------------------------------------------------------------


def record_games(*, canary: bool, part: float) -> NDArray[Any]:
    """Train many models at once; return the scores of their attackers."""
    plan = planned(RECORD)
    assert isinstance(plan.noise, RecordNoise)
    assert plan.encoding is not None
    noise, encoding = weakened(plan.noise, part), long(plan.encoding, GAMES * WEIGHTS)
    weights, seen = np.zeros((GAMES, WEIGHTS)), np.zeros((GAMES, STEPS))
    sampler = PoissonSampler(noise.sampling_rate)
    for step in range(STEPS):
        gradients = np.zeros((HONEST, GAMES, WEIGHTS))
        gradients[0] = others(weights)
        if canary:  # Its gradient is against its direction, so that the descent is along it.
            gradients[1, sampler.draw(GAMES), 0] -= noise.l2_clip_norm
        total = np.zeros(encoding.length, encoding.dtype)
        for gradient in gradients:
            total += noised_gradient(encoding, noise, gradient.reshape(-1))
        mean = decode_noised(encoding, noise, total, silos=COHORT.min_survivors).values
        assert mean is not None
        moved = mean.reshape(GAMES, WEIGHTS)
        seen[:, step] = moved[:, 0] * noise.batch / noise.l2_clip_norm
        weights = weights + moved
    return likelihood(seen, multiplier=multiplier_of(noise.share, encoding, noise.l2_clip_norm), rate=RATE)


def multiplier_of(share: float, encoding: Encoding, l2_clip_norm: float) -> float:
    steps = math.ldexp(l2_clip_norm, encoding.segments[0].fraction_bits)
    return share * math.sqrt(HONEST) / steps


def audit(games: Any, part: float) -> float:
    return lower_bound(games(canary=True, part=part), games(canary=False, part=part), delta=DELTA)


def test_what_a_record_gives_away_is_below_the_claimed_epsilon() -> None:
    bound = audit(record_games, 1.0)
    assert bound <= TARGET.epsilon
    assert bound > LEARNT, "the attacker learns next to nothing: the audit proves nothing"


def test_with_a_tenth_of_the_noise_a_record_gives_away_more() -> None:
    assert audit(record_games, 0.1) > TARGET.epsilon


# --- silos --------------------------------------------------------------------------------------------------


def silo_games(*, canary: bool, part: float) -> NDArray[Any]:
    """The same for all that one silo gives, which is far longer than the clip norm, or nothing at all."""
    plan = planned(SILO)
    assert isinstance(plan.noise, SiloNoise)
    assert plan.encoding is not None
    noise, encoding = weakened(plan.noise, part), long(plan.encoding, SILO_GAMES * WEIGHTS)
    seen = np.zeros((SILO_GAMES, STEPS))
    update = np.array([100.0, 0.0, 0.0, 0.0])
    for step in range(STEPS):
        total = np.zeros(encoding.length, encoding.dtype)
        for _ in range(HONEST - canary):  # Zeros have no norm to clip, so that many games are one vector.
            total += noised_update(encoding, noise, np.zeros(encoding.length))
        if canary:
            each = [noised_update(plan.encoding, noise, update) for _ in range(SILO_GAMES)]
            total += np.concatenate(each)
        mean = decode_noised(encoding, noise, total, silos=COHORT.min_survivors).values
        assert mean is not None
        seen[:, step] = mean.reshape(SILO_GAMES, WEIGHTS)[:, 0] * COHORT.min_survivors / noise.l2_clip_norm
    return likelihood(seen, multiplier=multiplier_of(noise.share, encoding, noise.l2_clip_norm))


def test_what_a_silo_gives_away_is_below_the_claimed_epsilon() -> None:
    bound = audit(silo_games, 1.0)
    assert bound <= TARGET.epsilon
    assert bound > LEARNT, "the attacker learns next to nothing: the audit proves nothing"


def test_with_a_tenth_of_the_noise_a_silo_gives_away_more() -> None:
    assert audit(silo_games, 0.1) > TARGET.epsilon


# --- noise in the silo --------------------------------------------------------------------------------------

LOCAL = LocalDPSGD(Privacy(epsilon=3.0, delta=DELTA, rounds=1), l2_clip_norm=0.5, sampling_rate=1.0)


def local_games(*, canary: bool, part: float) -> NDArray[Any]:
    plan = planned(LOCAL)
    assert isinstance(plan.noise, LocalNoise)
    noise = weakened(plan.noise, part)
    total = np.zeros((GAMES, WEIGHTS))
    total[:, 0] = noise.l2_clip_norm * canary
    # All in one vector: rounding then counts a little more than it would in a short one, 0.1 % of the noise.
    noised = StepNoise(noise, total.size).add(total.reshape(-1))
    seen = noised.reshape(GAMES, WEIGHTS)[:, :1] / noise.l2_clip_norm
    return likelihood(seen, multiplier=noise.noise_multiplier)


def test_a_step_of_local_training_gives_away_less_than_the_claimed_epsilon() -> None:
    assert LEARNT < audit(local_games, 1.0) <= TARGET.epsilon
    assert audit(local_games, 0.1) > TARGET.epsilon


# --- the audit itself ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mu", [0.5, 1.0, 3.0])
def test_the_bound_is_below_an_epsilon_that_is_known(mu: float) -> None:
    rng = np.random.default_rng(int(10 * mu))
    scores = [rng.normal(shift, 1.0, 20_000) for shift in (mu, 0.0)]
    bound = lower_bound(scores[0], scores[1], delta=DELTA)
    assert 0.1 * mu < bound <= least_epsilon(mu, DELTA)
    # Of scores that say nothing it says nothing; of certain ones, what so many games can say.
    assert lower_bound(scores[1], rng.normal(0.0, 1.0, 20_000), delta=DELTA) < 0.05
    certain = lower_bound(np.ones(20_000), np.zeros(20_000), delta=DELTA)
    assert certain == pytest.approx(math.log(1 / at_most(0, 10_000, FALSE_ALARM / 2)), rel=0.01)


def test_the_intervals_are_those_of_clopper_and_pearson() -> None:
    assert at_most(0, 1_000, 0.025) == pytest.approx(1 - 0.025 ** (1 / 1_000))
    assert at_most(1_000, 1_000, 0.025) == 1.0
    # Half of the games: as the normal law says, nearly.
    assert at_most(500, 1_000, 0.025) == pytest.approx(
        0.5 + norm.ppf(0.975) * math.sqrt(0.25 / 1_000), rel=0.01
    )
