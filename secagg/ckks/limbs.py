"""How words travel in CKKS without an error: each in as few limbs as let the opened sums be rounded.

CKKS is approximate. A sum of integers whose proven error stays below one half is exact after rounding; words
too long for that are cut into limbs, and every limb is a vector of its own. Nothing here imports SEAL.
"""

from __future__ import annotations

import math

from secagg.ckks.parameters import DEFAULT_DEGREE, SumParameters, plan
from secagg.errors import ParameterError
from secagg.fixedpoint import SUM_LIMIT
from secagg.names import WordBits

EXACT_BELOW = 0.5
"""What rounds to the integer that it stands for."""


def sums_of_words(
    length: int, *, word_bits: WordBits, cohort: int, degree: int = DEFAULT_DEGREE
) -> tuple[SumParameters, ...]:
    """Return how each limb of a vector is summed; all of them alike.

    Args:
        length: entries of the vector, the count entry included.
        word_bits: of the encoded entries, 32 or 64.
        cohort: largest number of silos in the sum, at least 2.
        degree: of the ring.

    Raises:
        ParameterError: no number of limbs is exact for so many silos.

    Guarantees:
        - An opened sum of limbs is off by less than one half.
    """
    bits = (SUM_LIMIT[word_bits] // cohort).bit_length()
    for limbs in range(1, bits + 1):
        bound = math.ldexp(1.0, -(-bits // limbs))
        parameters = plan(length, bound=bound, cohort=cohort, degree=degree)
        if parameters.error_bound() < EXACT_BELOW:
            return (parameters,) * limbs
    raise ParameterError(f"sums of {cohort} silos are not exact under CKKS: lower the number of silos")
