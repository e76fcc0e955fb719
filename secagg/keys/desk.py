"""The coordinator in a round, for silos that lack its key: each gets it from a peer, sealed, and joins."""

from __future__ import annotations

import math
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from secagg.errors import TooFewSilos, UnexpectedMessage
from secagg.keys.coordinator import EstablishedKey
from secagg.keys.forwarding import KeyForwarding
from secagg.messages import FromCoordinator, KeyForwarded, KeyTaken, KeyWanted
from secagg.names import SiloId
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
    """Relays the key of a round to silos that lack it; a holder is waited for until it is lost.

    Args:
        roster: the pinned roster.
        key: of the round.

    Guarantees:
        A fault names its maker; nobody else is ever named.
    """

    def __init__(self, roster: Roster, key: EstablishedKey) -> None:
        self._roster = roster
        self._key = key
        self._open: dict[SiloId, KeyForwarding] = {}  # By who wants the key.
        self._requests: dict[SiloId, int] = {}

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
            return Helped(self._ask(sender, forwarding, forwarding.open(0.0).output, absent))
        for joiner, forwarding in self._open.items():
            if sender in forwarding.waiting:
                forwarding.receive(sender, message)
                outbox = forwarding.advance(0.0).output
                if forwarding.outcome is None:
                    return Helped(outbox)
                del self._open[joiner]
                return Helped(outbox, frozenset({joiner}))
        raise UnexpectedMessage(f"{sender} was not asked for a key")

    def lose(self, silo: SiloId) -> Outbox:
        """Wait for ``silo`` no longer: for whom it was asked, another holder is."""
        self._open.pop(silo, None)
        outbox: dict[SiloId, FromCoordinator] = {}
        for joiner, forwarding in [*self._open.items()]:
            if silo in forwarding.waiting:
                outbox |= self._ask(joiner, forwarding, {}, frozenset({silo}))
        return outbox

    def _ask(
        self, joiner: SiloId, forwarding: KeyForwarding, outbox: Outbox, absent: AbstractSet[SiloId]
    ) -> Outbox:
        """Return what asks the next holder that is not absent; nothing if there is none left."""
        while not outbox or frozenset(outbox) <= absent:
            for silo in forwarding.waiting:
                forwarding.lose(silo)
            try:
                outbox = forwarding.advance(0.0).output
            except TooFewSilos:
                self._open.pop(joiner, None)  # It may ask again.
                return {}
        return outbox
