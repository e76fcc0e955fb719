"""Between a round and a transport: frames in, frames out, records synced before anything is sent.

The simulation and the service drive a round with this and nothing else. It holds no connection and no clock:
what arrives, what was lost and what time it is are handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias, get_args

from secagg import wire
from secagg.errors import FaultySilo, MalformedMessage, ProtocolError, UnexpectedMessage
from secagg.messages import (
    AdvertiseKeys,
    BaseRequested,
    BaseSealed,
    BaseWanted,
    BoxReport,
    ConsistencyCheck,
    EncryptedInput,
    FromSilo,
    KeyDealt,
    KeyForwarded,
    KeyTaken,
    KeyWanted,
    MaskedInput,
    Opened,
    PartialDecryption,
    PlainInput,
    PlainSum,
    Ready,
    Refused,
    SealingKey,
    ShareKeys,
    SumOpened,
    Unmasking,
    Voided,
)
from secagg.names import SiloId
from secagg.payload import Frame
from secagg.records import CoordinatorRecord
from secagg.rounds.coordinator import RoundCoordinator
from secagg.session import Aggregate, CoordinatorStep, Outbox, SealedSum
from secagg.terms import SchemeTag

Phase: TypeAlias = Literal[
    "Training",
    "AdvertiseKeys",
    "ShareKeys",
    "MaskedInput",
    "EncryptedInput",
    "PlainInput",
    "ConsistencyCheck",
    "Unmasking",
    "PartialDecryption",
    "Opened",
]
PHASES: tuple[Phase, ...] = get_args(Phase)
"""Of all schemes, in the order of the protocol."""

_STAGES: Mapping[str, int] = {
    "Training": 0,
    "AdvertiseKeys": 1,
    "ShareKeys": 2,
    "MaskedInput": 3,
    "EncryptedInput": 3,
    "PlainInput": 3,
    "ConsistencyCheck": 4,
    "Unmasking": 5,
    "PartialDecryption": 5,
    "Opened": 6,
}


def reaches(phase: str, named: Phase) -> bool:
    """Whether a reply in ``phase`` comes no earlier than ``named``, which may be of another scheme."""
    return phase in _STAGES and _STAGES[phase] >= _STAGES[named]


def phases_of(scheme: SchemeTag) -> tuple[Phase, ...]:
    """Return the phases of a round under ``scheme``, in order."""
    match scheme:
        case "plain":
            return ("Training", "PlainInput")
        case "masking":
            return ("Training", "AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmasking")
        case "paillier" | "ckks":
            return ("Training", "EncryptedInput", "ConsistencyCheck", "Opened")
        case "threshold-paillier":
            return ("Training", "EncryptedInput", "ConsistencyCheck", "PartialDecryption", "Opened")


Frames: TypeAlias = Sequence[tuple[SiloId, Frame]]


def phase_of(message: FromSilo) -> str:
    """Return the phase that ``message`` answers."""
    match message:
        case BaseRequested() | BaseWanted() | BaseSealed() | Ready():
            return "Training"
        case (
            AdvertiseKeys()
            | ShareKeys()
            | MaskedInput()
            | EncryptedInput()
            | PlainInput()
            | ConsistencyCheck()
            | Unmasking()
            | PartialDecryption()
            | Opened()
            | SealingKey()
            | KeyDealt()
            | KeyTaken()
            | KeyWanted()
            | KeyForwarded()
        ):
            return type(message).__name__
        case BoxReport():
            return "MaskedInput"
        case Refused():
            return "Refused"
        case Voided():
            return "Voided"


@dataclass
class Traffic:
    """What one round moved, per phase: bytes of all silos together, and seconds of the handed-in timer.

    A phase has the name of the reply that it awaits; the last, which awaits none, that of its message.

    Attributes:
        lost: silos whose reply was lost on its way, and in which phase.
    """

    bytes_up: dict[str, int] = field(default_factory=dict)
    bytes_down: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    lost: dict[SiloId, str] = field(default_factory=dict)


class Watcher(Protocol):
    """Told what happens in a round, as it happens."""

    def attempt_started(self, attempt: int) -> None:
        """Attempt ``attempt`` begins; 0 is training."""
        ...

    def silo_replied(self, silo: SiloId, phase: str) -> None:
        """The reply of ``silo`` in ``phase`` arrived."""
        ...

    def silo_lost(self, silo: SiloId, phase: str) -> None:
        """``silo`` was lost in ``phase``."""
        ...

    def silo_working(self, silo: SiloId, phase: str) -> None:
        """``silo`` was handed a message of ``phase`` and works."""
        ...


class RoundDriver:
    """Drives one round; single use.

    Args:
        coordinator: the round, not yet opened.
        sync: puts records where they survive a crash; called before what they allow is returned.
        timer: measures, seconds; None measures nothing.
        watcher: told what happens.
        tap: given every message that the coordinator receives.

    Guarantees:
        Whatever a silo sends, it is counted, refused or blamed, and the round goes on.
    """

    def __init__(
        self,
        coordinator: RoundCoordinator,
        *,
        sync: Callable[[Sequence[CoordinatorRecord]], None] | None = None,
        timer: Callable[[], float] | None = None,
        watcher: Watcher | None = None,
        tap: Callable[[SiloId, FromSilo], None] | None = None,
    ) -> None:
        self.coordinator = coordinator
        self.traffic = Traffic()
        self._sync = sync
        self._timer = timer
        self._watcher = watcher
        self._tap = tap
        self._unawaited = "Training"  # The phase where the coordinator awaits nothing: at the two ends.

    # --- what a transport reads ---

    @property
    def outcome(self) -> Aggregate | SealedSum | None:
        """The sum, once it was opened."""
        return self.coordinator.outcome

    @property
    def deadline(self) -> float | None:
        """When ``advance`` has something to do even if nothing arrives."""
        return self.coordinator.deadline if self.coordinator.waiting else None

    @property
    def alarm(self) -> float | None:
        """When ``advance`` has something to do besides."""
        return self.coordinator.alarm

    @property
    def waiting(self) -> frozenset[SiloId]:
        """Who is awaited."""
        return self.coordinator.waiting

    @property
    def phase(self) -> str:
        """Where the round is."""
        return self.coordinator.phase or self._unawaited

    # --- inputs ---

    def open(self, now: float) -> Frames:
        """Begin; call once."""
        with self.measured():
            return self._out(self.coordinator.open(now))

    def advance(self, now: float) -> Frames:
        """Close the phase if it can close; see ``CoordinatorSession.advance``."""
        attempt = self.coordinator.attempt
        with self.measured():
            frames = self._out(self.coordinator.advance(now))
        if self._watcher is not None and self.coordinator.attempt != attempt:
            self._watcher.attempt_started(self.coordinator.attempt)
        return frames

    def take(self, silo: SiloId, frame: Frame) -> Frames:
        """Take one frame of ``silo``."""
        message = self.read(silo, frame)
        return () if message is None else self.receive(silo, message, frame)

    def read(self, silo: SiloId, frame: Frame) -> FromSilo | None:
        """Return the message in ``frame``, or None if there is none: its silo left the protocol."""
        try:
            with self.measured():
                return wire.decode_from_silo(*frame)
        except MalformedMessage as fault:
            self.lose(silo, fault=fault)
            return None

    def receive(self, silo: SiloId, message: FromSilo, frame: Frame) -> Frames:
        """Take the message that was read from ``frame``."""
        phase = phase_of(message)
        self._count(self.traffic.bytes_up, phase, frame)
        if self._tap is not None:
            self._tap(silo, message)
        try:
            with self.measured():
                frames = self._out(self.coordinator.receive(silo, message))
        except UnexpectedMessage:
            # Enough others were faster, or it is late: it is not needed, and its silo is not lost.
            frames = ()
        except FaultySilo as fault:
            return self.lose(silo, fault=fault, phase=phase)
        if isinstance(message, Refused | BoxReport):
            self._tell_lost(silo, self.phase)
        elif self._watcher is not None and not isinstance(
            message, BaseRequested | BaseWanted | BaseSealed | KeyWanted | KeyForwarded | KeyTaken
        ):  # It has yet to train, or did already.
            self._watcher.silo_replied(silo, phase)
        return frames

    def lose(self, silo: SiloId, *, fault: ProtocolError | None = None, phase: str | None = None) -> Frames:
        """Wait for ``silo`` no longer; see ``RoundCoordinator.lose``."""
        self._tell_lost(silo, phase or self.phase)
        return self._out(self.coordinator.lose(silo, fault=fault))

    def left(self, silo: SiloId, phase: str) -> None:
        """Note that a reply of ``silo`` was lost on its way; the round finds out at the deadline."""
        self.traffic.lost[silo] = phase
        self._tell_lost(silo, phase)

    def defer(self, moment: float) -> None:
        """Close the phase for lateness no earlier than ``moment``."""
        self.coordinator.defer(moment)

    def invite(self, silo: SiloId) -> Frames:
        """Return what a silo is told that joins while the round goes on."""
        return () if self.outcome is not None else self._frames({silo: self.coordinator.invitation})

    def working(self, silo: SiloId) -> None:
        """Note that ``silo`` is handed a message now."""
        if self._watcher is not None:
            self._watcher.silo_working(silo, self.phase)

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Add the time of the block to the phase in which it was entered."""
        if self._timer is None:
            yield
            return
        phase, start = self.phase, self._timer()
        try:
            yield
        finally:
            seconds = self.traffic.seconds
            seconds[phase] = seconds.get(phase, 0.0) + self._timer() - start

    # --- small parts ---

    def _out(self, step: CoordinatorStep) -> Frames:
        self._keep(step)
        return self._frames(step.output)

    def _keep(self, step: CoordinatorStep) -> None:
        if self._sync is not None and step.records:
            self._sync(step.records)

    def _frames(self, outbox: Outbox) -> Frames:
        encoded: dict[int, Frame] = {}  # One message to many silos is encoded once.
        frames = []
        for silo, message in outbox.items():
            if isinstance(message, SumOpened | PlainSum):
                self._unawaited = type(message).__name__
            if id(message) not in encoded:
                encoded[id(message)] = wire.encode(message)
            frame = encoded[id(message)]
            self._count(self.traffic.bytes_down, self.phase, frame)
            frames.append((silo, frame))
        return frames

    def _tell_lost(self, silo: SiloId, phase: str) -> None:
        if self._watcher is not None:
            self._watcher.silo_lost(silo, phase)

    @staticmethod
    def _count(totals: dict[str, int], phase: str, frame: Frame) -> None:
        totals[phase] = totals.get(phase, 0) + wire.size_of(frame)
