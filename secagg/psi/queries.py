"""How many records a partner may ask about: counted over sessions, before anything is answered.

One session tells a partner of as many identifiers as its set has, padding included, whoever sends and whoever
receives. So sets are counted, each partner's by itself, over every period of a number of days. What was
counted stays counted, whatever became of the session.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import msgspec

from secagg.errors import ParameterError, PolicyRefused
from secagg.psi.sizes import LARGEST, padded
from secagg.ranges import whole
from secagg.terms import Digest, Name

DAY = 86_400
LONGEST_PERIOD = 36_600
"""Days; a hundred years."""


class Asked(msgspec.Struct, frozen=True):
    """One set that a partner brought.

    Attributes:
        partner: whose.
        session: of the intersection.
        records: padded.
        at: unix seconds.
    """

    partner: Name
    session: Digest
    records: Annotated[int, msgspec.Meta(ge=1, le=LARGEST)]
    at: int


@dataclass(frozen=True, kw_only=True)
class QueryLimits:
    """What every partner may ask about.

    Attributes:
        queries: records in any period, at least 1; sets are padded, so an eighth more may be.
        period_days: 1 to ``LONGEST_PERIOD``.

    Raises:
        ParameterError: out of range.
    """

    queries: int
    period_days: int = 365

    def __post_init__(self) -> None:
        whole("queries", self.queries, least=1)
        if whole("period_days", self.period_days, least=1) > LONGEST_PERIOD:
            raise ParameterError(f"period_days is {self.period_days}, must be at most {LONGEST_PERIOD}")

    @property
    def most(self) -> int:
        """Records in any period, padded."""
        return padded(self.queries)

    def asked(self, partner: str, known: Iterable[Asked], *, now: int) -> dict[bytes, int]:
        """Return session -> records of ``partner`` that count at ``now``.

        Guarantees:
            A clock that was put back forgets nothing.
        """
        counted: dict[bytes, int] = {}
        for each in known:
            if each.partner == partner and each.at > now - self.period_days * DAY:
                counted[each.session] = max(each.records, counted.get(each.session, 0))
        return counted

    def check(self, new: Asked, known: Iterable[Asked]) -> bool:
        """Tell whether ``new`` is to be kept beside what is ``known``; False if it was counted before.

        Raises:
            PolicyRefused: with it the partner would ask about too much.

        Guarantees:
            One session of one partner is counted once, by its largest set.
        """
        counted = self.asked(new.partner, known, now=new.at)
        if new.records <= counted.get(new.session, 0):
            return False
        before = sum(counted.values()) - counted.get(new.session, 0)
        if before + new.records > self.most:
            raise PolicyRefused(
                "queries",
                f"{new.partner} brings {new.records} records, padded, and brought {before} within "
                f"{self.period_days} days; {self.queries} are allowed",
            )
        return True
