"""The coordinator in a round, for silos that lack its base: it sends it, or has a peer seal it to them.

Where silos alone have the model, one that lacks it asks with a key to seal to. A silo that was ready holds
the model and is asked for it; if no answer came in time, the next one is asked as well, and whichever answers
first is passed on. A silo that asks again could not open that: everybody else who is there gets a turn, once
ready, before a holder is asked for it a second time.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from secagg.errors import FaultySilo, MalformedMessage, UnexpectedMessage
from secagg.hazmat.agreement import check_point
from secagg.messages import (
    BaseAsked,
    BaseForwarded,
    BaseRequested,
    BaseSealed,
    BaseSent,
    BaseWanted,
    FromCoordinator,
)
from secagg.names import SiloId
from secagg.patience import Patience
from secagg.payload import Payload
from secagg.roster import Roster
from secagg.rounds.bases import base_wanted_fault
from secagg.session import Outbox

MAX_BASES = 8
"""How often one silo is sent the base of a round, or once for each silo of a larger roster.

If all goes well that is once for each process that it starts.
"""


class BaseDesk:
    """Gets the base of a round to silos that lack it.

    Args:
        roster: the pinned roster.
        base: digest of the model, as the terms name it.
        model: it; None where silos alone have it.
        seconds: how long one silo is waited for before another is asked.

    Guarantees:
        A fault names its maker; nobody else is ever named.
        No silo is asked for two others at once.
        A silo that is silent holds nobody up for longer than ``seconds``, if another has the model.
        A silo that seals something else keeps nobody from the model, if another has it.
    """

    def __init__(self, roster: Roster, base: bytes, model: Payload | None, *, seconds: float) -> None:
        self._roster = roster
        self._base = base
        self._model = model
        self._most = max(MAX_BASES, roster.n)
        self._sent: dict[SiloId, int] = {}
        self._wanting: dict[SiloId, BaseWanted] = {}
        self._asked: dict[SiloId, list[SiloId]] = {}  # Who wants the base -> who was asked for it.
        self._turns: dict[SiloId, set[SiloId]] = {}  # Who asked -> who was asked before it got an answer.
        self._holders: tuple[SiloId, ...] = ()  # Who was ready, the last one last.
        self._patience = Patience(seconds)

    @property
    def alarm(self) -> float | None:
        """When ``advance`` has something to do."""
        return self._patience.alarm

    def receive(
        self, sender: SiloId, message: BaseRequested | BaseWanted | BaseSealed, *, absent: AbstractSet[SiloId]
    ) -> Outbox:
        """Take one message about the base.

        Args:
            sender: as authenticated by the transport.
            message: of it.
            absent: silos that need not be asked.

        Raises:
            UnexpectedMessage: it asks for another base, for one that is not here, or too often; or it sends
                one that it was not asked for.
            FaultySilo: names the sender.
        """
        match message:
            case BaseSealed():
                passed = self._passed(sender, message)
                return {**self.ask(absent=absent | passed.keys()), **passed}
            case BaseWanted() if self._model is None:
                self._want(sender, message)
                return self.ask(absent=absent)
            case BaseRequested() | BaseWanted():
                self._check(sender, message.base)
                if self._model is None:
                    raise UnexpectedMessage(f"{sender} asks for a base model that is not here")
                return {sender: BaseSent(message.base, self._model)}

    def ready(self, silo: SiloId) -> None:
        """Note that ``silo`` holds the base; ``ask`` asks it where somebody lacks one."""
        self._holders = (*(holder for holder in self._holders if holder != silo), silo)
        self._forget(silo)

    def lose(self, silo: SiloId) -> None:
        """Wait for the answer of ``silo`` to others no longer; ``ask`` asks another one."""
        self._turns.pop(silo, None)  # If it asks again, it may not have got what it was sent.
        for wanting, asked in self._asked.items():
            if silo in asked:
                asked.remove(silo)
                self._patience.end(wanting)

    def advance(self, now: float) -> None:
        """Wait no longer where one took too long; ``ask`` asks another one."""
        self._patience.over(now)

    def ask(self, *, absent: AbstractSet[SiloId]) -> Outbox:
        """Ask the holder that was ready last, for each silo that lacks the base and waits for nobody."""
        outbox: dict[SiloId, FromCoordinator] = {}
        for silo, wanted in self._wanting.items():
            busy = {holder for asked in self._asked.values() for holder in asked}
            due = self._due(silo, absent)
            free = [one for one in reversed(self._holders) if one in due and one not in busy]
            if free and not self._patience.lasts(silo):
                self._asked.setdefault(silo, []).append(free[0])
                self._patience.begin(silo)
                outbox[free[0]] = BaseAsked(wanted.base, silo, wanted.box, wanted.signature)
        return outbox

    def _due(self, silo: SiloId, absent: AbstractSet[SiloId]) -> set[SiloId]:
        """Return who may be asked for ``silo``, now or once ready: those without a turn first."""
        others = {*self._roster.silos} - self._wanting.keys() - absent
        return others - self._turns.get(silo, set()) or others

    def _want(self, sender: SiloId, wanted: BaseWanted) -> None:
        self._check(sender, wanted.base)
        fault = base_wanted_fault(self._roster, sender, wanted)
        if fault is not None:
            raise FaultySilo(sender, fault)
        self._forget(sender)  # What is sealed to its last key it cannot open.
        self._wanting[sender] = wanted

    def _passed(self, sender: SiloId, sealed: BaseSealed) -> Outbox:
        wanted = self._wanting.get(sealed.silo)
        asked = wanted is not None and (wanted.base, wanted.box) == (sealed.base, sealed.wanted)
        if sender not in self._asked.get(sealed.silo, ()) or not asked:
            raise UnexpectedMessage(f"{sender} sends a base model that it was not asked for")
        try:
            check_point(sealed.box)
        except MalformedMessage as error:
            raise FaultySilo(sender, f"the key that it sealed a base model with: {error}") from error
        self._turns.setdefault(sealed.silo, set()).update(self._asked[sealed.silo])
        self._forget(sealed.silo)
        return {sealed.silo: BaseForwarded(sealed.base, sender, sealed.box, sealed.sealed)}

    def _forget(self, silo: SiloId) -> None:
        """Forget that ``silo`` lacks the base."""
        self._wanting.pop(silo, None)
        self._asked.pop(silo, None)
        self._patience.end(silo)

    def _check(self, sender: SiloId, wanted: bytes) -> None:
        if wanted != self._base:
            raise UnexpectedMessage(f"{sender} asks for a base model that this round does not start from")
        self._sent[sender] = self._sent.get(sender, 0) + 1
        if self._sent[sender] > self._most:
            raise UnexpectedMessage(f"{sender} was sent the base model {self._most} times")
