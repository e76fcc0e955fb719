"""What two parties agree on before they add over what they share, and what each lets happen all the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from secagg.errors import ParameterError
from secagg.hazmat.framing import digest
from secagg.names import SiloId
from secagg.paillier.params import DEFAULT_BITS, check_bits
from secagg.psi.identifiers import Rule
from secagg.psi.terms import IntersectionPolicy, check_session
from secagg.ranges import whole

Learns: TypeAlias = Literal["matcher", "holder", "both"]
LARGEST_VALUE = 2**32 - 1
"""Of one record unless more is agreed: forty-two million, in cents."""
MOST_COLUMNS = 256

FEWEST = 3
"""Records of a sum at the least, whatever a policy says. Of one the sum is the value; of two, whoever knows
one value knows the other."""


@dataclass(frozen=True, kw_only=True)
class SumTerms:
    """One sum over an intersection.

    Attributes:
        session: 32 bytes that no other intersection or sum has.
        matcher: asks with its identifiers, and learns how many are shared.
        holder: has the values and the key that opens sums of them; it learns that number too.
        learns: who learns the sums.
        rule: how identifiers are read.
        columns: values that each record of the holder has, 1 to ``MOST_COLUMNS``.
        largest: that a value may be, at least 1.
        bits: of the key; see ``Paillier``.

    Raises:
        ParameterError: a session of another size, one party, or a value out of its range.
    """

    session: bytes
    matcher: SiloId
    holder: SiloId
    learns: Learns = "both"
    rule: Rule = field(default_factory=Rule)
    columns: int = 1
    largest: int = LARGEST_VALUE
    bits: int = DEFAULT_BITS

    def __post_init__(self) -> None:
        check_session(self.session, self.rule)
        if self.matcher == self.holder:
            raise ParameterError(f"matcher and holder are both {self.matcher}; two parties are needed")
        if self.learns not in get_args(Learns):
            words = ", ".join(get_args(Learns))
            raise ParameterError(f"learns is {self.learns!r}, must be one of {words}")
        if whole("columns", self.columns, least=1) > MOST_COLUMNS:
            raise ParameterError(f"columns is {self.columns}, must be at most {MOST_COLUMNS}")
        whole("largest", self.largest, least=1)
        check_bits(whole("bits", self.bits))

    @property
    def digest(self) -> bytes:
        """What both parties mean, 32 bytes; identifiers are hashed to points under it."""
        return digest(
            "intersection sum",
            self.session,
            self.matcher,
            self.holder,
            self.learns,
            (self.rule.case, self.rule.spaces),
            self.columns,
            self.largest,
            self.bits,
        )


@dataclass(frozen=True, kw_only=True)
class SumPolicy(IntersectionPolicy):
    """One party's own limits of a sum.

    Attributes:
        largest_set: see ``IntersectionPolicy``.
        smallest_intersection: with fewer shared records this party keeps from the other whatever tells the
            sum; at least ``FEWEST``.

    Raises:
        ParameterError: out of range.
    """

    smallest_intersection: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("smallest_intersection of a sum", self.smallest_intersection, least=FEWEST)
