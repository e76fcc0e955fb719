"""Sets of points: checked as they arrive, before anything is computed with them; padded before they leave."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secagg.errors import FaultySilo, MalformedMessage
from secagg.hazmat.curve import POINT_SIZE, Exponent
from secagg.names import RandomSource, SiloId
from secagg.payload import Payload
from secagg.psi.identifiers import PADDING, Identifiers
from secagg.psi.powers import Powers
from secagg.psi.sizes import padded
from secagg.psi.terms import IntersectionPolicy


def with_padding(identifiers: Identifiers, random: RandomSource) -> list[bytes]:
    """Return the identifiers and, behind them, random messages that are none, up to the bucket's size."""
    size = len(identifiers)
    drawn = random(32 * (padded(size) - size))
    return [*identifiers.encoded, *(PADDING + drawn[at : at + 32] for at in range(0, len(drawn), 32))]


def check_query(sender: SiloId, payload: Payload, policy: IntersectionPolicy) -> None:
    """Refuse what is no query.

    Raises:
        FaultySilo: not whole points, or not padded.
        PolicyRefused: more than ``policy`` lets another party bring.
    """
    size, rest = divmod(payload.length, POINT_SIZE)
    if payload.dtype != "u1" or rest or size != padded(size):
        raise FaultySilo(sender, "its query is not of whole points, or not padded")
    policy.check_set(sender, size)


def check_evaluated(sender: SiloId, payload: Payload, count: int) -> None:
    """Refuse what is not a query of ``count`` points that was evaluated.

    Raises:
        FaultySilo: another number of points.
    """
    if payload.dtype != "u1" or payload.length != count * POINT_SIZE:
        raise FaultySilo(sender, "it evaluated another number of points than it was asked about")


def raised(sender: SiloId, points: NDArray[np.uint8], exponent: Exponent, powers: Powers) -> bytes:
    """Return the powers of points that ``sender`` sent.

    Raises:
        FaultySilo: a point is not canonical, or of low order, or two have one power: of points that differ by
            one of low order each is another and their powers are not.
    """
    try:
        found = powers.of_points(points.tobytes(), exponent)
    except MalformedMessage as error:
        raise FaultySilo(sender, str(error)) from error
    if len(np.unique(np.frombuffer(found, f"S{POINT_SIZE}"))) * POINT_SIZE != len(found):
        raise FaultySilo(sender, "a point comes twice, of which there is each once")
    return found
