"""Integers as CKKS adds them exactly: in limbs so small that rounding what is opened gives their sum.

CKKS is approximate. But its error is bounded before a round begins, and an integer sum that is off by less
than a half is known. So the planner cuts a word into as few limbs as it takes, and whoever opens rounds: the
sum is that of ``Plain``, bit for bit, at every silo and on every processor. It is also why opened sums may be
made into a model that others see: a rounded sum is a function of what was summed alone, and says nothing of
the noise, by which a raw decryption gives the key away.

Source: Li, Micciancio 2021, *On the Security of Homomorphic Encryption on Approximate Numbers*, section 1 (a
scheme that decrypts exactly leaks nothing by decrypting).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secagg.ckks.parameters import SumParameters, plan
from secagg.errors import InputRefused, ParameterError, RoundAborted
from secagg.fixedpoint import SUM_LIMIT
from secagg.names import IntegerVector, RealVector, WordBits

WORST_ERROR = 0.25
"""Half of what rounding allows: what is further from an integer is no sum of integers."""

_MOST_LIMBS = 3


@dataclass(frozen=True)
class Limbs:
    """How a vector of integers lies in a CKKS vector: the lowest limb of all of them, then the next.

    Attributes:
        count: limbs of an integer.
        bits: of every limb but the highest, which takes the rest.
        word_bits: of the encoded entries, 32 or 64.
        length: integers of a vector.
        parameters: of the CKKS vector, ``count * length`` entries.

    Guarantees:
        What comes out is the sum of what went in, or RoundAborted.
    """

    count: int
    bits: int
    word_bits: WordBits
    length: int
    parameters: SumParameters

    def split(self, vector: IntegerVector) -> RealVector:
        """Return the limbs.

        Args:
            vector: shape (length,), two's complement.

        Returns:
            float64, shape (count * length,), each a whole number within the bound of the parameters.

        Raises:
            InputRefused: ``bound``: an integer is too large for the cohort.
        """
        rest = vector.view(np.int32 if self.word_bits == 32 else np.int64).astype(np.int64)
        most = _most(self.word_bits, self.parameters.cohort)
        if rest.size and not (-most <= rest.min() and rest.max() <= most):
            raise InputRefused("bound", f"an integer is beyond {most}, the most for this cohort")
        limbs = np.empty((self.count, self.length))
        for limb in limbs[:-1]:
            # Rounded to the nearest multiple, so that a limb is as small as it can be.
            next_rest = (rest + (1 << self.bits - 1)) >> self.bits
            limb[:] = rest - (next_rest << self.bits)
            rest = next_rest
        limbs[-1] = rest
        return limbs.reshape(-1)

    def join(self, values: RealVector) -> IntegerVector:
        """Return the sum of vectors that were split.

        Args:
            values: as it was opened, shape (count * length,).

        Returns:
            uint32 or uint64, two's complement, shape (length,).

        Raises:
            RoundAborted: a value is no sum of limbs.
        """
        whole, cohort = np.rint(values), self.parameters.cohort
        # Both are written so that NaN is refused, and in this order so that infinity meets no subtraction.
        if not np.abs(whole).max(initial=0.0) <= self.parameters.bound * cohort:
            raise RoundAborted("what was opened is larger than any sum of this cohort")
        if not np.abs(values - whole).max(initial=0.0) <= WORST_ERROR:
            raise RoundAborted("what was opened is no sum of integers: no model is made of it")
        limbs = whole.reshape(self.count, self.length)
        total = limbs[-1].astype(np.int64)
        for limb in limbs[-2::-1]:
            total = (total << self.bits) + limb.astype(np.int64)
        # Limbs that no vector was split into can be small enough, and their sum too large for a word.
        if not np.abs(total).max(initial=0) <= cohort * _most(self.word_bits, cohort):
            raise RoundAborted("what was opened is larger than any sum of this cohort")
        joined: IntegerVector = (
            total.astype(np.int32).view(np.uint32) if self.word_bits == 32 else total.view(np.uint64)
        )
        return joined


def plan_limbs(length: int, *, word_bits: WordBits, cohort: int, degree: int) -> Limbs:
    """Return the fewest limbs with which vectors of words add up exactly.

    Args:
        length: of a vector, its count entry included.
        word_bits: of the encoded entries, 32 or 64.
        cohort: largest number of silos in one sum, at least 2.
        degree: of the ring.

    Raises:
        ParameterError: no number of limbs is small enough.
    """
    most = _most(word_bits, cohort)
    for count in range(1, _MOST_LIMBS + 1):
        bound, bits = min((_bound(most, count, bits), bits) for bits in range(1, word_bits))
        try:
            parameters = plan(
                count * length, bound=float(bound), cohort=cohort, degree=degree, precision=WORST_ERROR
            )
        except ParameterError:
            continue
        return Limbs(count, bits, word_bits, length, parameters)
    raise ParameterError(
        f"CKKS of degree {degree} does not add {cohort} vectors of {word_bits} bits exactly: lower the "
        "number of silos, or take Paillier or masks",
        parameter="encoding",
    )


def _bound(most: int, count: int, bits: int) -> int:
    """Return the largest magnitude of a limb of an integer of magnitude ``most``."""
    if count == 1:
        return most
    # The highest also takes what the others round up.
    shift = bits * (count - 1)
    return max(1 << bits - 1, (most + (1 << shift)) >> shift)


def _most(word_bits: WordBits, cohort: int) -> int:
    """Return the largest magnitude of one silo's integer."""
    return SUM_LIMIT[word_bits] // cohort
