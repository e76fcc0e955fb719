"""The coordinator of a key ceremony: it relays what silos seal to each other, and learns the document alone.

Every signature, and all of the document, is checked before anything is relayed, so that a fault names the
silo that made it. All of the roster takes part: a key that one silo lacks is of no use where every silo
encrypts under it. What a silo's absence ends is run again, with a new nonce; so nothing is journalled, and a
crash ends a ceremony too.

Source: ``docs/keys.md``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, TypeAlias

from secagg.errors import (
    FaultySilo,
    MalformedMessage,
    ParameterError,
    TooFewSilos,
    UnexpectedMessage,
    UsageError,
)
from secagg.keys.document import (
    DEFAULT_LIFETIME,
    KeyDocument,
    check_shape,
    decode_document,
    document_fault,
    request_fault,
)
from secagg.keys.transcript import ceremony_digest, is_taken, sealing_fault
from secagg.messages import (
    FromSilo,
    KeyDealt,
    KeyDelivered,
    KeyRequested,
    KeyTaken,
    Refused,
    SealingKey,
    SealingKeysAnnounced,
    SignedKey,
)
from secagg.names import RandomSource, SiloId
from secagg.phases import Gate
from secagg.roster import Roster
from secagg.session import CoordinatorStep, Outbox, Step
from secagg.terms import KeyScheme

_MOST_LIFETIME = 366 * 24 * 3600


@dataclass(frozen=True)
class EstablishedKey:
    """A key that every silo of the roster holds.

    Attributes:
        document: as its maker signed it.
        content: its bytes.
        taken: (silo, signature over the document) of everybody but the maker, in roster order.
    """

    document: KeyDocument
    content: bytes
    taken: tuple[tuple[SiloId, bytes], ...]


@dataclass(frozen=True)
class _Start:
    pass


@dataclass(frozen=True)
class _Gathering:
    gate: Gate[SignedKey]


@dataclass(frozen=True)
class _Making:
    gate: Gate[tuple[KeyDocument, KeyDealt]]
    sealing: SignedKey  # The maker's.


@dataclass(frozen=True)
class _Delivering:
    gate: Gate[bytes]
    document: KeyDocument
    content: bytes


@dataclass(frozen=True)
class _Done:
    outcome: EstablishedKey


_State: TypeAlias = _Start | _Gathering | _Making | _Delivering | _Done


class KeyCeremony:
    """The coordinator in one ceremony; single use.

    Args:
        roster: the pinned roster; all of it takes part.
        federation: its name.
        scheme: what the key is for.
        size: bits of a Paillier key, degree of a CKKS ring.
        threshold: how many open together, for ``threshold-paillier``; None otherwise.
        maker: the silo that makes the key, and could keep all of it.
        lifetime: of the key, seconds, 366 days at most.
        replaces: id of the key before.
        seconds: how long each phase waits at the most; the maker needs its time in the second.
        random: for the nonce.

    Raises:
        ParameterError: there are no such keys, or the maker is not in the roster.

    Guarantees:
        It never has what opens a box or a ciphertext.
        The document of ``outcome`` was signed for by every silo of the roster.
        A fault names its maker; nobody else is ever named.
    """

    def __init__(
        self,
        roster: Roster,
        *,
        federation: str,
        scheme: KeyScheme,
        size: int,
        maker: SiloId,
        threshold: int | None = None,
        lifetime: int = DEFAULT_LIFETIME,
        replaces: bytes | None = None,
        seconds: float = 300.0,
        random: RandomSource = os.urandom,
    ) -> None:
        check_shape(scheme, size=size, threshold=threshold, parties=roster.n)
        if maker not in roster:
            raise ParameterError(f"{maker}, who is to make the key, is not in the roster")
        if not 1 <= lifetime <= _MOST_LIFETIME:
            raise ParameterError(f"lifetime is {lifetime} seconds, must be 1 to {_MOST_LIFETIME}")
        self._roster = roster
        self._seconds = seconds
        self._requested = KeyRequested(
            federation, roster.digest, scheme, size, threshold, maker, random(32), lifetime, replaces
        )
        self._ceremony = ceremony_digest(self._requested)
        self._left: set[SiloId] = set()
        self._state: _State = _Start()

    # --- what the driver reads -------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """When the phase closes whatever arrived."""
        gate = self._gate
        return None if gate is None else gate.deadline

    @property
    def phase(self) -> str | None:
        """The phase whose replies are awaited, by the name of the reply."""
        gate = self._gate
        return None if gate is None else gate.phase

    @property
    def waiting(self) -> frozenset[SiloId]:
        """Who is awaited."""
        gate = self._gate
        return frozenset() if gate is None else gate.waiting

    @property
    def left(self) -> frozenset[SiloId]:
        """Who refused or left the protocol; ``advance`` raises with all of them."""
        return frozenset(self._left)

    @property
    def invitation(self) -> KeyRequested | None:
        """What a silo is told that comes while sealing keys are gathered; None when it is too late."""
        return self._requested if isinstance(self._state, _Gathering) else None

    @property
    def outcome(self) -> EstablishedKey | None:
        """The key, once every silo took it."""
        return self._state.outcome if isinstance(self._state, _Done) else None

    @property
    def _gate(self) -> Gate[Any] | None:
        match self._state:
            case _Start() | _Done():
                return None
            case state:
                return state.gate

    # --- inputs ------------------------------------------------------------------------------------------

    def open(self, now: float) -> CoordinatorStep:
        """Ask every silo for a sealing key; call once."""
        if not isinstance(self._state, _Start):
            raise UsageError("a ceremony is opened once")
        everybody = frozenset(self._roster.silos)
        self._state = _Gathering(self._next("SealingKey", everybody, now))
        return Step((), dict.fromkeys(self._roster.silos, self._requested))

    def receive(self, sender: SiloId, message: FromSilo) -> CoordinatorStep:
        """Take one message of ``sender``; see ``CoordinatorSession.receive``."""
        try:
            self._receive(sender, message)
        except FaultySilo:
            self.lose(sender, struck=True)
            raise
        return Step((), {})

    def lose(self, silo: SiloId, *, struck: bool = False) -> CoordinatorStep:
        """Wait for ``silo`` no longer in this phase; see ``CoordinatorSession.lose``."""
        gate = self._gate
        if gate is not None:
            leave = gate.strike if struck else gate.lose
            leave(silo)
        if struck and silo in self._roster:
            self._left.add(silo)
        return Step((), {})

    def defer(self, moment: float) -> None:
        """Wait until ``moment`` at least; see ``CoordinatorSession.defer``."""
        gate = self._gate
        if gate is not None:
            gate.defer(moment)

    def advance(self, now: float) -> CoordinatorStep:
        """Close the phase if it can close.

        Raises:
            TooFewSilos: a silo is not there, refused or left the protocol; the error names it.
        """
        gate = self._gate
        if gate is None:
            return Step((), {})
        closable = gate.closable(now)
        # There is no key without any one of them: who left is not made up for by anybody.
        absent = self._left | (gate.expected - gate.replies.keys() if closable else frozenset())
        if absent:
            n = self._roster.n
            raise TooFewSilos(n - len(absent), n, gate.phase, self._roster.ordered(absent))
        if not closable:
            return Step((), {})
        match self._state:
            case _Gathering() as state:
                return Step((), self._announce(state, now))
            case _Making() as state:
                return Step((), self._deliver(state, now))
            case _Delivering() as state:
                taken = state.gate.close()
                ordered = tuple((silo, taken[silo]) for silo in self._roster.ordered(frozenset(taken)))
                self._state = _Done(EstablishedKey(state.document, state.content, ordered))
        return Step((), {})

    # --- accepting ---------------------------------------------------------------------------------------

    def _receive(self, sender: SiloId, message: FromSilo) -> None:
        match self._state, message:
            case _Gathering() as state, SealingKey():
                state.gate.check(sender)
                self._same(message.ceremony)
                blame(sender, sealing_fault(self._roster, self._ceremony, sender, message.sealing))
                state.gate.admit(sender, message.sealing)
            case _Making() as state, KeyDealt():
                state.gate.check(sender)
                self._same(message.ceremony)
                state.gate.admit(sender, (self._dealt(sender, message), message))
            case _Delivering() as state, KeyTaken():
                state.gate.check(sender)
                self._same(message.ceremony)
                blame(sender, taken_fault(self._roster, sender, state.document, message))
                state.gate.admit(sender, message.signature)
            case (_Start() | _Done(), _):
                raise UnexpectedMessage(f"{type(message).__name__} is not accepted now")
            case _, Refused():
                self.lose(sender, struck=True)
            case state, _:
                raise UnexpectedMessage(f"{type(message).__name__} is not accepted in {state.gate.phase}")

    def _dealt(self, maker: SiloId, dealt: KeyDealt) -> KeyDocument:
        document = read(maker, dealt.document)
        blame(maker, document_fault(document, self._roster))
        blame(maker, request_fault(document, self._requested, self._ceremony))
        others = tuple(silo for silo in self._roster.silos if silo != maker)
        if tuple(silo for silo, _ in dealt.boxes) != others:
            raise FaultySilo(maker, "its boxes are not one for each other silo, in the roster's order")
        if bool(dealt.sealed) != (document.threshold is None):
            raise FaultySilo(
                maker, "a secret is sealed for all where each has its own, or the other way round"
            )
        return document

    def _same(self, ceremony: bytes) -> None:
        if ceremony != self._ceremony:
            raise UnexpectedMessage("a message of another ceremony")

    # --- closing -----------------------------------------------------------------------------------------

    def _announce(self, state: _Gathering, now: float) -> Outbox:
        keys = state.gate.close()
        maker = self._requested.maker
        self._state = _Making(self._next("KeyDealt", frozenset({maker}), now), keys[maker])
        ordered = tuple((silo, keys[silo]) for silo in self._roster.silos)
        return {maker: SealingKeysAnnounced(self._ceremony, ordered)}

    def _deliver(self, state: _Making, now: float) -> Outbox:
        document, dealt = state.gate.close()[self._requested.maker]
        boxes = dict(dealt.boxes)
        self._state = _Delivering(self._next("KeyTaken", frozenset(boxes), now), document, dealt.document)
        return {
            silo: KeyDelivered(self._ceremony, dealt.document, state.sealing, dealt.sealed, box)
            for silo, box in boxes.items()
        }

    def _next(self, phase: str, expected: frozenset[SiloId], now: float) -> Gate[Any]:
        # Patient: without any one of them there is no key, so who was lost may come back until the deadline.
        deadline = now + self._seconds
        return Gate(phase, expected, quorum=len(expected), deadline=deadline, patient=True)


def blame(sender: SiloId, fault: str | None) -> None:
    """Raise FaultySilo if there is a fault."""
    if fault is not None:
        raise FaultySilo(sender, fault)


def read(sender: SiloId, content: bytes) -> KeyDocument:
    """Return the document that ``sender`` sent; raises FaultySilo if it is none."""
    try:
        return decode_document(content)
    except MalformedMessage as error:
        raise FaultySilo(sender, str(error)) from error


def taken_fault(roster: Roster, silo: SiloId, document: KeyDocument, taken: KeyTaken) -> str | None:
    """Return what is wrong with a silo's word that it holds a key, or None."""
    if taken.key != document.key or not is_taken(roster, silo, document, taken.signature):
        return "its signature over the key is not valid"
    return None
