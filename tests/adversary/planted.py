"""Values that one party has, and whether what was sent shows one of them in clear.

A value is looked for in the encodings in which numbers travel or lie in memory: floats of 64 and 32 bits, and
integers of a fixed point. What takes few bytes is looked for with the value that stands behind it, so that
nothing is found by chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.names import SiloId
from secagg.payload import Frame

FEW = 24
"""Values of a secret that are looked for."""


def encodings(values: NDArray[np.float64], *, fractions: Iterable[int] = ()) -> Iterator[bytes]:
    """Yield the bytes of neighbouring values, in every encoding; ``fractions`` are bits of fixed points."""
    flat = np.ascontiguousarray(values).reshape(-1)
    kinds: list[NDArray[Any]] = [flat.astype(f"{order}f{size}") for order in "<>" for size in (8, 4)]
    for bits in fractions:
        fixed = np.rint(np.ldexp(flat, bits))
        sizes = [size for size in (4, 8) if np.abs(fixed).max() < 2.0 ** (8 * size - 1)]
        kinds += [fixed.astype(f"{order}i{size}") for order in "<>" for size in sizes]
    places = np.unique(np.linspace(0, flat.size - 2, min(FEW, flat.size - 1)).astype(int))
    for kind in kinds:
        for at in places:
            pair = kind[at : at + 2]
            if (pair != 0).all():  # Zeros are everywhere.
                yield pair.tobytes()


class Views:
    """What each party was sent; together that is what who carries it sees, if nothing is sealed."""

    def __init__(self) -> None:
        self.of: dict[SiloId, bytearray] = {}

    def watch(self, _sender: SiloId, to: SiloId, frame: Frame) -> None:
        """See ``together``."""
        header, payload = frame
        sent = header + (b"" if payload is None else bytes(payload[:]))
        self.of.setdefault(to, bytearray()).extend(sent)

    def show(self, patterns: Iterable[bytes]) -> bool:
        """Return whether one of the patterns, of 8 bytes or more, is in what somebody was sent."""
        by_head: dict[int, list[bytes]] = {}
        for pattern in patterns:
            by_head.setdefault(int.from_bytes(pattern[:8], "little"), []).append(pattern)
        heads = np.array(sorted(by_head), np.uint64)
        for view in map(bytes, self.of.values()):
            for offset in range(8):  # A pattern may begin at any byte.
                words = np.frombuffer(view, "<u8", (len(view) - offset) // 8, offset)
                for head in np.unique(words[np.isin(words, heads)]):
                    if any(pattern in view for pattern in by_head[int(head)]):
                        return True
        return False
