"""What a party keeps after a step: float64 arrays, bit for bit."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray


def pack(*matrices: NDArray[np.float64]) -> bytes:
    """Return matrices as bytes."""
    return msgspec.msgpack.encode([(m.shape, np.ascontiguousarray(m, "<f8").tobytes()) for m in matrices])


def unpack(state: bytes) -> list[NDArray[np.float64]]:
    """Return the matrices that ``pack`` was given; they are the party's own, and trusted."""
    kept = msgspec.msgpack.decode(state, type=list[tuple[tuple[int, ...], bytes]])
    return [np.frombuffer(bytearray(data), "<f8").reshape(shape) for shape, data in kept]
