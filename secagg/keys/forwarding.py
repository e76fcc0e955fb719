"""The coordinator, while one silo gets a key again that it lost: it relays one request and one answer.

The answer is sealed, so that it learns no more than in the ceremony.

Source: ``docs/keys.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from secagg.errors import FaultySilo, TooFewSilos, UnexpectedMessage, UsageError
from secagg.keys.coordinator import EstablishedKey, blame, read, taken_fault
from secagg.keys.transcript import request_digest, sealing_fault
from secagg.messages import FromSilo, KeyAsked, KeyForwarded, KeyPassed, KeyTaken, KeyWanted, Refused
from secagg.names import SiloId
from secagg.phases import Gate
from secagg.roster import Roster
from secagg.session import CoordinatorStep, Outbox, Step


@dataclass(frozen=True)
class _Start:
    pass


@dataclass(frozen=True)
class _Asking:
    gate: Gate[KeyForwarded]
    holder: SiloId
    others: tuple[SiloId, ...]  # Who is asked next.


@dataclass(frozen=True)
class _Passing:
    gate: Gate[bytes]


@dataclass(frozen=True)
class _Passed:
    outcome: bytes


_State: TypeAlias = _Start | _Asking | _Passing | _Passed


class KeyForwarding:
    """The coordinator, while one silo gets a key again that it lost; single use.

    Holders are asked one after the other, until one answers.

    Args:
        roster: the pinned roster.
        joiner: the silo that wants the key.
        wanted: its message.
        key: the key, as the ceremony left it.
        holders: who is asked, in this order; None for everybody else.
        seconds: how long each silo is waited for.

    Raises:
        UnexpectedMessage: the request is for another key, or for a share, which cannot be forwarded.
        FaultySilo: it is not signed by the joiner's pinned identity.

    Guarantees:
        It never has what opens a box or a ciphertext.
        A fault names its maker; nobody else is ever named.
    """

    def __init__(
        self,
        roster: Roster,
        *,
        joiner: SiloId,
        wanted: KeyWanted,
        key: EstablishedKey,
        holders: Sequence[SiloId] | None = None,
        seconds: float = 60.0,
    ) -> None:
        if wanted.key != key.document.key:
            raise UnexpectedMessage(f"{joiner} wants another key")
        if key.document.threshold is not None:
            raise UnexpectedMessage(
                "a share of a threshold key cannot be forwarded: make a new key that replaces it"
            )
        self._roster = roster
        self._joiner = joiner
        self._wanted = wanted
        self._key = key
        self._seconds = seconds
        self._request = request_digest(roster, wanted.key, joiner, wanted.sealing.nonce)
        blame(joiner, sealing_fault(roster, self._request, joiner, wanted.sealing))
        others = tuple(silo for silo in roster.silos if silo != joiner)
        self._holders = others if holders is None else tuple(holders)
        self._state: _State = _Start()

    @property
    def request(self) -> bytes:
        """What names the request in its messages."""
        return self._request

    @property
    def deadline(self) -> float | None:
        """When the silo that is asked is waited for no longer."""
        gate = self._gate
        return None if gate is None else gate.deadline

    @property
    def waiting(self) -> frozenset[SiloId]:
        """Who is awaited."""
        gate = self._gate
        return frozenset() if gate is None else gate.waiting

    @property
    def outcome(self) -> bytes | None:
        """The joiner's signature over the document that it holds."""
        return self._state.outcome if isinstance(self._state, _Passed) else None

    @property
    def _gate(self) -> Gate[Any] | None:
        match self._state:
            case _Asking() | _Passing():
                return self._state.gate
            case _:
                return None

    def open(self, now: float) -> CoordinatorStep:
        """Ask the first holder; call once."""
        if not isinstance(self._state, _Start):
            raise UsageError("a request for a key is opened once")
        return Step((), self._ask(self._holders, now))

    def receive(self, sender: SiloId, message: FromSilo) -> CoordinatorStep:
        """Take one message of ``sender``; see ``CoordinatorSession.receive``."""
        try:
            self._receive(sender, message)
        except FaultySilo:
            self.lose(sender, struck=True)
            raise
        return Step((), {})

    def lose(self, silo: SiloId, *, struck: bool = False) -> CoordinatorStep:
        """Wait for ``silo`` no longer; see ``CoordinatorSession.lose``."""
        gate = self._gate
        if gate is not None:
            leave = gate.strike if struck else gate.lose
            leave(silo)
        return Step((), {})

    def defer(self, moment: float) -> None:
        """Wait until ``moment`` at least; see ``CoordinatorSession.defer``."""
        gate = self._gate
        if gate is not None:
            gate.defer(moment)

    def advance(self, now: float) -> CoordinatorStep:
        """Pass the answer on, or ask the next holder.

        Raises:
            TooFewSilos: no holder answered, or the joiner did not take it.
        """
        gate = self._gate
        if gate is None or not gate.closable(now):
            return Step((), {})
        match self._state:
            case _Asking() as state if not state.gate.replies and state.others:
                return Step((), self._ask(state.others, now))
            case _Asking() as state:
                return Step((), self._pass(state, now))
            case _Passing() as state:
                self._state = _Passed(state.gate.close()[self._joiner])
        return Step((), {})

    def _receive(self, sender: SiloId, message: FromSilo) -> None:
        match self._state, message:
            case _Asking() as state, KeyForwarded():
                state.gate.check(sender)
                self._same(message.request)
                blame(sender, sealing_fault(self._roster, self._request, sender, message.sealing))
                if read(sender, message.document).digest != self._key.document.digest:
                    raise FaultySilo(sender, "forwards another key than was asked for")
                state.gate.admit(sender, message)
            case _Passing() as state, KeyTaken():
                state.gate.check(sender)
                self._same(message.ceremony)
                blame(sender, taken_fault(self._roster, sender, self._key.document, message))
                state.gate.admit(sender, message.signature)
            case (_Asking() | _Passing()) as state, Refused():
                state.gate.strike(sender)
            case _:
                raise UnexpectedMessage(f"{type(message).__name__} is not accepted now")

    def _same(self, request: bytes) -> None:
        if request != self._request:
            raise UnexpectedMessage("a message of another request")

    def _ask(self, holders: Sequence[SiloId], now: float) -> Outbox:
        holder, *others = holders
        gate: Gate[KeyForwarded] = self._next("KeyForwarded", holder, now)
        self._state = _Asking(gate, holder, tuple(others))
        return {holder: KeyAsked(self._joiner, self._wanted.key, self._wanted.sealing)}

    def _pass(self, state: _Asking, now: float) -> Outbox:
        if not state.gate.replies:
            raise TooFewSilos(0, 1, "KeyForwarded", self._holders)
        found = state.gate.close()[state.holder]
        self._state = _Passing(self._next("KeyTaken", self._joiner, now))
        # The document as the ceremony left it: a holder's may have another signature of the maker over it.
        passed = KeyPassed(
            state.holder, self._request, self._key.content, found.sealing, found.sealed, found.box
        )
        return {self._joiner: passed}

    def _next(self, phase: str, silo: SiloId, now: float) -> Gate[Any]:
        return Gate(phase, frozenset({silo}), quorum=1, deadline=now + self._seconds)
