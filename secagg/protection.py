"""What every protection is asked for: how many silos may collude, and how many must answer."""

from __future__ import annotations

from dataclasses import dataclass

from secagg.cohort import MIN_COLLUDERS, MIN_HONEST, MIN_THRESHOLD, Cohort
from secagg.explanation import explained
from secagg.ranges import whole


@dataclass(frozen=True, kw_only=True)
class Protection:
    """Shape of every protected scheme.

    Args:
        colluders: c, silos that may collude with the coordinator, at least 1; None for
            max(1, floor((n - 1) / 3)).
        threshold: t, answers needed to open a sum; None for floor((n + c) / 2) + 1, the least allowed, which
            is never below 3.
        min_honest: k_min, honest silos that any opened sum must cover, at least 2.

    Raises:
        ParameterError: a value that no number of silos allows.
    """

    colluders: int | None = None
    threshold: int | None = None
    min_honest: int = MIN_HONEST

    @explained()
    def __post_init__(self) -> None:
        for name, least, parameter in (
            ("colluders", MIN_COLLUDERS, "c"),
            ("threshold", MIN_THRESHOLD, "t"),
            ("min_honest", MIN_HONEST, "k_min"),
        ):
            value = getattr(self, name)
            if value is not None or name == "min_honest":  # The others have a formula.
                object.__setattr__(self, name, whole(name, value, least=least, parameter=parameter))

    def cohort(self, n: int) -> Cohort:
        """Return the cohort of a roster of ``n`` silos.

        Raises:
            ParameterError: n < 3, or c, t, k_min outside their ranges.
        """
        return Cohort.of(n, c=self.colluders, t=self.threshold, k_min=self.min_honest)
