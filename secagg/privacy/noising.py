"""From a silo's numbers to the noised integers that it uploads, and from an opened sum back to a mean.

The noise is drawn and added here, in integers, before any mask or ciphertext: what is released is exact
integer arithmetic, so no low-order bit says what the noise was added to (Mironov 2012).

Source: Kairouz, Liu, Steinke 2021, Algorithm 1, without its rotation: the norm is enforced on the integers.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.errors import FaultyCoordinator
from secagg.fixedpoint import Encoding, Segment, refuse_bad_numbers
from secagg.names import IntegerVector, RandomSource, RealVector
from secagg.privacy.charge import LEAST_SHARE, ROUNDING_VARIANCE, sensitivity
from secagg.privacy.clip import LEAST_NORM, MOST_NORM, clip_l2, enforce_l2
from secagg.privacy.noise import MOST_SIGMA, DiscreteGaussian
from secagg.privacy.planning import RESOLUTION, largest_entry
from secagg.terms import DistributedNoise, LocalNoise, RecordNoise, SiloNoise
from secagg.weighting import UPDATE, Mean, MeanUpdate


def check_noised(encoding: Encoding, noise: DistributedNoise, length: int) -> None:
    """Check that terms are those of a noised sum of ``length`` entries that cannot wrap, and of nothing else.

    Raises:
        FaultyCoordinator: something exact is beside the noise, or a vector might not fit.
    """
    if [(segment.name, segment.length) for segment in encoding.segments] != [(UPDATE, length)]:
        raise FaultyCoordinator("nothing but the update may be in a sum with noise")
    if not LEAST_NORM <= noise.l2_clip_norm <= MOST_NORM or not LEAST_SHARE <= noise.share <= MOST_SIGMA:
        raise FaultyCoordinator("the noise has a clip norm or a share that no noise can have")
    try:
        longest: float = largest_entry(noise, encoding.segments[0].fraction_bits)
    except OverflowError:
        longest = math.inf
    if encoding.segments[0].largest < longest:
        raise FaultyCoordinator("the encoding has no room for the update and its noise")


def noised_update(
    encoding: Encoding, noise: SiloNoise, update: NDArray[Any], *, random: RandomSource = os.urandom
) -> IntegerVector:
    """Return one silo's update, clipped as a whole, in steps of the encoding, with its share of the noise.

    Args:
        encoding: with the one segment ``"update"``.
        noise: its parameters.
        update: float32 or float64, shape (length,).
        random: fresh uniform bytes.

    Raises:
        InputRefused: ``nan`` or ``infinite``.

    Guarantees:
        Without the noise, the L2 norm of the integers is at most the clip norm, exactly.
    """
    segment = encoding.segments[0]
    clipped = clip_l2(update, noise.l2_clip_norm)
    steps = np.rint(np.ldexp(clipped, segment.fraction_bits)).astype(np.int64)
    return _with_noise(
        encoding, enforce_l2(steps, math.ldexp(noise.l2_clip_norm, segment.fraction_bits)), noise, random
    )


def noised_gradient(
    encoding: Encoding, noise: RecordNoise, gradient: RealVector, *, random: RandomSource = os.urandom
) -> IntegerVector:
    """Return one silo's descent direction, less its sum of clipped gradients, with its share of the noise.

    Args:
        encoding: with the one segment ``"update"``.
        noise: its parameters.
        gradient: sum over the sampled records, each of L2 norm ``l2_clip_norm`` at the most, float64,
            shape (length,). An entry beyond ``l2_clip_norm * batch`` is cut there: that moves no two
            vectors apart.
        random: fresh uniform bytes.

    Raises:
        InputRefused: ``nan`` or ``infinite``.
    """
    segment = encoding.segments[0]
    most = noise.l2_clip_norm * noise.batch
    _check_finite(gradient)
    steps = np.rint(np.ldexp(np.clip(-gradient, -most, most), segment.fraction_bits)).astype(np.int64)
    return _with_noise(encoding, steps, noise, random)


def _with_noise(
    encoding: Encoding, steps: NDArray[np.int64], noise: DistributedNoise, random: RandomSource
) -> IntegerVector:
    vector: IntegerVector = steps.astype(encoding.dtype)  # Modulo the word.
    DiscreteGaussian(noise.share, random=random).add_to(vector)
    return vector


def decode_noised(encoding: Encoding, noise: DistributedNoise, total: IntegerVector, *, silos: int) -> Mean:
    """Return the mean of an opened sum with noise: over the silos in it, or over the expected batch.

    Args:
        encoding: with the one segment ``"update"``.
        noise: its parameters.
        total: the wrapped sum of ``silos`` vectors.
        silos: how many are in the sum.

    Raises:
        UsageError: wrong shape or dtype.
    """
    ((segment, numerators),) = encoding.split(total).values()
    divisor = _divisor(noise, silos)
    return Mean(
        update=MeanUpdate(numerators, segment, divisor),
        weight=divisor,
        metrics={},
        evaluation_weight=0.0,
        clipped=math.nan,
        saturated=0,
        worst_error=noised_error(encoding, noise, silos=silos),
        metric_error=0.0,
    )


def noised_error(encoding: Encoding, noise: DistributedNoise, *, silos: int) -> float:
    """Return the bound on what rounding, without the noise, does to an entry of the mean over ``silos``."""
    return silos * encoding.segments[0].step / _divisor(noise, silos)


def _divisor(noise: DistributedNoise, silos: int) -> float:
    return noise.batch if isinstance(noise, RecordNoise) else float(silos)


class StepNoise:
    """Adds the whole noise of a step of DP-SGD to sums of clipped gradients.

    A sum is rounded to a grid first and the noise is drawn on that grid, for the same reason as above.

    Args:
        noise: clip and multiplier.
        length: entries of a sum.
        random: fresh uniform bytes.

    Guarantees:
        The noise is at least ``noise_multiplier`` times what one record can move the rounded sum.
        All that leaves are multiples of the grid's step, whatever the sum was.
    """

    def __init__(self, noise: LocalNoise, length: int, *, random: RandomSource = os.urandom) -> None:
        fine = RESOLUTION * math.sqrt(length) / noise.l2_clip_norm
        wide = LEAST_SHARE / (noise.noise_multiplier * noise.l2_clip_norm)
        self._bits = math.ceil(math.log2(max(fine, wide)))
        steps = sensitivity("record", noise.l2_clip_norm, fraction_bits=self._bits, length=length)
        variance = (noise.noise_multiplier * steps) ** 2 + ROUNDING_VARIANCE
        self._gaussian = DiscreteGaussian(math.sqrt(variance) * (1 + 2.0**-40), random=random)

    @property
    def step(self) -> float:
        """Of the grid."""
        return math.ldexp(1.0, -self._bits)

    def add(self, total: RealVector) -> RealVector:
        """Return a sum with fresh noise, float64.

        Args:
            total: sum over the sampled records, each of L2 norm ``l2_clip_norm`` at the most, float64, shape
                (length,).

        Raises:
            InputRefused: ``nan`` or ``infinite``.
        """
        _check_finite(total)
        steps = np.rint(np.ldexp(total, self._bits)).astype(np.int64)
        steps += self._gaussian.sample(total.size)
        return np.ldexp(steps.astype(np.float64), -self._bits)


def _check_finite(vector: RealVector) -> None:
    refuse_bad_numbers(Segment(UPDATE, vector.size, float(np.finfo(np.float64).max), 0), vector, first=0)
