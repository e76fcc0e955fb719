"""What a run has released so far, and the one sentence that says it: never epsilon without what it means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import Literal, Self

from secagg.errors import MissingExtra
from secagg.privacy.accountant import epsilon
from secagg.privacy.charge import events_of, of_one_upload
from secagg.privacy.events import Release, Unit, grouped_releases
from secagg.terms import CKKSParameters, LocalNoise, PaillierParameters, PlainParameters, Terms

NEIGHBORING_RELATION = "replaced by an empty one"


@dataclass(frozen=True)
class Spent:
    """Releases of one run with differential privacy.

    Attributes:
        unit: whose contribution is hidden.
        delta: at which epsilon is reported.
        noise: who adds it: every silo all of it, or all silos together.
        releases: equal ones as one.
        colluders: silos that may tell the coordinator their shares; 0 where nobody is trusted.
        uploads: what the same vectors cost towards those who can open a single one; empty if nobody can.
    """

    unit: Unit
    delta: float
    noise: Literal["local", "distributed"]
    releases: tuple[Release, ...]
    colluders: int = 0
    uploads: tuple[Release, ...] = ()

    @classmethod
    def of(cls, terms: Terms, survivors: int, before: Self | None) -> Self | None:
        """Return what is spent after a round of ``terms`` with so many survivors; None without noise."""
        noise = terms.privacy
        if noise is None:
            return None
        shared = isinstance(terms.scheme, PaillierParameters | CKKSParameters)
        local = isinstance(noise, LocalNoise)
        releases = _releases(events_of(terms, survivors=survivors))
        spent = cls(
            unit=releases[0].unit,
            delta=noise.delta,
            noise="local" if local else "distributed",
            releases=releases,
            colluders=0 if local or isinstance(terms.scheme, PlainParameters) else terms.scheme.cohort.c,
            uploads=_releases(of_one_upload(terms)) if shared and not local else (),
        )
        if before is None:
            return spent
        return replace(
            spent,
            releases=grouped_releases(before.releases + spent.releases),
            uploads=grouped_releases(before.uploads + spent.uploads),
        )

    @property
    def epsilon(self) -> float:
        """Of the unit, at ``delta``, for all releases together.

        Raises:
            MissingExtra: sampled releases are reckoned with ``dp_accounting``.
        """
        return _epsilon(self.releases, self.delta, self.unit)

    @property
    def noise_multiplier(self) -> float:
        """The least of the releases."""
        return min(release.noise_multiplier for release in self.releases)

    def sentence(self) -> str:
        """Return what is promised, to whom, against whom."""
        reached = self._shown(self.releases)
        of = (
            "one silo's whole contribution (replaced by an empty one; who takes part is public)"
            if self.unit == "silo"
            else "one record (replaced by an empty one; how many records there are is not hidden by it)"
        )
        if self.noise == "local":
            against = "whoever reads updates or models"
        elif self.uploads:
            against = f"whoever reads the model, and up to {self.colluders} silos that pool what they know"
        else:
            against = f"whoever reads the model, the coordinator with {self.colluders} silos included"
        text = f"epsilon {reached} at delta {self.delta:.3g} for {of}, against {against}"
        if self.uploads:
            single = self._shown(self.uploads)
            text += f"; against a silo and the coordinator together, who could open single uploads: {single}"
        return text

    def _shown(self, releases: tuple[Release, ...]) -> str:
        try:
            return shown_epsilon(_epsilon(releases, self.delta, self.unit))
        except MissingExtra as missing:
            return f"unknown here ({missing})"

    def card(self) -> dict[str, float | str | None]:
        """Return the same as fields, for a model card; epsilon is None where it cannot be reckoned."""
        try:
            reached: float | None = self.epsilon
        except MissingExtra:
            reached = None
        return {
            "epsilon": reached,
            "delta": self.delta,
            "unit": self.unit,
            "neighboring_relation": NEIGHBORING_RELATION,
            "noise": self.noise,
            "noise_multiplier": self.noise_multiplier,
            "releases": sum(release.count for release in self.releases),
        }


def shown_epsilon(value: float) -> str:
    """Return epsilon with three digits, rounded up."""
    if not math.isfinite(value):
        return "unbounded"
    if value == 0.0:
        return "0"
    exact = Decimal(repr(value))  # In floats, what is rounded up could come out below.
    last = Decimal(1).scaleb(exact.adjusted() - 2)
    return f"{exact.quantize(last, rounding=ROUND_CEILING):f}"


def _releases(events: Sequence[object]) -> tuple[Release, ...]:
    return tuple(event for event in events if isinstance(event, Release))


@lru_cache(maxsize=256)
def _epsilon(releases: tuple[Release, ...], delta: float, unit: Unit) -> float:
    return epsilon(releases, delta=delta, unit=unit)
