"""The arithmetic of who must collude: n, c, t and k, in one validated value.

Source: the adversary of ``docs/protocol.md``. With ``2t > n + c`` no two sets of t answers are disjoint
outside the c colluders, so at least one honest silo is in both and refuses to answer twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from secagg.errors import ParameterError
from secagg.ranges import whole

MIN_SILOS = 3
MIN_COLLUDERS = 1
MIN_HONEST = 2


def default_colluders(n: int) -> int:
    """Return c = max(1, floor((n - 1) / 3)): every silo sees the sum, so one curious member is assumed."""
    return max(1, (n - 1) // 3)


def least_threshold(n: int, c: int) -> int:
    """Return t = floor((n + c) / 2) + 1, the least t with 2t > n + c."""
    return (n + c) // 2 + 1


MIN_THRESHOLD = least_threshold(MIN_SILOS, MIN_COLLUDERS)
"""The least t of any cohort: both n and c only raise it."""


@dataclass(frozen=True)
class Cohort:
    """How many silos there are and how many of them may do what.

    Attributes:
        n: silos in the pinned roster, at least 3.
        c: silos that may collude with the coordinator, 1 <= c <= n - 2.
        t: answers needed to open a sum, floor((n + c) / 2) + 1 <= t <= n.
        k_min: honest silos that any opened sum must cover, at least 2.

    Raises:
        ParameterError: a value is outside its range.

    Guarantees:
        An instance always satisfies ``2t > n + c``.
        ``min_survivors - c >= k_min``.
    """

    n: int
    c: int
    t: int
    k_min: int = MIN_HONEST

    def __post_init__(self) -> None:
        for name in ("n", "c", "t", "k_min"):
            object.__setattr__(self, name, whole(name, getattr(self, name), parameter=name))
        if self.n < MIN_SILOS:
            raise ParameterError(
                f"n = {self.n} silos: at least {MIN_SILOS} are needed; with fewer, the sum shows one "
                "silo the update of another",
                parameter="n",
            )
        if not 1 <= self.c <= self.n - 2:
            raise ParameterError(f"c = {self.c} colluders: must be 1 to n - 2 = {self.n - 2}", parameter="c")
        if not least_threshold(self.n, self.c) <= self.t <= self.n:
            raise ParameterError(
                f"t = {self.t}: must be {least_threshold(self.n, self.c)} to {self.n} for n = {self.n} and "
                f"c = {self.c} (2t > n + c)",
                parameter="t",
            )
        if not MIN_HONEST <= self.k_min <= self.n - self.c:
            raise ParameterError(
                f"k_min = {self.k_min}: must be {MIN_HONEST} to n - c = {self.n - self.c}", parameter="k_min"
            )

    @classmethod
    def of(cls, n: int, *, c: int | None = None, t: int | None = None, k_min: int = MIN_HONEST) -> Self:
        """Return the cohort of ``n`` silos; ``c`` and ``t`` default to the formulas of this module."""
        if c is None:
            c = default_colluders(n)
        c = whole("c", c, parameter="c")
        return cls(n=n, c=c, t=least_threshold(n, c) if t is None else t, k_min=k_min)

    @property
    def min_survivors(self) -> int:
        """The smallest survivor set that may be opened: max(t, k_min + c)."""
        return max(self.t, self.k_min + self.c)

    @property
    def max_dropouts(self) -> int:
        """How many silos may be lost in one round."""
        return self.n - self.min_survivors
