"""The coordinator in a round, for silos that lack its key: each gets it from a peer, sealed, and joins."""

from __future__ import annotations

import math
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from secagg.errors import TooFewSilos, UnexpectedMessage
from secagg.keys.coordinator import EstablishedKey
from secagg.keys.forwarding import KeyForwarding
from secagg.messages import KeyForwarded, KeyTaken, KeyWanted
from secagg.names import SiloId
from secagg.patience import Patience
from secagg.roster import Roster
from secagg.session import Outbox

MOST_REQUESTS = 8
"""How often one silo is helped to a key in one round."""


@dataclass(frozen=True)
class Helped:
    """What came of a message about a key.

    Attributes:
        outbox: what is sent.
        holders: silos that hold the key from now on.
    """

    outbox: Outbox = field(default_factory=dict)
    holders: frozenset[SiloId] = frozenset()


class KeyDesk:
    """Relays the key of a round to silos that lack it.

    Args:
        roster: the pinned roster.
        key: of the round.
        seconds: how long one holder is waited for before the next is asked.

    Guarantees:
        A fault names its maker; nobody else is ever named.
        A silo that is silent holds nobody up for longer than ``seconds``, if another has the key.
    """

    def __init__(self, roster: Roster, key: EstablishedKey, *, seconds: float = 60.0) -> None:
        self._roster = roster
        self._key = key
        self._open: dict[SiloId, KeyForwarding] = {}  # By who wants the key.
        self._requests: dict[SiloId, int] = {}
        self._patience = Patience(seconds)  # By who wants the key.

    @property
    def alarm(self) -> float | None:
        """When ``advance`` has something to do."""
        return self._patience.alarm

    def receive(
        self,
        sender: SiloId,
        message: KeyWanted | KeyForwarded | KeyTaken,
        *,
        absent: AbstractSet[SiloId] = frozenset(),
    ) -> Helped:
        """Take one message of ``sender``.

        Args:
            sender: as authenticated by the transport.
            message: about the key.
            absent: silos that need not be asked.

        Raises:
            UnexpectedMessage: nothing of the kind is awaited, or the silo asked too often.
            FaultySilo: names the sender.
        """
        if isinstance(message, KeyWanted):
            self._requests[sender] = self._requests.get(sender, 0) + 1
            if self._requests[sender] > MOST_REQUESTS:
                raise UnexpectedMessage(f"{sender} asked for the key {MOST_REQUESTS} times")
            forwarding = KeyForwarding(
                self._roster, joiner=sender, wanted=message, key=self._key, seconds=math.inf
            )
            self._open[sender] = forwarding
            self._patience.begin(sender)
            return Helped(self._ask(sender, forwarding, forwarding.open(0.0).output, absent))
        for joiner, forwarding in self._open.items():
            if sender in forwarding.waiting:
                forwarding.receive(sender, message)
                outbox = forwarding.advance(0.0).output
                if forwarding.outcome is None:
                    self._patience.begin(joiner)
                    return Helped(outbox)
                self._close(joiner)
                return Helped(outbox, frozenset({joiner}))
        raise UnexpectedMessage(f"{sender} was not asked for a key")

    def lose(self, silo: SiloId) -> Outbox:
        """Wait for ``silo`` no longer: for whom it was asked, another holder is."""
        self._close(silo)
        for joiner, forwarding in [*self._open.items()]:
            if silo in forwarding.waiting:
                # One of them now, for a silo is told one thing at a time; the others when their wait is over.
                return self._ask(joiner, forwarding, {}, frozenset({silo}))
        return {}

    def advance(self, now: float, *, absent: AbstractSet[SiloId] = frozenset()) -> Outbox:
        """Ask the next holder where one took too long."""
        outbox: Outbox = {}
        for joiner in self._patience.over(now):
            if outbox:
                self._patience.begin(joiner)
            else:
                outbox = self._ask(joiner, self._open[joiner], {}, absent)
        return outbox

    def _close(self, joiner: SiloId) -> None:
        self._open.pop(joiner, None)
        self._patience.end(joiner)

    def _ask(
        self, joiner: SiloId, forwarding: KeyForwarding, outbox: Outbox, absent: AbstractSet[SiloId]
    ) -> Outbox:
        """Return what asks the next holder that is not absent; nothing if there is none left."""
        absent = absent | self._open.keys()  # Who wants the key has none.
        while not outbox or frozenset(outbox) <= absent:
            for silo in forwarding.waiting:
                forwarding.lose(silo)
            try:
                outbox = forwarding.advance(0.0).output
            except TooFewSilos:
                self._close(joiner)  # It may ask again.
                return {}
        self._patience.begin(joiner)
        return outbox
