"""Points of identifiers and powers of points, spread over the cores of this machine and kept by buckets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from secagg.errors import MalformedMessage
from secagg.hazmat.content import content_digest
from secagg.hazmat.cores import usable_cores
from secagg.hazmat.curve import POINT_SIZE, Exponent
from secagg.hazmat.framing import digest
from secagg.psi.workers import Workers, framed, powers_of
from secagg.ranges import whole

SUITE = b"SECAGG-V1-PSI-ristretto255_XMD:SHA-512_R255MAP_RO_"
"""What points are for (RFC 9380, 3.1)."""
SPAN = 1024
"""Points that one core computes at a time: some tens of milliseconds."""
BUCKET = 16 * SPAN
"""Points that are kept together: some seconds of one core."""
MANY = 2 * BUCKET
"""Points from which on processes are worth their start, which takes each as long as some thousand."""

_SPANS = 4
"""Of them each process has at least, or fewer are started."""
_BASE = (9).to_bytes(POINT_SIZE, "little")
"""The base point of RFC 7748. Its power tells exponents apart and gives none away."""

Compute = Callable[[bytes | memoryview, bytes, Exponent], bytes]
Progress = Callable[[int], None]
"""Told how many points were computed since it was told last."""


class Buckets(Protocol):
    """Keeps computed powers where a crash of this process does not reach them.

    They are secret: whoever has them can look identifiers up. A name is that of what was computed from what,
    under which exponent; other inputs have another.
    """

    def load(self, name: bytes) -> bytes | None:
        """Return what was kept under ``name``, 32 bytes; None if nothing was, or it is damaged."""
        ...

    def keep(self, name: bytes, powers: bytes) -> None:
        """Keep ``powers``; return when they cannot be lost."""
        ...


class Powers:
    """Computes powers on all cores: ``MANY`` in processes of its own, fewer on threads.

    Args:
        cores: processes or threads at the most, at least 1; None for one for each usable core.
        progress: see ``Progress``; called by one thread at a time. What was kept counts as computed.
        buckets: where ``BUCKET`` points each are kept, and taken from; None for nowhere.

    Guarantees:
        What it gives does not depend on ``cores`` or ``buckets``.
        What was kept for other points, other terms or another exponent is never taken.
    """

    def __init__(
        self, *, cores: int | None = None, progress: Progress | None = None, buckets: Buckets | None = None
    ) -> None:
        self._cores = usable_cores() if cores is None else whole("cores", cores, least=1)
        self._progress = progress or (lambda _: None)
        self._buckets = buckets
        self._workers: Workers | None = None

    def of_messages(self, messages: Sequence[bytes], terms: bytes, exponent: Exponent) -> bytes:
        """Return the powers of the points of ``messages``, which are others under other terms.

        Args:
            messages: see ``hash_to_points``.
            terms: the digest of what the parties agreed on.
            exponent: a secret.
        """

        def inputs(start: int, stop: int) -> bytes:
            return framed(messages[start:stop])

        return self._spread(len(messages), inputs, SUITE + terms, exponent)

    def of_points(self, points: bytes | memoryview, exponent: Exponent) -> bytes:
        """Return the powers of ``points``.

        Raises:
            MalformedMessage: see ``Exponent.powers``.
        """
        if len(points) % POINT_SIZE:
            raise MalformedMessage(f"{len(points)} bytes are not whole points of {POINT_SIZE}")

        def inputs(start: int, stop: int) -> bytes | memoryview:
            return points[start * POINT_SIZE : stop * POINT_SIZE]

        return self._spread(len(points) // POINT_SIZE, inputs, b"", exponent)

    def close(self) -> None:
        """End the processes that computed, and what they were told with them; new ones start when due."""
        if self._workers is not None:
            self._workers.close()

    def _spread(
        self,
        count: int,
        inputs: Callable[[int, int], bytes | memoryview],
        tag: bytes,
        exponent: Exponent,
    ) -> bytes:
        starts = range(0, count, BUCKET)
        stops = [min(start + BUCKET, count) for start in starts]
        names = [
            b"" if self._buckets is None else _name(tag, exponent, inputs(*ends))
            for ends in zip(starts, stops, strict=True)
        ]
        kept = [None if self._buckets is None else self._buckets.load(each) for each in names]
        due = [
            (at, min(at + SPAN, stop))
            for start, stop, powers in zip(starts, stops, kept, strict=True)
            if powers is None
            for at in range(start, stop, SPAN)
        ]
        compute = self._computing(len(due))
        found = bytearray()
        with ThreadPoolExecutor(self._cores) as threads:
            computed = threads.map(lambda ends: compute(inputs(*ends), tag, exponent), due)
            try:
                for start, stop, named, powers in zip(starts, stops, names, kept, strict=True):
                    if powers is not None:
                        found += powers
                        self._progress(stop - start)
                        continue
                    for _ in range(start, stop, SPAN):
                        some = next(computed)
                        found += some
                        self._progress(len(some) // POINT_SIZE)
                    if self._buckets is not None:
                        self._buckets.keep(named, bytes(found[start * POINT_SIZE :]))
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)  # Nobody waits for what nobody will have.
                raise
        return bytes(found)

    def _computing(self, spans: int) -> Compute:
        """Return what computes so many spans. Processes stay a while for what is asked next."""
        if self._cores == 1 or spans * SPAN < MANY:
            return powers_of
        if self._workers is None or not self._workers.there:
            self._workers = Workers(min(self._cores, spans // _SPANS))
        return self._workers.powers_of


def _name(tag: bytes, exponent: Exponent, inputs: bytes | memoryview) -> bytes:
    """Return the name of the powers of ``inputs``."""
    what = "messages" if tag else "points"
    return digest("intersection powers", what, tag, exponent.powers(_BASE), content_digest(inputs))
