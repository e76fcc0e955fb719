"""What the terms of a round cost: the event that a ledger is charged with before anything leaves.

Of the shares of noise only those of honest silos in the sum count: the least accepted set less c, until the
real one is known. The sum of m discrete Gaussians of standard deviation s >= 4 is, but for 1e-30 an entry, a
continuous Gaussian of variance ``m * s**2 - 4`` rounded at random, and rounding tells nothing.

Source: ``docs/decisions/0019-integer-noise.md``; Kairouz, Liu, Steinke 2021, for shares in a sum.
"""

from __future__ import annotations

import math
from decimal import ROUND_FLOOR, Decimal

from secagg.errors import ParameterError
from secagg.fixedpoint import Segment
from secagg.privacy.clip import record_sensitivity
from secagg.privacy.events import Event, Release, Unit, Unprotected
from secagg.privacy.noise import SAMPLING_ERROR
from secagg.terms import DistributedNoise, LocalNoise, PlainParameters, RecordNoise, SiloNoise, Terms

MOST_STEPS = 1_000_000
"""Of one round of DP-SGD: more would keep a silo busy for ever."""
LEAST_SHARE = 4.0
"""Standard deviation of one silo's share, in steps, from which on ``ROUNDING_ERROR`` holds."""
ROUNDING_VARIANCE = 4.0
"""Of the variance of a sum, what is given to rounding, in squared steps."""
ROUNDING_ERROR = 1e-30
"""Total variation of an entry between the sum of the shares and the rounded continuous Gaussian."""


def events_of(terms: Terms, *, survivors: int | None = None) -> tuple[Event, ...]:
    """Return what one release under ``terms`` costs.

    Args:
        terms: of a round.
        survivors: silos in the sum; None for the fewest that the terms allow.

    Raises:
        ParameterError: shares of noise in a sum that is not protected, or smaller than any release needs.
    """
    noise = terms.privacy
    match noise:
        case None:
            return (Unprotected(),)
        case LocalNoise():
            if noise.steps > MOST_STEPS:
                raise ParameterError(f"a round has {noise.steps} steps, may have at most {MOST_STEPS}")
            slack = slack_of_steps(terms.encoding.segments[0].length, noise.steps)
            return (Release("record", noise.noise_multiplier, noise.sampling_rate, noise.steps, slack),)
        case SiloNoise():
            multiplier, slack = _of_sum(terms, noise, "silo", survivors)
            return (Release("silo", multiplier, slack=slack),)
        case RecordNoise():
            multiplier, slack = _of_sum(terms, noise, "record", survivors)
            return (Release("record", multiplier, noise.sampling_rate, slack=slack),)


def of_one_upload(terms: Terms) -> tuple[Event, ...]:
    """Return what one silo's vector alone would cost, read by who opens single uploads."""
    noise = terms.privacy
    if noise is None or isinstance(noise, LocalNoise):
        return events_of(terms)
    segment = terms.encoding.segments[0]
    unit: Unit = "silo" if isinstance(noise, SiloNoise) else "record"
    multiplier = _multiplier(noise, unit, segment, shares=1)
    rate = noise.sampling_rate if isinstance(noise, RecordNoise) else 1.0
    return (Release(unit, multiplier, rate, slack=slack_of_sum(segment.length, 1)),)


def _of_sum(terms: Terms, noise: DistributedNoise, unit: Unit, survivors: int | None) -> tuple[float, float]:
    if isinstance(terms.scheme, PlainParameters):
        raise ParameterError("shares of noise hide nothing where single uploads are read")
    cohort, segment = terms.scheme.cohort, terms.encoding.segments[0]
    honest = (cohort.min_survivors if survivors is None else survivors) - cohort.c
    return _multiplier(noise, unit, segment, shares=honest), slack_of_sum(segment.length, cohort.n)


def _multiplier(noise: DistributedNoise, unit: Unit, segment: Segment, *, shares: int) -> float:
    """Return the noise of so many shares over what one unit moves."""
    steps = sensitivity(unit, noise.l2_clip_norm, fraction_bits=segment.fraction_bits, length=segment.length)
    variance = shares * noise.share**2 - ROUNDING_VARIANCE
    if noise.share < LEAST_SHARE or variance <= 0:
        raise ParameterError(
            f"a share of noise has {noise.share:g} steps, must have at least {LEAST_SHARE:g}"
        )
    return _rounded_down(math.sqrt(variance) / steps)


def _rounded_down(multiplier: float) -> float:
    """Return ``multiplier`` with four digits, as calibrations have it: then rounds of a run are equal."""
    exact = Decimal(multiplier)
    last = Decimal(1).scaleb(exact.adjusted() - 3)
    return float(exact.quantize(last, rounding=ROUND_FLOOR))


def sensitivity(unit: Unit, l2_clip_norm: float, *, fraction_bits: int, length: int) -> float:
    """Return how far one unit moves an encoded vector of ``length``, as L2 norm in steps.

    The norm of a silo's vector is enforced on its integers. A sum of gradients is rounded after summing.
    """
    if unit == "silo":
        return math.ldexp(l2_clip_norm, fraction_bits)
    return record_sensitivity(l2_clip_norm, fraction_bits, length)


def slack_of_sum(length: int, n: int) -> float:
    """Return the slack of one sum of ``length`` entries over at most ``n`` silos."""
    return length * (ROUNDING_ERROR + n * SAMPLING_ERROR)


def slack_of_steps(length: int, steps: int) -> float:
    """Return the slack of ``steps`` steps of DP-SGD over ``length`` entries."""
    return steps * slack_of_sum(length, 1)
