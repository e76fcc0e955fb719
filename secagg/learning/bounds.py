"""What a run declares about its numbers, and the encodings that are planned from it.

All of it is public and the same at every silo. It plans; ``weighting`` proves and encodes.
"""

from __future__ import annotations

from dataclasses import dataclass

from secagg.fixedpoint import Encoding
from secagg.names import WordBits
from secagg.ranges import positive
from secagg.weighting import plan_mean


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The bounds behind a run's sums; the arguments of ``Federation`` of the same names say what they mean.

    Attributes:
        cohort: silos in the roster.
        metrics: names of the metrics, in the order of the vector.
    """

    cohort: int
    metrics: tuple[str, ...]
    clip: float
    weight_cap: float
    least_total_weight: float
    precision: float
    metric_bound: float
    word_bits: WordBits | None

    @property
    def planned_weight(self) -> float:
        """The least total weight that is planned for: the one asked for, or all that the silos may have."""
        # These two are reckoned with here; the planner checks the others.
        least = positive("least_total_weight", self.least_total_weight)
        return min(least, positive("weight_cap", self.weight_cap) * self.cohort)

    def training(self, length: int) -> Encoding:
        """Return the encoding of a round that trains ``length`` weights.

        Raises:
            ParameterError: no encoding is precise enough and cannot wrap.
        """
        return self._plan(length, self.word_bits)

    def measuring(self) -> Encoding:
        """Return the encoding of the metrics-only sum.

        Raises:
            ParameterError: as ``training``, or there are no metrics.
        """
        # A handful of entries: the precision of 64 bits costs nothing here.
        return self._plan(0, 64)

    def _plan(self, length: int, word_bits: WordBits | None) -> Encoding:
        return plan_mean(
            length,
            clip=self.clip,
            cohort=self.cohort,
            weight_cap=self.weight_cap,
            least_total_weight=self.planned_weight,
            metrics=self.metrics,
            metric_bound=self.metric_bound,
            precision=self.precision,
            word_bits=word_bits,
        )
