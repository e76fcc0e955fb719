"""Gaussian noise from a cryptographic stream: Box-Muller over 53-bit uniforms.

It is computed in float64, so it is not the continuous distribution of a proof: a variable's tail ends at 8.57
standard deviations (the true one goes on with probability 2**-53), and its low-order bits have a structure
that can give away what it was added to. Whoever adds it must round the sum to a grid that is coarse beside
those bits (Mironov 2012). Logarithm, sine and cosine may differ in the last bit between CPUs; they are noise
here.

Source: Box, Muller 1958, *A note on the generation of random normal deviates*; Mironov 2012, *On significance
of the least significant bits for differential privacy*.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import numpy as np

from secagg.errors import ParameterError
from secagg.hazmat.prg import KEY_SIZE, add_streams
from secagg.names import RandomSource, RealVector

BLOCK = 1 << 16
"""Entries that are made at a time; each block takes a key of its own."""


def gaussian_blocks(length: int, *, random: RandomSource = os.urandom) -> Iterator[RealVector]:
    """Yield ``length`` independent standard Gaussian variables, in blocks of float64.

    Args:
        length: entries, at least 0.
        random: 32 bytes of it key the stream of a block.

    Raises:
        ParameterError: ``length`` is below 0.
    """
    if length < 0:
        raise ParameterError(f"length is {length}, must be at least 0")
    for start in range(0, length, BLOCK):
        yield _block(min(BLOCK, length - start), random(KEY_SIZE))


def _block(length: int, key: bytes) -> RealVector:
    pairs = -(-length // 2)
    words = np.zeros(2 * pairs, np.uint64)
    add_streams(words, plus=[key], threads=1)
    # 53 bits each, in (0, 1]: the logarithm of 0 does not exist.
    uniform = ((words >> np.uint64(11)) + np.uint64(1)).astype(np.float64) * 2.0**-53
    radius, angle = np.sqrt(-2.0 * np.log(uniform[:pairs])), 2.0 * math.pi * uniform[pairs:]
    made = np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))
    return made[:length]
