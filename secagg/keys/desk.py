"""The coordinator in a round, for silos that lack its key: each gets it from a peer, sealed, and joins.

A silo that asks again could not open what it was sent: everybody else who is there gets a turn before a
holder is asked for it a second time.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from secagg.errors import FaultySilo, UnexpectedMessage
from secagg.keys.coordinator import EstablishedKey
from secagg.keys.forwarding import KeyForwarding
from secagg.messages import FromCoordinator, KeyForwarded, KeyTaken, KeyWanted
from secagg.names import SiloId
from secagg.patience import Patience
from secagg.roster import Roster
from secagg.session import Outbox

MOST_REQUESTS = 8
"""How often one silo is helped to a key in one round, or once for each silo of a larger roster."""


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
        seconds: how long one holder is waited for before the next is asked.

    Guarantees:
        A fault names its maker; nobody else is ever named.
        A silo that lacks the key itself is not asked for it, and neither is one that is asked already.
        A request stays until it is answered, or its silo asks anew.
        A silo that is silent holds nobody up for longer than ``seconds``, if another has the key.
        A silo that seals something else keeps nobody from the key, if another has it.
    """

    def __init__(self, roster: Roster, key: EstablishedKey, *, seconds: float = 60.0) -> None:
        self._roster = roster
        self._key = key
        self._wanting: dict[SiloId, KeyForwarding] = {}  # By who wants the key.
        self._requests: dict[SiloId, int] = {}
        self._most = max(MOST_REQUESTS, roster.n)
        self._faulty: set[SiloId] = set()
        self._turns: dict[SiloId, set[SiloId]] = {}  # Who wants the key -> who sent it, or took too long.
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
        match message:
            case KeyWanted():
                self._want(sender, message)
                return Helped(self.ask(absent=absent))
            case KeyForwarded():
                return self._answered(sender, message, message.request, absent)
            case KeyTaken():
                return self._answered(sender, message, message.ceremony, absent)

    def lose(self, silo: SiloId) -> None:
        """Wait for the answer of ``silo`` to others no longer; ``ask`` asks another one."""
        self._turns.pop(silo, None)  # If it asks again, it may not have got what it was sent.
        self._excuse(silo)

    def advance(self, now: float) -> None:
        """Wait no longer where one took too long; ``ask`` asks another one."""
        for joiner in self._patience.over(now):
            silent = self._wanting[joiner].waiting
            if silent == joiner:
                del self._wanting[joiner]  # It did not take what it asked for; it may ask anew.
            elif silent is not None:
                self._wanting[joiner].drop()
                self._turns.setdefault(joiner, set()).add(silent)

    def ask(self, *, absent: AbstractSet[SiloId] = frozenset()) -> Outbox:
        """Ask one holder for each silo that lacks the key and for whom nobody is asked yet."""
        outbox: dict[SiloId, FromCoordinator] = {}
        for joiner, forwarding in self._wanting.items():
            if forwarding.waiting is not None:
                continue
            busy = {one.waiting for one in self._wanting.values()}
            others = {*self._roster.silos} - absent - self._wanting.keys() - self._faulty
            due = others - self._turns.get(joiner, set()) or others  # Those without a turn first.
            for holder in self._roster.ordered(frozenset(due - busy))[:1]:
                outbox[holder] = forwarding.ask(holder)
                self._patience.begin(joiner)
        return outbox

    def _want(self, joiner: SiloId, wanted: KeyWanted) -> None:
        self._requests[joiner] = self._requests.get(joiner, 0) + 1
        if self._requests[joiner] > self._most:
            raise UnexpectedMessage(f"{joiner} asked for the key {self._most} times")
        forwarding = KeyForwarding(self._roster, joiner=joiner, wanted=wanted, key=self._key)
        self._excuse(joiner)  # It answers nobody: it has no key.
        self._patience.end(joiner)
        self._wanting[joiner] = forwarding

    def _excuse(self, silo: SiloId) -> None:
        """Wait for the answer of ``silo`` to others no longer."""
        for joiner, forwarding in self._wanting.items():
            if joiner != silo == forwarding.waiting:
                forwarding.drop()
                self._patience.end(joiner)

    def _answered(
        self, sender: SiloId, message: KeyForwarded | KeyTaken, request: bytes, absent: AbstractSet[SiloId]
    ) -> Helped:
        here = (joiner for joiner, one in self._wanting.items() if one.request == request)
        joiner = next(here, None)
        if joiner is None:
            raise UnexpectedMessage(f"{sender} was not asked for a key")
        forwarding = self._wanting[joiner]
        try:
            passed = forwarding.receive(sender, message)
        except FaultySilo:
            self._faulty.add(sender)
            forwarding.drop()
            self._patience.end(joiner)
            self._wanting.pop(sender, None)
            raise
        if passed is not None:
            self._turns.setdefault(joiner, set()).add(sender)
            self._patience.begin(joiner)
            return Helped({**self.ask(absent=absent), joiner: passed})
        self._patience.end(joiner)
        del self._wanting[joiner]
        return Helped(self.ask(absent=absent | {joiner}), frozenset({joiner}))
