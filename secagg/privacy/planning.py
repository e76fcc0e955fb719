"""From what is wanted to what the terms carry: noise, its shares, and an encoding whose sums cannot wrap.

Everything here is public and depends on no data. ``charge`` reads the same terms from the other side: what do
they cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from secagg.cohort import Cohort
from secagg.errors import ParameterError
from secagg.fixedpoint import FRACTION_BITS, SUM_LIMIT, Encoding, Segment, words_for
from secagg.names import WordBits
from secagg.privacy.charge import (
    LEAST_SHARE,
    MOST_STEPS,
    ROUNDING_VARIANCE,
    sensitivity,
    slack_of_steps,
    slack_of_sum,
)
from secagg.privacy.noise import MOST_SIGMA, reach
from secagg.privacy.params import DistributedDP, LocalDPSGD, PrivacyMode
from secagg.terms import DistributedNoise, LocalNoise, PrivacyParameters, RecordNoise, SiloNoise
from secagg.weighting import UPDATE

RESOLUTION = 2.0**10
"""Steps that the clip norm has for each square root of the length: rounding then weighs next to nothing."""
COARSEST = 2.0**5
"""The same, with which a word of 32 bits is still taken."""


@dataclass(frozen=True)
class Planned:
    """What the terms of every round carry.

    Attributes:
        noise: the parameters.
        encoding: of the sum; None where it is that of any other mean.
    """

    noise: PrivacyParameters
    encoding: Encoding | None


def plan_privacy(
    mode: PrivacyMode,
    *,
    length: int,
    n: int,
    cohort: Cohort | None,
    epochs: int,
    word_bits: WordBits | None = None,
) -> Planned:
    """Return the noise with which all rounds together keep to ``mode.target``.

    Args:
        mode: what is wanted.
        length: entries of the model.
        n: silos in the roster.
        cohort: of the protection; None where there is none.
        epochs: local passes a round.
        word_bits: of the encoding; None for the least that is fine enough.

    Raises:
        ParameterError: the noise cannot be had under this protection, or no encoding holds it.
        MissingExtra: sampling is asked for, and what reckons with it is not installed.
    """
    match mode:
        case LocalDPSGD():
            return Planned(_local(mode, length=length, epochs=epochs), None)
        case DistributedDP():
            if cohort is None:
                raise ParameterError(
                    "without protection the coordinator would read each silo's vector with no more than its "
                    "share of the noise; take Masking() or another scheme, or LocalDPSGD"
                )
            return _distributed(mode, length=length, n=n, cohort=cohort, word_bits=word_bits)


def _local(mode: LocalDPSGD, *, length: int, epochs: int) -> LocalNoise:
    steps = max(1, round(epochs / mode.sampling_rate))
    if steps > MOST_STEPS:
        raise ParameterError(
            f"a round would have {steps:,} steps, may have at most {MOST_STEPS:,}: raise sampling_rate"
        )
    multiplier = mode.target.noise_multiplier(
        sampling_rate=mode.sampling_rate, steps=steps, slack=slack_of_steps(length, 1)
    )
    return LocalNoise(mode.l2_clip_norm, multiplier, mode.sampling_rate, steps, mode.target.delta)


def _distributed(
    mode: DistributedDP, *, length: int, n: int, cohort: Cohort, word_bits: WordBits | None
) -> Planned:
    multiplier = mode.target.noise_multiplier(
        unit=mode.unit, sampling_rate=mode.sampling_rate or 1.0, slack=slack_of_sum(length, n)
    )
    words = words_for(word_bits)
    for word in words:
        bits, noise = _finest(mode, multiplier, length=length, cohort=cohort, word=word)
        steps = math.ldexp(mode.l2_clip_norm, bits)
        if noise is not None and (steps >= COARSEST * math.sqrt(length) or word == words[-1]):
            return Planned(noise, Encoding(word, n, (_segment(noise, length, bits),)))
    raise ParameterError(
        f"{words[-1]} bits cannot hold the noise of {n} silos: raise epsilon, lower the rounds, or give the "
        "cohort fewer colluders",
        parameter="encoding",
    )


def _finest(
    mode: DistributedDP, multiplier: float, *, length: int, cohort: Cohort, word: WordBits
) -> tuple[int, DistributedNoise | None]:
    """Return the finest useful fraction bits whose sum cannot wrap, with the noise in their steps."""
    useful = math.ceil(math.log2(RESOLUTION * math.sqrt(length) / mode.l2_clip_norm))
    useful = max(FRACTION_BITS.start, min(useful, FRACTION_BITS.stop - 1))
    for bits in range(useful, FRACTION_BITS.start - 1, -1):
        noise = _noise(mode, multiplier, length=length, cohort=cohort, bits=bits)
        if noise.share < LEAST_SHARE:
            return bits, None
        if noise.share <= MOST_SIGMA and cohort.n * largest_entry(noise, bits) <= SUM_LIMIT[word]:
            return bits, noise
    return FRACTION_BITS.start, None


def _noise(
    mode: DistributedDP, multiplier: float, *, length: int, cohort: Cohort, bits: int
) -> DistributedNoise:
    of_sum = multiplier * sensitivity(mode.unit, mode.l2_clip_norm, fraction_bits=bits, length=length)
    # The least accepted set, less those who may tell their shares, must carry all of it.
    share = math.sqrt((of_sum**2 + ROUNDING_VARIANCE) / (cohort.min_survivors - cohort.c))
    share = math.nextafter(share * (1.0 + 2.0**-40), math.inf)  # What rounding took is given back.
    delta = mode.target.delta
    if mode.unit == "silo":
        return SiloNoise(mode.l2_clip_norm, share, delta)
    return RecordNoise(mode.l2_clip_norm, share, mode.sampling_rate or 1.0, mode.batch_size or 1.0, delta)


def largest_entry(noise: DistributedNoise, fraction_bits: int) -> int:
    """Return the largest magnitude of an entry that one silo uploads, noise included, in steps."""
    clip = noise.l2_clip_norm if isinstance(noise, SiloNoise) else noise.l2_clip_norm * noise.batch
    return math.ceil(math.ldexp(clip, fraction_bits)) + reach(noise.share)


def _segment(noise: DistributedNoise, length: int, bits: int) -> Segment:
    return Segment(UPDATE, length, math.ldexp(largest_entry(noise, bits), -bits), bits)
