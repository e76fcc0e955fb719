"""Sets of points: checked as they arrive, before anything is computed with them; padded before they leave."""

from __future__ import annotations

from secagg.errors import FaultySilo
from secagg.hazmat.curve import POINT_SIZE, all_differ
from secagg.names import RandomSource, SiloId
from secagg.payload import Payload
from secagg.psi.identifiers import PADDING, Identifiers
from secagg.psi.sizes import padded
from secagg.psi.terms import IntersectionPolicy


def with_padding(identifiers: Identifiers, random: RandomSource) -> list[bytes]:
    """Return the identifiers and, behind them, random messages that are none, up to the bucket's size."""
    known = list(identifiers.encoded)
    return known + [PADDING + random(32) for _ in range(padded(len(known)) - len(known))]


def asked(sender: SiloId, payload: Payload, policy: IntersectionPolicy) -> bytes:
    """Return the points of a query.

    Raises:
        FaultySilo: not whole points, not padded, or one comes twice.
        PolicyRefused: more than ``policy`` lets another party bring.
    """
    size, rest = divmod(payload.length, POINT_SIZE)
    if payload.dtype != "u1" or rest or size != padded(size):
        raise FaultySilo(sender, "its query is not of whole points, or not padded")
    policy.check_set(sender, size)
    return _distinct(sender, payload)


def evaluated(sender: SiloId, payload: Payload, count: int) -> bytes:
    """Return the points of a query of ``count`` that ``sender`` evaluated.

    Raises:
        FaultySilo: another number of points, or one comes twice.
    """
    if payload.dtype != "u1" or payload.length != count * POINT_SIZE:
        raise FaultySilo(sender, "it evaluated another number of points than it was asked about")
    return _distinct(sender, payload)


def _distinct(sender: SiloId, payload: Payload) -> bytes:
    points = payload.array()
    if not all_differ(points):
        raise FaultySilo(sender, "a point comes twice, of which there is each once")
    return points.tobytes()
