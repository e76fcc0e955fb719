"""What was released of a data set, as frozen data: what an account is reckoned from, and a ledger keeps.

That something was released without noise is an event like the others: "not private" can be said.

Source: the events of ``dp_accounting`` (Google), of which these are the few that this project causes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from secagg.errors import ParameterError

Unit: TypeAlias = Literal["silo", "record"]


@dataclass(frozen=True)
class Release:
    """Sums with Gaussian noise.

    Attributes:
        unit: whose contribution the noise hides: one ``"record"``, or all that one ``"silo"`` gives. The
            neighbouring relation: it is replaced by an empty one.
        noise_multiplier: standard deviation of the noise over the sensitivity, above 0.
        sampling_rate: with which each record was in each sum, by ``PoissonSampler``; 1 for all.
        count: of such sums, at least 1.
        slack: bound on how far (total variation) all that was drawn is from what this event says; part of
            delta.

    Raises:
        ParameterError: a value is outside its range.
    """

    unit: Unit
    noise_multiplier: float
    sampling_rate: float = 1.0
    count: int = 1
    slack: float = 0.0

    def __post_init__(self) -> None:
        if self.unit not in {"silo", "record"}:
            raise ParameterError('unit must be "silo" or "record"')
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0):
            raise ParameterError(f"noise_multiplier is {self.noise_multiplier}, must be finite and above 0")
        if not 0.0 < self.sampling_rate <= 1.0:
            raise ParameterError(f"sampling_rate is {self.sampling_rate}, must be above 0 and at most 1")
        if self.unit == "silo" and self.sampling_rate != 1.0:
            raise ParameterError("silos are not sampled: the sampling_rate of unit silo is 1")
        if self.count < 1:
            raise ParameterError(f"count is {self.count}, must be at least 1")
        if not 0.0 <= self.slack < 1.0:
            raise ParameterError(f"slack is {self.slack}, must be at least 0 and below 1")


@dataclass(frozen=True)
class Unprotected:
    """Sums without differential privacy: no epsilon bounds what they give away.

    Attributes:
        count: of such sums, at least 1.
    """

    count: int = 1


Event: TypeAlias = Release | Unprotected


def grouped_releases(releases: Iterable[Release]) -> tuple[Release, ...]:
    """Return ``releases`` with those that differ in nothing but count and slack as one."""
    groups: dict[tuple[Unit, float, float], tuple[int, float]] = {}
    for event in releases:
        key = (event.unit, event.noise_multiplier, event.sampling_rate)
        count, slack = groups.get(key, (0, 0.0))
        groups[key] = (count + event.count, slack + event.slack)
    below_one = math.nextafter(1.0, 0.0)  # As much slack is no privacy either way.
    return tuple(
        Release(*key, count, min(slack, below_one)) for key, (count, slack) in sorted(groups.items())
    )
