"""What events amount to for one unit: exact noise in one number, sampled noise in groups, slack in another.

Source: composition of Gaussians by Dong, Roth, Su 2019, *Gaussian Differential Privacy*, corollary 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from secagg.errors import ParameterError
from secagg.privacy.events import Event, Release, Unit


@dataclass(frozen=True, order=True)
class Sampled:
    """Equal releases of sampled records.

    Attributes:
        multiplier: standard deviation of the noise over the sensitivity.
        rate: of the sampling, below 1.
        count: of such releases.
    """

    multiplier: float
    rate: float
    count: int


@dataclass(frozen=True)
class Account:
    """Releases that concern one unit, in whatever order they came.

    Attributes:
        mu: of all that nobody sampled, together: as one Gaussian of sensitivity ``mu`` and deviation 1.
        sampled: the others, equal ones together.
        slack: of all.
    """

    mu: float
    sampled: tuple[Sampled, ...]
    slack: float


def account_of(events: Iterable[Event], unit: Unit) -> Account | None:
    """Return what ``events`` amount to for ``unit``, or None where nothing bounds that.

    A silo is bounded by releases of unit ``"silo"`` alone. A record is bounded by these too, with half their
    noise multiplier: another record in its place can move the silo's clipped contribution from one side of
    the ball to the other, which is twice the clip; the noise is relative to the clip, for a silo is replaced
    by zero.

    Raises:
        ParameterError: ``unit`` is none.
    """
    if unit not in {"silo", "record"}:
        raise ParameterError('unit must be "silo" or "record"')
    exact: list[float] = []
    sampled: dict[tuple[float, float], int] = {}
    slacks: list[float] = []
    for event in events:
        if not isinstance(event, Release) or (unit == "silo" and event.unit == "record"):
            return None
        multiplier = event.noise_multiplier / 2 if unit != event.unit else event.noise_multiplier
        slacks.append(event.slack)
        if event.sampling_rate == 1.0:
            exact.append(math.sqrt(event.count) / multiplier if multiplier else math.inf)
        else:
            key = multiplier, event.sampling_rate
            sampled[key] = sampled.get(key, 0) + event.count
    groups = (Sampled(multiplier, rate, count) for (multiplier, rate), count in sampled.items())
    return Account(math.hypot(*sorted(exact)), tuple(sorted(groups)), math.fsum(slacks))
