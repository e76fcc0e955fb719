"""Drive whole rounds in memory, over real wire bytes, with real crashes of silos.

There is no second implementation of the protocol here: the same sessions run, every message is encoded and
decoded, every record is written to a journal before its reply is delivered, and a silo that is lost comes
back from its journal and its workload, which stands for what a silo keeps on disk. Clock, randomness and the
schedule of dropouts are handed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias, cast, get_args

from secagg import wire
from secagg.errors import FaultySilo, MalformedMessage, ParameterError, SecaggError, UnexpectedMessage
from secagg.messages import (
    AdvertiseKeys,
    BaseRequested,
    BoxReport,
    ConsistencyCheck,
    FromSilo,
    MaskedInput,
    PlainInput,
    PlainSum,
    Ready,
    Refused,
    ShareKeys,
    SumOpened,
    Unmasking,
    Voided,
)
from secagg.names import SiloId
from secagg.ranges import check_mapping
from secagg.records import SiloRecord, decode_silo_record, encode_record
from secagg.rounds.coordinator import RoundCoordinator
from secagg.rounds.silo import Participant, refusal
from secagg.session import Aggregate, Outbox

Phase: TypeAlias = Literal[
    "Training", "AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmasking"
]
PHASES: tuple[Phase, ...] = get_args(Phase)
Dropouts: TypeAlias = Mapping[SiloId, Phase]
Frame: TypeAlias = tuple[bytes, memoryview | None]


def phase_of(message: FromSilo) -> str:
    """Return the phase that ``message`` answers."""
    match message:
        case BaseRequested() | Ready():
            return "Training"
        case AdvertiseKeys() | ShareKeys() | MaskedInput() | ConsistencyCheck() | Unmasking() | PlainInput():
            return type(message).__name__
        case BoxReport():
            return "MaskedInput"
        case Refused():
            return "Refused"
        case Voided():
            return "Voided"


def check_dropouts(dropouts: object, silos: Container[SiloId]) -> None:
    """Check that ``dropouts`` maps names among ``silos`` to phases.

    Raises:
        ParameterError: it does not.
    """
    check_mapping("dropouts", dropouts, "silo name -> phase")
    for silo, phase in cast("Mapping[object, object]", dropouts).items():
        if silo not in silos or phase not in PHASES:
            raise ParameterError(
                f"dropouts: {silo!r} at {phase!r}; a silo of this run and one of {', '.join(PHASES)}"
            )


class Clock(Protocol):
    """Time as the driver sees it, in seconds."""

    def now(self) -> float:
        """Return the present."""
        ...

    def wait_until(self, moment: float) -> None:
        """Return when ``moment`` has come."""
        ...


class SimulatedClock:
    """A clock that stands still but when everybody waits; then it jumps to the deadline."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        """Return the present."""
        return self._now

    def wait_until(self, moment: float) -> None:
        """Jump to ``moment``."""
        self._now = max(self._now, moment)


class SimulatedSilo:
    """A silo behind a wire: frames in, frames out, and a journal that outlives a crash.

    Args:
        build: makes the participant from the records of its journal.

    Attributes:
        journal: encoded records, oldest first.
        errors: why the silo left rounds, by its own account.
    """

    def __init__(self, build: Callable[[Iterable[SiloRecord]], Participant]) -> None:
        self._build = build
        self.journal: list[bytes] = []
        self.errors: list[SecaggError] = []
        self._participant = build(())

    def deliver(self, frame: Frame) -> Frame | None:
        """Hand one frame to the silo and return its reply. An error at the silo leaves as its refusal."""
        try:
            step = self._participant.receive(wire.decode_from_coordinator(*frame))
        except UnexpectedMessage:
            return None  # Late or repeated; the state is unchanged and there is nothing to say.
        except SecaggError as error:
            self.errors.append(error)
            return wire.encode(refusal(error))
        self.journal += [encode_record(record) for record in step.records]
        return None if step.output is None else wire.encode(step.output)

    def restart(self) -> None:
        """Crash, and come back from the journal: sessions and their secrets are gone, the workload is not."""
        self._participant = self._build([decode_silo_record(line) for line in self.journal])


@dataclass
class Traffic:
    """What one round moved, per phase: bytes of all silos together, and seconds of the handed-in timer.

    A phase has the name of the reply that it awaits; the last, which awaits none, that of its message.

    Attributes:
        lost: silos that the schedule of dropouts took, and in which phase.
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


def run_round(
    coordinator: RoundCoordinator,
    silos: Mapping[SiloId, SimulatedSilo],
    *,
    dropouts: Dropouts | None = None,
    clock: Clock | None = None,
    timer: Callable[[], float] | None = None,
    watcher: Watcher | None = None,
    tap: Callable[[SiloId, FromSilo], None] | None = None,
) -> tuple[Aggregate, Traffic]:
    """Run one round to its end and return the opened sum.

    Args:
        coordinator: the round, not yet opened.
        silos: every member of the roster.
        dropouts: silo -> the phase in which its reply is lost and it crashes; it is back in the next round.
        clock: decides deadlines; None for simulated time.
        timer: measures, seconds; None measures nothing.
        watcher: told what happens.
        tap: given every message that the coordinator receives.

    Raises:
        RoundAborted, FaultySilo: the sum could not be formed.
        ParameterError: ``dropouts`` names a stranger or an unknown phase.
    """
    return _Round(coordinator, silos, dropouts or {}, clock or SimulatedClock(), timer, watcher, tap).run()


class _Round:
    def __init__(
        self,
        coordinator: RoundCoordinator,
        silos: Mapping[SiloId, SimulatedSilo],
        dropouts: Dropouts,
        clock: Clock,
        timer: Callable[[], float] | None,
        watcher: Watcher | None,
        tap: Callable[[SiloId, FromSilo], None] | None,
    ) -> None:
        check_dropouts(dropouts, silos)
        self._coordinator = coordinator
        self._silos = silos
        self._dropouts = dropouts
        self._clock = clock
        self._timer = timer
        self._watcher = watcher
        self._tap = tap
        self._downlink: deque[tuple[SiloId, Frame]] = deque()
        self._traffic = Traffic()
        self._unawaited = "Training"  # The phase where the coordinator awaits nothing: at the two ends.

    def run(self) -> tuple[Aggregate, Traffic]:
        try:
            with self._measured():
                self._send(self._coordinator.open(self._clock.now()).output)
            while self._coordinator.outcome is None or self._downlink:
                self._deliver_all()
                if self._coordinator.outcome is None:
                    deadline = self._coordinator.deadline
                    if deadline is not None and self._coordinator.waiting:
                        self._clock.wait_until(deadline)
                    self._advance()
            return self._coordinator.outcome, self._traffic
        finally:
            for silo in self._traffic.lost:
                self._silos[silo].restart()

    def _deliver_all(self) -> None:
        """Deliver one frame at a time and take its reply at once: one upload is in flight, never n."""
        while self._downlink:
            silo, frame = self._downlink.popleft()
            if silo in self._traffic.lost:
                continue
            if self._watcher is not None:
                self._watcher.silo_working(silo, self._phase())
            with self._measured():
                reply = self._silos[silo].deliver(frame)
            if reply is not None:
                self._take(silo, reply)
                self._advance()

    def _take(self, silo: SiloId, reply: Frame) -> None:
        try:
            with self._measured():
                message = wire.decode_from_silo(*reply)
        except MalformedMessage as fault:
            self._tell_lost(silo, self._phase())
            self._coordinator.lose(silo, fault=fault)
            return
        phase = phase_of(message)
        if self._drops(silo, message, phase):
            self._traffic.lost[silo] = phase
            if self._watcher is not None:
                self._watcher.silo_lost(silo, phase)
            return
        self._count(self._traffic.bytes_up, phase, reply)
        if self._tap is not None:
            self._tap(silo, message)
        try:
            with self._measured():
                self._send(self._coordinator.receive(silo, message).output)
        except UnexpectedMessage:
            pass  # Enough others were faster: the reply is not needed, and its silo is not lost.
        except FaultySilo as fault:
            self._tell_lost(silo, phase)
            self._coordinator.lose(silo, fault=fault)
            return
        if isinstance(message, Refused | BoxReport):
            self._tell_lost(silo, self._phase())
        elif self._watcher is not None:
            self._watcher.silo_replied(silo, phase)

    def _tell_lost(self, silo: SiloId, phase: str) -> None:
        if self._watcher is not None:
            self._watcher.silo_lost(silo, phase)

    def _drops(self, silo: SiloId, message: FromSilo, phase: str) -> bool:
        if silo not in self._dropouts or isinstance(message, BaseRequested):
            return False
        if isinstance(message, PlainInput):
            # Plain has one phase; a silo lost in any phase up to its input is lost here.
            return PHASES.index(self._dropouts[silo]) <= PHASES.index("MaskedInput")
        return self._dropouts[silo] == phase

    def _advance(self) -> None:
        attempt = self._coordinator.attempt
        with self._measured():
            self._send(self._coordinator.advance(self._clock.now()).output)
        if self._watcher is not None and self._coordinator.attempt != attempt:
            self._watcher.attempt_started(self._coordinator.attempt)

    def _send(self, outbox: Outbox) -> None:
        for silo, message in outbox.items():
            if isinstance(message, SumOpened | PlainSum):
                self._unawaited = type(message).__name__
            frame = wire.encode(message)
            self._count(self._traffic.bytes_down, self._phase(), frame)
            self._downlink.append((silo, frame))

    def _phase(self) -> str:
        return self._coordinator.phase or self._unawaited

    @staticmethod
    def _count(totals: dict[str, int], phase: str, frame: Frame) -> None:
        header, payload = frame
        totals[phase] = totals.get(phase, 0) + len(header) + (len(payload) if payload is not None else 0)

    def _measured(self) -> _Measured:
        return _Measured(self._timer, self._traffic.seconds, self._phase())


class _Measured:
    """Adds the time between entry and exit to the phase in which it was entered."""

    def __init__(self, timer: Callable[[], float] | None, seconds: dict[str, float], phase: str) -> None:
        self._timer = timer
        self._seconds = seconds
        self._phase = phase

    def __enter__(self) -> None:
        if self._timer is not None:
            self._start = self._timer()

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + self._timer() - self._start
