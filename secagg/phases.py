"""The phase barrier, written once: one reply from each of these silos, until a deadline, quorum q."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from secagg.errors import TooFewSilos, UnexpectedMessage
from secagg.names import SiloId

T = TypeVar("T")


class Gate(Generic[T]):
    """Collects one reply per silo.

    Args:
        phase: name of the phase, for errors.
        expected: who may reply.
        quorum: replies without which the phase fails.
        deadline: seconds on the driver's clock after which it closes with what is there.
        enough: replies with which it closes at once; None waits for everybody who was not lost.
        patient: also wait for those who were lost, while without them there is no quorum.

    Guarantees:
        A stranger's and a second reply are refused and change nothing.
        A silo that was lost may still reply while the phase is open; one that was struck may not.
        ``close`` returns at least ``quorum`` replies or raises TooFewSilos.
        Thresholds count silos, never messages.
        A patient gate awaits those who were lost, never those who were struck, while no quorum is here.
    """

    def __init__(
        self,
        phase: str,
        expected: frozenset[SiloId],
        *,
        quorum: int,
        deadline: float,
        enough: int | None = None,
        patient: bool = False,
    ) -> None:
        self.phase = phase
        self.expected = expected
        self.quorum = quorum
        self.deadline = deadline
        self._enough = enough
        self._patient = patient
        self._replies: dict[SiloId, T] = {}
        self._lost: set[SiloId] = set()
        self._struck: set[SiloId] = set()

    def check(self, sender: SiloId) -> None:
        """Check that ``sender`` may still reply.

        Raises:
            UnexpectedMessage: a stranger, a second reply, or a silo that was struck.
        """
        if sender not in self.expected:
            raise UnexpectedMessage(f"{self.phase}: {sender} is not awaited")
        if sender in self._replies:
            raise UnexpectedMessage(f"{self.phase}: {sender} replied already")
        if sender in self._struck:
            raise UnexpectedMessage(f"{self.phase}: {sender} has left this attempt")

    def admit(self, sender: SiloId, reply: T) -> None:
        """Take the reply of ``sender``; raises as ``check``."""
        self.check(sender)
        self._replies[sender] = reply

    def lose(self, silo: SiloId) -> None:
        """Wait for ``silo`` no longer. A reply that it gave stays, one that it still gives counts."""
        if silo in self.expected and silo not in self._replies:
            self._lost.add(silo)

    def strike(self, silo: SiloId) -> None:
        """Wait for ``silo`` no longer and take no reply of it. A reply that it gave stays."""
        self.lose(silo)
        self._struck.add(silo)

    def defer(self, moment: float) -> None:
        """Close for lateness no earlier than ``moment``."""
        self.deadline = max(self.deadline, moment)

    @property
    def replies(self) -> Mapping[SiloId, T]:
        """What was admitted so far."""
        return self._replies

    @property
    def waiting(self) -> frozenset[SiloId]:
        """Who is still awaited."""
        return self.expected - self._replies.keys() - self._lost | self.recalled

    @property
    def here(self) -> frozenset[SiloId]:
        """Who replied, or was not lost."""
        return self.expected - self._lost | self._replies.keys()

    @property
    def recalled(self) -> frozenset[SiloId]:
        """Who was lost and is awaited all the same: with them there may be a quorum, without them not."""
        lost = self.expected - self.here - self._struck
        short = len(self.here) < self.quorum <= len(self.here | lost)
        return lost if self._patient and short else frozenset()

    def closable(self, now: float) -> bool:
        """Whether nothing more need be waited for."""
        have = len(self._replies)
        return not self.waiting or now >= self.deadline or (self._enough is not None and have >= self._enough)

    def close(self) -> Mapping[SiloId, T]:
        """Return the replies.

        Raises:
            TooFewSilos: fewer than the quorum.
        """
        have = len(self._replies)
        if have < self.quorum:
            missing = tuple(sorted(self.expected - self._replies.keys()))
            raise TooFewSilos(have, self.quorum, self.phase, missing)
        return self._replies
