"""From what may be spent to how much noise it takes: the least multiplier that an account still accepts.

What is returned was put before the accountant that reports use, so no report says more than what was asked.

Source: Balle, Wang 2018, *Improving the Gaussian Mechanism for Differential Privacy*, algorithm 1, for noise
that nobody sampled; otherwise a search.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache

from secagg.errors import ParameterError
from secagg.explanation import explained
from secagg.privacy.accountant import check_delta, coarse_epsilon, epsilon, slack_at
from secagg.privacy.events import Release, Unit
from secagg.privacy.gaussian import largest_mu
from secagg.ranges import positive, real, whole

LEAST_MULTIPLIER = 0.05
"""With less noise an epsilon is in the hundreds: nobody asks for it."""

_MOST_MULTIPLIER = 1e6
"""Of sampled records, where a search ends."""

_NEAR = 5e-4
_NEAR_ENOUGH = 4e-3
"""How near to its target a cost is brought, relatively: by the coarse account, and by the one that counts."""


@dataclass(frozen=True)
class Privacy:
    """What a run may spend: (epsilon, delta) for all of its rounds together.

    Args:
        epsilon: above 0.
        delta: above 0, below 1; choose it well below 1 over the number of records, for it also bounds the
            chance that one of them is given away whole.
        rounds: that share it, at least 1.

    Raises:
        ParameterError: a value is outside its range.
    """

    epsilon: float
    delta: float
    rounds: int

    @explained()
    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", positive("epsilon", self.epsilon))
        object.__setattr__(self, "delta", check_delta(self.delta))
        object.__setattr__(self, "rounds", whole("rounds", self.rounds, least=1))

    @explained()
    def noise_multiplier(
        self, *, unit: Unit = "record", sampling_rate: float = 1.0, steps: int = 1, slack: float = 0.0
    ) -> float:
        """Return the least noise multiplier that spends no more.

        Args:
            unit: whom the noise hides, as of ``Release``.
            sampling_rate: of each step; 1 for all records.
            steps: sums of a round, at least 1.
            slack: of one step, as of ``Release``.

        Returns:
            At least 0.05, rounded up in its fourth digit.

        Raises:
            ParameterError: a value is outside its range, or no noise is enough: the slack takes half of
                delta, or no account proves so little.
            MissingExtra: records are sampled, and ``dp_accounting`` is not installed.

        Guarantees:
            - ``epsilon`` of ``rounds * steps`` such releases is at most that of this object, at its delta.
            - With 1 % less noise it is more, unless 0.05 is returned.
        """
        return self._calibrated(unit, sampling_rate, steps, slack, fine=True)

    @explained()
    def rough_noise_multiplier(
        self, *, unit: Unit = "record", sampling_rate: float = 1.0, steps: int = 1, slack: float = 0.0
    ) -> float:
        """Return what ``noise_multiplier`` does, or up to some percent more, more quickly: for a comparison.

        Raises:
            ParameterError, MissingExtra: as ``noise_multiplier``.
        """
        return self._calibrated(unit, sampling_rate, steps, slack, fine=False)

    def _calibrated(self, unit: Unit, rate: float, steps: int, slack: float, *, fine: bool) -> float:
        releases = self.rounds * whole("steps", steps, least=1)
        total = releases * real("slack", slack)
        # The event that will be accounted refuses a unit, rate or slack that is out of range.
        sample = Release(unit, 1.0, real("sampling_rate", rate), releases, total)
        return _least_multiplier(self.epsilon, self.delta, sample, fine)


@lru_cache(maxsize=256)
def _least_multiplier(target: float, delta: float, sample: Release, fine: bool) -> float:
    """Return the least multiplier for releases that are as ``sample`` in all else."""
    slack = sample.slack
    if 4 * slack > delta:
        raise ParameterError(
            f"delta is {delta:.3g}, must be at least {4 * slack:.3g}: half of that is spent before any noise "
            "counts, on what the noise lacks of a true Gaussian. Raise delta, or lower rounds or steps"
        )

    @cache
    def exact(multiplier: float) -> float:
        release = replace(sample, noise_multiplier=multiplier)
        return (epsilon if fine else coarse_epsilon)((release,), delta=delta, unit=sample.unit)

    def coarse(multiplier: float) -> float:
        release = replace(sample, noise_multiplier=multiplier)
        return coarse_epsilon((release,), delta=delta, unit=sample.unit)

    # From some epsilon on, slack would take more than half of delta: a smaller one is had for less noise.
    reach = min(target, max(0.0, math.log(delta) - math.log(4 * slack))) if slack else target
    mu = largest_mu(reach, delta - slack_at(reach, slack))
    if sample.sampling_rate < 1.0:
        # Many sampled releases tend to one Gaussian of this mu (Bu, Dong, Long, Su 2020).
        start = 1 / math.sqrt(math.log1p((mu / sample.sampling_rate) ** 2 / sample.count))
        # What the coarse account finds is mostly what the fine one confirms.
        found = _search(exact, target, _round_up(_search(coarse, target, start, _NEAR)), _NEAR_ENOUGH)
    else:
        found = math.sqrt(sample.count) / mu
        if slack_at(target, slack) > _NEAR * delta:
            found = _search(exact, target, found, _NEAR)
    multiplier = _round_up(max(found, LEAST_MULTIPLIER))
    while exact(multiplier) > target:
        multiplier = _round_up(math.nextafter(multiplier, math.inf))
    return multiplier


def _search(cost: Callable[[float], float], target: float, start: float, near: float) -> float:
    """Return a multiplier whose cost is at most ``target``, and at most the part ``near`` less.

    The cost falls by at least as many parts as the multiplier grows, which says where to look first; between
    two multipliers it is taken to be a power.
    """
    least, enough = 0.0, math.inf
    above, below = math.inf, 0.0  # The costs of both.
    guess = max(start, LEAST_MULTIPLIER)
    turn = 0
    while True:
        turn += 1
        spent = cost(guess)
        if spent > target:
            least, above = guess, spent
        else:
            enough, below = guess, spent
            if guess == LEAST_MULTIPLIER:
                return guess
        if below >= target * (1 - near) or enough <= least * (1 + near):
            return enough
        if least > max(_MOST_MULTIPLIER, 2 * start):
            raise ParameterError(
                f"no noise brings so many steps to epsilon {target:.3g} at this delta: raise epsilon or "
                "delta (accounts of sampled records are loose below 1e-10), or lower rounds or steps"
            )
        aim = target * (1 - near / 2)
        if enough == math.inf:
            guess = least * min(2.0, above / aim)
        elif least == 0.0:
            guess = max(enough * max(0.5, below / aim), LEAST_MULTIPLIER)
        elif below == 0.0 or above == math.inf or turn % 4 == 0:
            guess = math.sqrt(least * enough)
        else:
            share = math.log(above / aim) / math.log(above / below)
            guess = least * (enough / least) ** min(0.98, max(0.02, share))


def _round_up(multiplier: float) -> float:
    """Return the least number of four digits that is not below ``multiplier``."""
    rounded = float(f"{multiplier:.3e}")
    if rounded < multiplier:
        last = 10.0 ** (math.floor(math.log10(multiplier)) - 3)
        rounded = float(f"{rounded + last:.3e}")
    return rounded
