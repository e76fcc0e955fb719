"""Points of identifiers and powers of points, spread over the cores of this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from secagg.errors import MalformedMessage
from secagg.hazmat.cores import usable_cores
from secagg.hazmat.curve import POINT_SIZE, Exponent, hash_to_points
from secagg.ranges import whole

SUITE = b"SECAGG-V1-PSI-ristretto255_XMD:SHA-512_R255MAP_RO_"
"""What points are for (RFC 9380, 3.1)."""
SPAN = 1024
"""Points that one thread computes at a time: some tens of milliseconds."""

Progress = Callable[[int], None]
"""Told how many points were computed since it was told last."""


class Powers:
    """Computes powers, on threads: libsodium computes without Python's lock.

    Args:
        cores: threads at the most, at least 1; None for one for each usable core.
        progress: see ``Progress``; called by one thread at a time.

    Guarantees:
        What it gives does not depend on ``cores``.
    """

    def __init__(self, *, cores: int | None = None, progress: Progress | None = None) -> None:
        self._cores = usable_cores() if cores is None else whole("cores", cores, least=1)
        self._progress = progress or (lambda _: None)

    def of_messages(self, messages: Sequence[bytes], terms: bytes, exponent: Exponent) -> bytes:
        """Return the powers of the points of ``messages``, which are others under other terms.

        Args:
            messages: see ``hash_to_points``.
            terms: the digest of what the parties agreed on.
            exponent: a secret.
        """
        tag = SUITE + terms
        return self._spread(
            len(messages), lambda at: exponent.powers(hash_to_points(messages[at : at + SPAN], tag))
        )

    def of_points(self, points: bytes | memoryview, exponent: Exponent) -> bytes:
        """Return the powers of ``points``.

        Raises:
            MalformedMessage: see ``Exponent.powers``.
        """
        if len(points) % POINT_SIZE:
            raise MalformedMessage(f"{len(points)} bytes are not whole points of {POINT_SIZE}")
        return self._spread(
            len(points) // POINT_SIZE,
            lambda at: exponent.powers(points[at * POINT_SIZE : (at + SPAN) * POINT_SIZE]),
        )

    def _spread(self, count: int, compute: Callable[[int], bytes]) -> bytes:
        starts = range(0, count, SPAN)
        with ThreadPoolExecutor(self._cores) as threads:
            found = bytearray()
            for powers in threads.map(compute, starts):
                found += powers
                self._progress(len(powers) // POINT_SIZE)
        return bytes(found)
