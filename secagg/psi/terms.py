"""What two parties agree on before they compare, and what each lets happen whatever is agreed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from secagg.errors import ParameterError, PolicyRefused
from secagg.hazmat.framing import digest
from secagg.names import SiloId
from secagg.psi.identifiers import Rule
from secagg.psi.sizes import LARGEST, padded
from secagg.ranges import whole

Reveal: TypeAlias = Literal["both", "receiver", "count"]
Limit: TypeAlias = Literal["largest set", "queries", "smallest intersection"]
"""A rule by which a party says no more; the one thing of a refusal that its partners learn."""
Count: TypeAlias = Callable[[SiloId, int], None]
"""Counts that a partner asks about so many records; kept when it returns, or ``PolicyRefused``."""
SESSION_SIZE = 32


def check_session(session: bytes, rule: Rule) -> None:
    """Refuse a session or a rule that is none.

    Raises:
        ParameterError: see there.
    """
    if type(session) is not bytes or len(session) != SESSION_SIZE:
        raise ParameterError(f"a session is {SESSION_SIZE} bytes")
    if not isinstance(rule, Rule):
        raise ParameterError(f"rule is {type(rule).__name__}, must be a Rule")


@dataclass(frozen=True, kw_only=True)
class IntersectionTerms:
    """One intersection.

    Attributes:
        session: 32 bytes that no other intersection has.
        receiver: learns first.
        sender: the other.
        reveal: ``"both"``: both learn which of their records are shared, in one order; ``"receiver"``: the
            receiver does, and the sender how many; ``"count"``: both learn how many.
        rule: how identifiers are read.

    Raises:
        ParameterError: a session of another size, one party, a word that there is not.
    """

    session: bytes
    receiver: SiloId
    sender: SiloId
    reveal: Reveal = "both"
    rule: Rule = field(default_factory=Rule)

    def __post_init__(self) -> None:
        check_session(self.session, self.rule)
        if self.receiver == self.sender:
            raise ParameterError(f"receiver and sender are both {self.receiver}; two parties are needed")
        if self.reveal not in get_args(Reveal):
            words = ", ".join(get_args(Reveal))
            raise ParameterError(f"reveal is {self.reveal!r}, must be one of {words}")

    @property
    def digest(self) -> bytes:
        """What both parties mean, 32 bytes; identifiers are hashed to points under it."""
        return digest(
            "intersection",
            self.session,
            self.receiver,
            self.sender,
            self.reveal,
            (self.rule.case, self.rule.spaces),
        )


@dataclass(frozen=True, kw_only=True)
class IntersectionPolicy:
    """One party's own limits.

    Attributes:
        largest_set: records that another party may bring to one intersection, at least 1; sets are padded, so
            an eighth more may be identifiers too, and 64 may always be. Who may bring all that an identifier
            can be learns the whole set.
        smallest_intersection: with fewer shared records this party does not tell the other which; 0 for no
            such limit. The receiver, and the leader of many, see before it that there are fewer.
        count: counts what partners ask about, over many sessions; None where one process has both sets.

    Raises:
        ParameterError: out of range.
    """

    largest_set: int = 10_000_000
    smallest_intersection: int = 0
    count: Count | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if whole("largest_set", self.largest_set, least=1) > LARGEST:
            raise ParameterError(f"largest_set is {self.largest_set}, must be at most {LARGEST}")
        whole("smallest_intersection", self.smallest_intersection, least=0)

    def check_set(self, partner: SiloId, size: int) -> None:
        """Refuse a set that is too large, and count it.

        It is called before anything is computed with the set, and so before anything is answered.

        Args:
            partner: whose it is.
            size: padded.

        Raises:
            PolicyRefused: it is larger than the bucket of ``largest_set``, or ``count`` refuses.
        """
        if size > padded(self.largest_set):
            raise PolicyRefused(
                "largest set", f"{partner} brings {size} records, padded; {self.largest_set} are allowed"
            )
        if self.count is not None:
            self.count(partner, size)

    def check_shared(self, count: int) -> None:
        """Refuse to tell another party of an intersection that is too small.

        Raises:
            PolicyRefused: fewer than ``smallest_intersection`` records are shared; how many it does not say.
        """
        if count < self.smallest_intersection:
            raise PolicyRefused(
                "smallest intersection", f"fewer than {self.smallest_intersection} records are shared"
            )


def withheld(partner: SiloId, rule: str) -> PolicyRefused:
    """Return what it means that ``partner`` says no more by a rule of its own."""
    return PolicyRefused(rule, f"{partner} says no more, by a limit of its own")
