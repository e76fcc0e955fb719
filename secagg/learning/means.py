"""From an opened sum to the mean that it stands for, as the terms say: weighted, or noised."""

from __future__ import annotations

from secagg.privacy.noising import decode_noised, noised_error
from secagg.session import Aggregate
from secagg.terms import RecordNoise, SiloNoise, Terms
from secagg.weighting import Mean, decode_mean


def mean_of(terms: Terms, aggregate: Aggregate) -> Mean:
    """Return the mean.

    Raises:
        RoundAborted: the total weight is zero, so there is none.
        UsageError: the total is not of the encoding.
    """
    silos = len(aggregate.survivors)
    match terms.privacy:
        case SiloNoise() | RecordNoise() as noise:
            return decode_noised(terms.encoding, noise, aggregate.total, silos=silos)
        case _:
            return decode_mean(terms.encoding, aggregate.total, silos=silos)


def worst_error_of(terms: Terms, *, silos: int, planned: float) -> float:
    """Return the bound on what rounding does to an entry of the mean, for a sum that is not known here.

    Args:
        terms: of the round.
        silos: in the sum.
        planned: the bound of a weighted mean, from the total weight on that was planned for.
    """
    match terms.privacy:
        case SiloNoise() | RecordNoise() as noise:
            return noised_error(terms.encoding, noise, silos=silos)
        case _:
            return planned
