"""Ends of channels between silos of one roster, with nothing but a test between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from secagg.channel.end import Arrived, Channel, Event, Reply
from secagg.channel.handshake import Ends
from secagg.channel.pieces import cut
from secagg.hazmat.identity import IdentityKey
from secagg.names import SiloId
from secagg.payload import Frame
from secagg.roster import Roster

SILOS: tuple[SiloId, ...] = ("bank", "insurer", "shop")
IDENTITIES = {silo: IdentityKey.from_private_bytes(bytes([i]) * 32) for i, silo in enumerate(SILOS, start=1)}
ROSTER = Roster.of({silo: key.public for silo, key in IDENTITIES.items()})
LARGEST = 64 * 1024 * 1024


def ends(mine: SiloId, other: SiloId, **changes: Any) -> Ends:
    return replace(Ends(ROSTER, "credit-2026", SILOS, mine, other), **changes)


def channel(mine: SiloId, other: SiloId, *, largest: int = LARGEST, **changes: Any) -> Channel:
    return Channel(ends(mine, other, **changes), IDENTITIES[mine], largest=largest)


@dataclass
class Pair:
    """Two ends, and what each sent in the handshake."""

    one: Channel
    other: Channel

    def shake_hands(self) -> Pair:
        """Carry the handshake as an honest coordinator does."""
        answers = self.one.receive(self.other.first), self.other.receive(self.one.first)
        mine, theirs = (answer.data for answer in answers if isinstance(answer, Reply))
        self.one.receive(theirs)
        self.other.receive(mine)
        assert self.one.open
        assert self.other.open
        return self


def pair(**changes: Any) -> Pair:
    """Return an open channel between bank and insurer."""
    return Pair(channel("bank", "insurer", **changes), channel("insurer", "bank", **changes)).shake_hands()


def sealed(end: Channel, frame: Frame) -> list[bytes]:
    return [end.seal(part) for part in cut(frame)]


def received(end: Channel, records: list[bytes]) -> list[Event]:
    return [event for record in records if (event := end.receive(record)) is not None]


def frames(events: list[Event]) -> list[tuple[bytes, bytes | None]]:
    """Return the frames among ``events``, flat."""
    return [flat(event.frame) for event in events if isinstance(event, Arrived)]


def flat(frame: Frame) -> tuple[bytes, bytes | None]:
    header, payload = frame
    return header, None if payload is None else bytes(payload[:])
