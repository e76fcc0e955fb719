"""What three to ten parties agree on before they compare."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from secagg.errors import ParameterError, PolicyRefused
from secagg.hazmat.framing import digest
from secagg.names import SiloId
from secagg.psi.identifiers import Rule
from secagg.psi.terms import IntersectionPolicy, check_session
from secagg.ranges import whole

ManyReveal: TypeAlias = Literal["all", "leader"]
FEWEST, MOST = 3, 10


@dataclass(frozen=True, kw_only=True)
class ManyTerms:
    """One intersection of several parties.

    Attributes:
        session: 32 bytes that no other intersection has.
        leader: learns first, and computes most.
        followers: the others, 2 to 9.
        reveal: ``"all"``: everybody learns which of their records all have, in one order; ``"leader"``: the
            leader alone does.
        rule: how identifiers are read.
        smallest_intersection: with fewer the leader, which sees them, tells nobody; 0 for no such limit. No
            party takes part in one that is below its own.

    Raises:
        ParameterError: too few or too many parties, one twice, a session of another size, a word that there
            is not.
    """

    session: bytes
    leader: SiloId
    followers: tuple[SiloId, ...]
    reveal: ManyReveal = "all"
    rule: Rule = field(default_factory=Rule)
    smallest_intersection: int = 0

    def __post_init__(self) -> None:
        check_session(self.session, self.rule)
        if not FEWEST <= len(self.parties) <= MOST:
            raise ParameterError(f"{len(self.parties)} parties; {FEWEST} to {MOST} can intersect their sets")
        if len(set(self.parties)) < len(self.parties):
            raise ParameterError("a party is named twice")
        if self.reveal not in get_args(ManyReveal):
            words = ", ".join(get_args(ManyReveal))
            raise ParameterError(f"reveal is {self.reveal!r}, must be one of {words}")
        whole("smallest_intersection", self.smallest_intersection, least=0)

    @property
    def parties(self) -> tuple[SiloId, ...]:
        """Everybody, the leader first."""
        return (self.leader, *self.followers)

    @property
    def digest(self) -> bytes:
        """What all parties mean, 32 bytes; identifiers are hashed to points under it."""
        return digest(
            "intersection of many",
            self.session,
            self.parties,
            self.reveal,
            (self.rule.case, self.rule.spaces),
            self.smallest_intersection,
        )

    def check(self, policy: IntersectionPolicy) -> None:
        """Refuse terms below a party's own limits.

        Raises:
            PolicyRefused: fewer shared records would be revealed than ``policy`` lets be.
        """
        if self.smallest_intersection < policy.smallest_intersection:
            raise PolicyRefused(
                "smallest intersection",
                f"{self.smallest_intersection} are agreed on, {policy.smallest_intersection} are needed here",
            )
