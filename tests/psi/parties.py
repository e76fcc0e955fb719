"""Two parties of an intersection in one process, for tests that come between them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from secagg import wire
from secagg.messages import Said
from secagg.psi.identifiers import Key, read_identifiers
from secagg.psi.messages import FromReceiver, FromSender
from secagg.psi.powers import Powers
from secagg.psi.receiver import ReceiverSession
from secagg.psi.sender import SenderSession
from secagg.psi.terms import IntersectionPolicy, IntersectionTerms, Reveal

ONE_CORE = Powers(cores=1)


@dataclass
class Parties:
    """A receiver and a sender, and every frame that went between them.

    Attributes:
        change: sees every message before it arrives; returns what arrives instead.
        said: type, header and payload of each frame.
    """

    receiver: ReceiverSession
    sender: SenderSession
    change: Callable[[Said], Any] = lambda message: message
    said: list[tuple[type[Said], bytes, bytes]] = field(default_factory=list)

    def run(self) -> None:
        message: FromReceiver | None = self.receiver.open()
        while message is not None:
            header, payload = self._frame(message)
            arrived = wire.decode_as(header, payload, FromReceiver)
            message = None
            for reply in self.sender.receive(arrived):
                header, payload = self._frame(reply)
                message = self.receiver.receive(wire.decode_as(header, payload, FromSender))

    def _frame(self, message: FromReceiver | FromSender) -> Any:
        frame = wire.encode(self.change(message))
        header, payload = frame
        self.said.append((type(message), header, bytes(payload[:]) if payload else b""))
        return frame

    @property
    def sizes(self) -> list[tuple[type[Said], int]]:
        """Which messages there were, and how large."""
        return [(kind, len(header) + len(payload)) for kind, header, payload in self.said]


def parties(
    mine: Iterable[Key],
    theirs: Iterable[Key],
    *,
    reveal: Reveal = "both",
    receiver: IntersectionPolicy | None = None,
    sender: IntersectionPolicy | None = None,
    change: Callable[[Said], Any] = lambda message: message,
    session: bytes | None = None,
) -> Parties:
    session = os.urandom(32) if session is None else session
    terms = IntersectionTerms(session=session, receiver="bank", sender="insurer", reveal=reveal)
    return Parties(
        ReceiverSession(
            terms, read_identifiers(mine), policy=receiver or IntersectionPolicy(), powers=ONE_CORE
        ),
        SenderSession(
            terms, read_identifiers(theirs), policy=sender or IntersectionPolicy(), powers=ONE_CORE
        ),
        change,
    )
