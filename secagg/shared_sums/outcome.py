"""What one party of a sum learned."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class SumOutcome:
    """What one party learned.

    Attributes:
        count: records that both have.
        sums: over them, one for each column; None where this party is not to learn them.
    """

    count: int
    sums: tuple[int, ...] | None = field(repr=False)
