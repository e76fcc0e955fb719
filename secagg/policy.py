"""What one silo accepts, whatever the coordinator proposes: floors that nothing remote can widen."""

from __future__ import annotations

from dataclasses import dataclass

from secagg.cohort import MIN_HONEST, MIN_SILOS, default_colluders, least_threshold
from secagg.errors import ParameterError, PolicyRefused
from secagg.roster import Roster
from secagg.terms import MaskingParameters, PlainParameters, Terms


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A silo's own floors.

    Attributes:
        schemes: names of protections that this silo takes part in. ``"plain"`` must be listed to be used.
        min_silos: smallest roster, at least 3.
        colluders: c that is assumed at least; None for ``default_colluders(n)``. At least 1.
        min_honest: k_min, at least 2.
        min_threshold: a floor for t above the formula, or None.
        max_clip: largest bound of one entry of an upload, or None.

    Raises:
        ParameterError: a floor below what the protocol promises.
    """

    schemes: frozenset[str] = frozenset({"masking"})
    min_silos: int = MIN_SILOS
    colluders: int | None = None
    min_honest: int = MIN_HONEST
    min_threshold: int | None = None
    max_clip: float | None = None

    def __post_init__(self) -> None:
        if self.min_silos < MIN_SILOS:
            raise ParameterError(f"min_silos = {self.min_silos}: at least {MIN_SILOS}")
        if self.colluders is not None and self.colluders < 1:
            raise ParameterError(
                "colluders = 0: every silo sees the sum, so at least one curious member is assumed"
            )
        if self.min_honest < MIN_HONEST:
            raise ParameterError(f"min_honest = {self.min_honest}: at least {MIN_HONEST}")

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
        if terms.release != 1:
            raise PolicyRefused("release", "a second release of one base needs differential privacy")
        if self.max_clip is not None:
            for segment in terms.encoding.segments:
                if segment.name in {"update", "sum"} and segment.bound > self.max_clip:
                    raise PolicyRefused(
                        "max_clip", f"clip {segment.bound:g} is offered, {self.max_clip:g} is the cap"
                    )
        if terms.encoding.cohort < roster.n:
            raise PolicyRefused(
                "encoding", f"the encoding is proven for {terms.encoding.cohort} silos, not {roster.n}"
            )
        match terms.scheme:
            case PlainParameters():
                self._check_scheme("plain")
            case MaskingParameters(cohort=cohort):
                self._check_scheme("masking")
                if cohort.n != roster.n:
                    raise PolicyRefused(
                        "cohort", f"n = {cohort.n} is offered, the pinned roster has {roster.n}"
                    )
                self._floor("min_silos", cohort.n, self.min_silos)
                self._floor("colluders", cohort.c, self.least_colluders(roster.n))
                self._floor("threshold", cohort.t, self.least_threshold(roster.n))
                self._floor("min_honest", cohort.k_min, self.min_honest)

    def _check_scheme(self, name: str) -> None:
        if name not in self.schemes:
            raise PolicyRefused(
                "scheme", f"{name} is not among the schemes allowed here: {', '.join(sorted(self.schemes))}"
            )

    @staticmethod
    def _floor(rule: str, offered: int, least: int) -> None:
        if offered < least:
            raise PolicyRefused(rule, f"{offered} is offered, {least} is the least that this silo accepts")
