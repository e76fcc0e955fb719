"""Random orders, from randomness that keys may come from too."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secagg.names import RandomSource


def random_order(size: int, random: RandomSource) -> NDArray[np.int64]:
    """Return a uniform permutation of ``range(size)``, int64.

    Entries are sorted by 128 random bits each; that two of 2**27 have the same has probability 2**-75.
    """
    keys = np.frombuffer(random(16 * size), np.uint64).reshape(2, size)
    return np.lexsort(keys)
