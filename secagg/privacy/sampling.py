"""Poisson sampling from OS entropy: the only sampling whose amplification the accountant believes.

Each record is in a sample independently of all others, so a sample has no fixed size. That, and that nobody
can predict who is in it, is what the bound of a sampled release rests on; a shuffled loader gives neither.

Source: Abadi et al. 2016, *Deep Learning with Differential Privacy*, section 3.1; Chua et al. 2024, *How
Private are DP-SGD Implementations?*, for why shuffling is no substitute.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from secagg.errors import ParameterError
from secagg.hazmat.prg import KEY_SIZE, add_streams
from secagg.names import RandomSource
from secagg.ranges import real, whole

BLOCK = 1 << 16


class PoissonSampler:
    """Draws the rows of training steps.

    Args:
        rate: probability of a record to be drawn, above 0, at most 1.
        random: 32 bytes of it key the stream of a block of records.

    Attributes:
        draws: how often ``draw`` was called.

    Raises:
        ParameterError: ``rate`` is outside its range.

    Guarantees:
        Records are drawn independently, with a probability of ``rate`` rounded down to a multiple of 2**-64.
    """

    def __init__(self, rate: float, *, random: RandomSource = os.urandom) -> None:
        self._rate = real("sampling_rate", rate)
        if not 0.0 < self._rate <= 1.0:
            raise ParameterError(f"sampling_rate is {self._rate}, must be above 0 and at most 1")
        self._random = random
        self.draws = 0

    @property
    def rate(self) -> float:
        """Probability of a record to be drawn."""
        return self._rate

    def draw(self, records: int) -> NDArray[np.int64]:
        """Return the rows of one step, ascending.

        Args:
            records: there are, at least 0.

        Raises:
            ParameterError: ``records`` is no whole number, or below 0.
        """
        records = whole("records", records, least=0)
        self.draws += 1
        if self._rate == 1.0:
            return np.arange(records, dtype=np.int64)
        below = np.uint64(int(self._rate * 2.0**64))
        drawn = [np.zeros(0, np.int64)]
        for start in range(0, records, BLOCK):
            words = np.zeros(min(BLOCK, records - start), np.uint64)
            add_streams(words, plus=[self._random(KEY_SIZE)], threads=1)
            drawn.append(start + np.flatnonzero(words < below))
        return np.concatenate(drawn)
