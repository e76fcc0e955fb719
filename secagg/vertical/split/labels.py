"""Labels as gradients may know them: each turned round with a probability, once.

Whatever is computed from the turned labels, however often, tells no more of a label than the turned one does:
of two values that it may have, the odds move by a factor of at most ``(1 - flip) / flip``. No test between
the two has an AUC above ``1 - flip``, whatever else is known.

Source: Warner 1965, *Randomized Response*; Ghazi, Golowich, Kumar, Manurangsi, Zhang 2021, *Deep Learning
with Label Differential Privacy*.
"""

from __future__ import annotations

import numpy as np

from secagg.errors import InputRefused
from secagg.hazmat.prg import KEY_SIZE, add_streams
from secagg.names import RandomSource, RealVector


def check_labels(labels: RealVector) -> None:
    """Refuse labels that are none.

    Raises:
        InputRefused: one is neither 0 nor 1, or all are the same.
    """
    if not np.isin(labels, (0.0, 1.0)).all():
        raise InputRefused("bound", "a label is neither 0 nor 1; a split network tells two classes apart")
    if labels.min() == labels.max():
        raise InputRefused("bound", "all labels are the same; there is nothing to learn")


def flipped(labels: RealVector, flip: float, *, random: RandomSource) -> RealVector:
    """Return ``labels`` (0 or 1), each turned round with probability ``flip``, to 2**-64.

    Args:
        labels: shape (count,).
        flip: above 0, below 0.5.
        random: 32 bytes of it key the draw.
    """
    words = np.zeros(labels.size, np.uint64)
    add_streams(words, plus=[random(KEY_SIZE)], threads=1)
    turned = words < np.uint64(int(flip * 2.0**64))
    return np.where(turned, 1.0 - labels, labels)
