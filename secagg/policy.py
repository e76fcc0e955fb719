"""What one silo accepts, whatever the coordinator proposes: floors that nothing remote can widen."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import get_args

from secagg.cohort import (
    MIN_COLLUDERS,
    MIN_HONEST,
    MIN_SILOS,
    MIN_THRESHOLD,
    default_colluders,
    least_threshold,
)
from secagg.errors import ParameterError, PolicyRefused
from secagg.explanation import explained
from secagg.ranges import positive, shown, whole
from secagg.roster import Roster
from secagg.terms import DistributedNoise, PlainParameters, SchemeTag, Terms, scheme_tag

MIN_WEIGHT_CAP = 100_000.0
SCHEMES = frozenset(get_args(SchemeTag))


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A silo's own floors.

    Attributes:
        schemes: names of protections that this silo takes part in. ``"plain"`` must be listed to be used.
        min_silos: smallest roster, at least 3.
        colluders: c that is assumed at least; None for ``default_colluders(n)``. At least 1.
        min_honest: k_min, at least 2.
        min_threshold: a floor for t above the formula, at least 3, or None.
        max_clip: largest bound of one entry of an upload, above 0, or None.
        min_weight_cap: smallest cap of one silo's examples that may be offered, above 0; None for no floor. A
            silo whose examples are more than an offered cap refuses, which tells that they are: with a floor
            that they never reach, refusals tell nothing.
        require_privacy: whether rounds without differential privacy are refused.
        max_l2_clip_norm: largest clip norm of a round with differential privacy, above 0, or None.

    Raises:
        ParameterError: a floor below what the protocol promises, or a scheme that there is not.
    """

    schemes: frozenset[str] = frozenset({"masking"})
    min_silos: int = MIN_SILOS
    colluders: int | None = None
    min_honest: int = MIN_HONEST
    min_threshold: int | None = None
    max_clip: float | None = None
    min_weight_cap: float | None = MIN_WEIGHT_CAP
    require_privacy: bool = False
    max_l2_clip_norm: float | None = None

    @explained()
    def __post_init__(self) -> None:
        if not isinstance(self.schemes, AbstractSet):  # In a text, "mask" would stand for "masking".
            raise ParameterError(f"schemes is {shown(self.schemes)}, must be a set of names")
        if not self.schemes <= SCHEMES:  # A misspelt scheme would allow nothing.
            raise ParameterError(
                f"schemes names one that there is not; known are {', '.join(sorted(SCHEMES))}"
            )
        self._keep("schemes", frozenset(self.schemes))
        self._keep("min_silos", whole("min_silos", self.min_silos, least=MIN_SILOS))
        self._keep("min_honest", whole("min_honest", self.min_honest, least=MIN_HONEST))
        if self.colluders is not None:
            self._keep("colluders", whole("colluders", self.colluders, least=MIN_COLLUDERS))
        if self.min_threshold is not None:
            self._keep("min_threshold", whole("min_threshold", self.min_threshold, least=MIN_THRESHOLD))
        if self.max_clip is not None:
            self._keep("max_clip", positive("max_clip", self.max_clip))
        if self.min_weight_cap is not None:
            self._keep("min_weight_cap", positive("min_weight_cap", self.min_weight_cap))
        if not isinstance(self.require_privacy, bool):  # Any text would be taken for yes.
            raise ParameterError(f"require_privacy is {shown(self.require_privacy)}, must be true or false")
        if self.max_l2_clip_norm is not None:
            self._keep("max_l2_clip_norm", positive("max_l2_clip_norm", self.max_l2_clip_norm))

    def _keep(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def least_colluders(self, n: int) -> int:
        """Return the c that this silo assumes among ``n``."""
        return default_colluders(n) if self.colluders is None else self.colluders

    def least_threshold(self, n: int) -> int:
        """Return the smallest t that this silo accepts among ``n``."""
        return max(least_threshold(n, self.least_colluders(n)), self.min_threshold or 0)

    def check(self, terms: Terms, roster: Roster) -> None:
        """Check ``terms`` against the floors and the pinned roster.

        Raises:
            PolicyRefused: naming the rule, the offered and the least value.
        """
        if terms.roster != roster.digest:
            raise PolicyRefused(
                "roster", "the round's roster is not the one pinned here; compare `roster` digests"
            )
        if terms.release != 1 and not isinstance(terms.privacy, DistributedNoise):
            raise PolicyRefused("release", "a second release of one base needs noise in its sum")
        self._check_privacy(terms)
        # An update with noise is bounded by its norm, and its entries are as long as the noise.
        noised = isinstance(terms.privacy, DistributedNoise)
        if self.max_clip is not None and not noised:
            for segment in terms.encoding.segments:
                if segment.name in {"update", "sum"} and segment.bound > self.max_clip:
                    raise PolicyRefused(
                        "max_clip", f"clip {segment.bound:g} is offered, {self.max_clip:g} is the cap"
                    )
        cap, floor = terms.encoding.weight_cap, self.min_weight_cap
        if floor is not None and terms.kind != "sum" and not noised and cap < floor:  # Both have no weights.
            raise PolicyRefused("min_weight_cap", f"weight cap {cap:g} is offered, {floor:g} is the least")
        if terms.encoding.cohort < roster.n:
            raise PolicyRefused(
                "encoding", f"the encoding is proven for {terms.encoding.cohort} silos, not {roster.n}"
            )
        self._check_scheme(scheme_tag(terms.scheme))
        match terms.scheme:
            case PlainParameters():
                pass
            case scheme:
                cohort = scheme.cohort
                if cohort.n != roster.n:
                    raise PolicyRefused(
                        "cohort", f"n = {cohort.n} is offered, the pinned roster has {roster.n}"
                    )
                self._floor("min_silos", cohort.n, self.min_silos)
                self._floor("colluders", cohort.c, self.least_colluders(roster.n))
                self._floor("threshold", cohort.t, self.least_threshold(roster.n))
                self._floor("min_honest", cohort.k_min, self.min_honest)

    def _check_privacy(self, terms: Terms) -> None:
        noise = terms.privacy
        if noise is None:
            if self.require_privacy:
                raise PolicyRefused(
                    "privacy", "this silo takes part in rounds with differential privacy alone"
                )
            return
        if self.max_l2_clip_norm is not None and noise.l2_clip_norm > self.max_l2_clip_norm:
            raise PolicyRefused(
                "max_l2_clip_norm",
                f"clip norm {noise.l2_clip_norm:g} is offered, {self.max_l2_clip_norm:g} is the cap",
            )
        if isinstance(noise, DistributedNoise) and isinstance(terms.scheme, PlainParameters):
            raise PolicyRefused(
                "privacy", "a share of noise hides nothing where the coordinator reads uploads"
            )

    def check_key(self, scheme: str, *, roster: Roster, threshold: int | None) -> None:
        """Check what a key is for, before it is made or taken.

        Args:
            scheme: as of ``schemes``.
            roster: the pinned one.
            threshold: how many silos open together; None where one opens alone.

        Raises:
            PolicyRefused: naming the rule, the offered and the least value.
        """
        self._check_scheme(scheme)
        self._floor("min_silos", roster.n, self.min_silos)
        if threshold is not None:
            self._floor("threshold", threshold, self.least_threshold(roster.n))

    def _check_scheme(self, name: str) -> None:
        if name not in self.schemes:
            raise PolicyRefused(
                "scheme", f"{name} is not among the schemes allowed here: {', '.join(sorted(self.schemes))}"
            )

    @staticmethod
    def _floor(rule: str, offered: int, least: int) -> None:
        if offered < least:
            raise PolicyRefused(rule, f"{offered} is offered, {least} is the least that this silo accepts")
