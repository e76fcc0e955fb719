"""What crosses the cut: rows of numbers, each clipped and noised, in integers, before it leaves.

A row is rounded to a grid and the noise is drawn on that grid, so that no low-order bit says what the noise
was added to (Mironov 2012).

Source: Dwork, Roth 2014, *The Algorithmic Foundations of Differential Privacy*, appendix A (the Gaussian
mechanism); Canonne, Kamath, Steinke 2020, *The Discrete Gaussian for Differential Privacy*.
"""

from __future__ import annotations

import math

import numpy as np

from secagg.errors import FaultySilo, InputRefused, ParameterError
from secagg.names import RandomSource, RealVector, SiloId
from secagg.payload import Payload
from secagg.privacy.clip import record_sensitivity
from secagg.privacy.noise import DiscreteGaussian, reach
from secagg.vertical.split.ports import RealMatrix

_STEPS = 512.0
"""Steps of the grid in a standard deviation, at the most: so that one table draws it."""

_SLACK = 2.0**-40
"""By so much, relatively, a factor is lowered: a norm in float64 can be off."""


class Cut:
    """One direction of the cut between two parties.

    Args:
        clip: largest norm of a row, before noise; 2**-64 to 2**64.
        noise: standard deviation of the noise in each number, over ``clip``; 2**-16 to 2**16.
        width: numbers of a row, at least 1.

    Raises:
        ParameterError: out of range.

    Guarantees:
        All numbers that leave are multiples of the grid's step, whatever the row was.
        Replacing a row by any other moves what leaves by ``mu`` standard deviations of its noise at the most.
        What is received is refused where no clipped and noised row can be.
    """

    def __init__(self, clip: float, noise: float, width: int) -> None:
        for name, value, bits in (("clip", clip, 64), ("noise", noise, 16)):
            if not 2.0**-bits <= value <= 2.0**bits:
                raise ParameterError(f"{name} is {value}, must be 2**-{bits} to 2**{bits}")
        self._clip, self._width = clip, width
        self._bits = math.floor(math.log2(_STEPS / (clip * noise)))
        self._sigma = math.ldexp(clip * noise, self._bits)
        # Nothing that is clipped and noised is larger: rounding lifts a number by half a step.
        self._most = math.ldexp(reach(self._sigma) + 1, -self._bits) + clip

    @property
    def deviation(self) -> float:
        """Of the noise in each number."""
        return math.ldexp(self._sigma, -self._bits)

    @property
    def mu(self) -> float:
        """What one release costs, in Gaussian differential privacy, if a row is replaced by any other."""
        return record_sensitivity(2 * self._clip, self._bits, self._width) / self._sigma

    def clipped(self, rows: RealMatrix) -> RealMatrix:
        """Return ``rows``, each scaled down to the norm ``clip`` where it has more.

        Raises:
            InputRefused: a number is not finite: training ran away.
        """
        if not np.isfinite(rows).all():
            raise InputRefused("nan", "a network gives numbers that are not finite; lower its learning rate")
        return rows * self._factors(rows)[:, None]

    def through(self, rows: RealMatrix, gradient: RealMatrix) -> RealMatrix:
        """Return the gradient at ``rows``, of which ``gradient`` is that at ``clipped(rows)``."""
        factors = self._factors(rows)[:, None]
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        along = rows / np.where(norms > 0, norms, 1.0)
        lost = along * (along * gradient).sum(axis=1, keepdims=True)
        return factors * (gradient - np.where(factors < 1.0, lost, 0.0))

    def release(self, rows: RealMatrix, *, random: RandomSource) -> Payload:
        """Return ``rows`` clipped, with noise, f8: all of them that leaves.

        Args:
            rows: shape (rows, width).
            random: of the noise.

        Raises:
            InputRefused: a number is not finite.
        """
        steps = np.rint(np.ldexp(self.clipped(rows), self._bits)).astype(np.int64).reshape(-1)
        steps += DiscreteGaussian(self._sigma, random=random).sample(steps.size)
        return Payload.of(np.ldexp(steps.astype(np.float64), -self._bits))

    def received(self, sender: SiloId, payload: Payload, count: int) -> RealMatrix:
        """Return what ``release`` made of ``count`` rows, shape (count, width).

        Raises:
            FaultySilo: it cannot have made that.
        """
        if payload.dtype != "f8" or payload.length != count * self._width:
            raise FaultySilo(sender, "it sent another number of rows, or rows of another width")
        flat = payload.array()
        if not np.isfinite(flat).all() or np.abs(flat).max() > self._most:
            raise FaultySilo(sender, "it sent a row that no clipped and noised row can be")
        steps = np.ldexp(flat, self._bits)
        if (np.rint(steps) != steps).any():
            raise FaultySilo(sender, "it sent a row that is not on the grid")
        return flat.reshape(count, self._width)

    def _factors(self, rows: RealMatrix) -> RealVector:
        norms = np.linalg.norm(rows, axis=1)
        longer = norms > self._clip * (1 - _SLACK)
        return np.where(longer, self._clip * (1 - 2 * _SLACK) / np.maximum(norms, self._clip / 2), 1.0)
