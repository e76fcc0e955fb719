"""The user's choice of CKKS; imports no code that holds a secret, and not SEAL."""

from __future__ import annotations

from dataclasses import dataclass

from secagg.ckks.parameters import DEFAULT_DEGREE, RINGS
from secagg.errors import ParameterError
from secagg.explanation import explained
from secagg.protection import Protection
from secagg.ranges import whole
from secagg.terms import CKKSParameters


@dataclass(frozen=True, kw_only=True)
class CKKS(Protection):
    """CKKS under one key that all silos hold: exact sums that no coordinator opens, 16 bytes a value or 32.

    The coordinator must follow the protocol (L0): any one silo could open any single update that reached it.

    Args:
        degree: of the ring, 8192 or 4096.
        colluders, threshold, min_honest: as of ``Masking``.

    Raises:
        ParameterError: a value out of its range.

    Source: Cheon, Kim, Kim, Song, ASIACRYPT 2017.
    """

    degree: int = DEFAULT_DEGREE

    @explained()
    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "degree", whole("degree", self.degree))
        if self.degree not in RINGS:
            raise ParameterError(f"degree is {self.degree}, must be one of {', '.join(map(str, RINGS))}")

    def parameters(self, n: int, *, key: bytes) -> CKKSParameters:
        """Return the parameters for ``n`` silos with the key of the id ``key``; raises as ``cohort``."""
        return CKKSParameters(self.cohort(n), key)
