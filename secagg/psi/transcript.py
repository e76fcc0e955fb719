"""What partners said in a session, so that after a crash they can say nothing else.

A party that draws everything from one seed says the same words again when a session is resumed. A partner
that then says others has changed its set; answered under the same exponent, that would be a second query
which nobody counted.
"""

from __future__ import annotations

import hmac
from collections import Counter
from typing import Protocol, TypeVar

from secagg.conversation import Await, Side
from secagg.errors import FaultySilo
from secagg.hazmat.content import content_digest
from secagg.hazmat.framing import digest
from secagg.names import SiloId
from secagg.payload import Frame

T = TypeVar("T")


class Transcript(Protocol):
    """Keeps digests of what partners said, where a crash of this process does not reach them."""

    def said(self, partner: SiloId, number: int) -> bytes | None:
        """Return the digest of the message ``number``, from 0, of ``partner``; None if it is not known."""
        ...

    def heard(self, partner: SiloId, number: int, digest: bytes) -> None:
        """Keep a digest, 32 bytes; return when it cannot be lost."""
        ...


def repeatable(side: Side[T], transcript: Transcript) -> Side[T]:
    """Return ``side``, which every partner must give the same messages as in any run of it before.

    Raises:
        FaultySilo: a partner says something else.
        SecaggError: as ``side`` raises.

    Guarantees:
        What was heard is kept before ``side`` sees it, and so before it is answered.
    """
    heard: Counter[SiloId] = Counter()
    given: Frame | None = None
    try:
        while True:
            try:
                action = side.send(given)
            except StopIteration as end:
                learned: T = end.value
                return learned
            given = yield action
            if isinstance(action, Await) and given is not None:
                _check(action.sender, heard[action.sender], given, transcript)
                heard[action.sender] += 1
    finally:
        side.close()


def _check(partner: SiloId, number: int, frame: Frame, transcript: Transcript) -> None:
    header, payload = frame
    content = b"" if payload is None else content_digest(payload[:])
    found, known = digest("intersection said", bytes(header), content), transcript.said(partner, number)
    if known is None:
        transcript.heard(partner, number, found)
    elif not hmac.compare_digest(found, known):
        raise FaultySilo(
            partner,
            "it says something else than before this session was interrupted: its records, its program or "
            "its settings changed. Abandon the session at all parties and begin another",
        )
