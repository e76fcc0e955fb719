"""The user's choice of pairwise masks; imports no code that holds a secret."""

from __future__ import annotations

from dataclasses import dataclass

from secagg.protection import Protection
from secagg.terms import MaskingParameters


@dataclass(frozen=True, kw_only=True)
class Masking(Protection):
    """Pairwise masks with dropout recovery: exact sums, 4 bytes a parameter, a coordinator that may lie.

    Args:
        colluders: c, silos that may collude with the coordinator, at least 1; None for
            max(1, floor((n - 1) / 3)).
        threshold: t, answers needed to open a sum; None for floor((n + c) / 2) + 1, the least allowed, which
            is never below 3.
        min_honest: k_min, honest silos that any opened sum must cover, at least 2.

    Raises:
        ParameterError: a value that no number of silos allows.

    Source: Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning",
        CCS 2017, section 6 (active adversary), with the additions of ``docs/protocol.md``.
    """

    def parameters(self, n: int) -> MaskingParameters:
        """Return the parameters for a roster of ``n`` silos.

        Raises:
            ParameterError: n < 3, or c, t, k_min outside their ranges.
        """
        return MaskingParameters(self.cohort(n))
