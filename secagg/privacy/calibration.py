"""From what may be spent to how much noise it takes: the least multiplier that an account still accepts.

What is returned was put before the accountant that reports use, so no report says more than what was asked.

Source: Balle, Wang 2018, *Improving the Gaussian Mechanism for Differential Privacy*, algorithm 1, for noise
that nobody sampled; otherwise a search.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from secagg.errors import ParameterError
from secagg.explanation import explained
from secagg.privacy.accountant import check_delta, coarse_epsilon, epsilon, rdp_epsilon, slack_at
from secagg.privacy.events import Release, Unit
from secagg.privacy.gaussian import largest_mu
from secagg.ranges import positive, real, whole

LEAST_MULTIPLIER = 0.05
"""With less noise an epsilon is in the hundreds: nobody asks for it."""

_MOST_MULTIPLIER = 1e12

_ORDERS = (1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 128.0, 256.0)


@dataclass(frozen=True)
class Privacy:
    """What a run may spend: (epsilon, delta) for all of its rounds together.

    Args:
        epsilon: above 0.
        delta: above 0, below 1; below 1 over the number of records, or an opened record would be within it.
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
            ParameterError: a value is outside its range, or no noise is enough: the slack alone costs more.
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
        count = self.rounds * whole("steps", steps, least=1)
        total = count * real("slack", slack)
        # Refused here, by the event that will be accounted, are a unit, a rate and a slack out of range.
        sample = Release(unit, 1.0, real("sampling_rate", rate), count, total)
        return _least_multiplier(self.epsilon, self.delta, sample, fine)


@lru_cache(maxsize=256)
def _least_multiplier(target: float, delta: float, sample: Release, fine: bool) -> float:
    """Return the least multiplier for releases that are ``sample`` in all else."""
    room = delta - slack_at(target, sample.slack)
    if room <= 0.0:
        raise ParameterError(
            f"delta {delta:.3g} is spent before any noise counts: what the noise lacks of a true Gaussian "
            f"costs {slack_at(target, sample.slack):.3g} at epsilon {target:.4g}. Raise delta, or lower "
            "epsilon, rounds or steps"
        )

    def cost(multiplier: float, account: Callable[..., float] = epsilon if fine else coarse_epsilon) -> float:
        release = Release(sample.unit, multiplier, sample.sampling_rate, sample.count, sample.slack)
        return account((release,), delta=delta, unit=sample.unit)

    if sample.sampling_rate == 1.0:
        start = math.sqrt(sample.count) / largest_mu(target, room)
    else:
        start = _sampled(target, cost)
    multiplier = _round_up(max(start, LEAST_MULTIPLIER))
    while cost(multiplier) > target:
        multiplier = _round_up(math.nextafter(multiplier, math.inf))
    return multiplier


def _sampled(target: float, cost: Callable[..., float]) -> float:
    """Return a multiplier that is enough by a hair, or too little by one, from few dear evaluations."""

    def renyi(multiplier: float) -> float:
        def account(*arguments: object, **named: object) -> float: ...

        return cost(multiplier, rdp_epsilon)

    return 0.0


def _round_up(value: float) -> float:
    digits = 3 - math.floor(math.log10(value))
    return math.ceil(value * 10.0**digits) / 10.0**digits
