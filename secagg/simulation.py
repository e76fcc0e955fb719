"""Drive whole rounds in memory, over real wire bytes, with real crashes of silos.

There is no second implementation of the protocol here: the same sessions run, every message is encoded and
decoded, every record is written to a journal before its reply is delivered, and a silo that is lost comes
back from its journal and its workload, which stands for what a silo keeps on disk. Clock, randomness and the
schedule of dropouts are handed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Protocol, TypeAlias, cast

from secagg.errors import ParameterError, SecaggError
from secagg.messages import BaseRequested, BaseSealed, BaseWanted, FromSilo
from secagg.names import SiloId
from secagg.payload import Frame
from secagg.ranges import check_mapping
from secagg.records import SiloRecord, decode_silo_record, encode_record
from secagg.rounds.coordinator import RoundCoordinator
from secagg.rounds.driver import PHASES, Phase, RoundDriver, Traffic, Watcher, phase_of, reaches
from secagg.rounds.silo import OpenedSum, Participant, answer
from secagg.session import Aggregate, SealedSum
from secagg.terms import training_digest

Dropouts: TypeAlias = Mapping[SiloId, Phase]


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
        self._kept: OpenedSum | None = None

    def opened(self, training: bytes) -> Aggregate | None:
        """Return the sum of terms with this digest, if this silo opened it last, as no coordinator can."""
        opened = self._participant.opened or self._kept
        return opened.aggregate if opened is not None and opened.training == training else None

    def deliver(self, frame: Frame) -> Frame | None:
        """Hand one frame to the silo and return its reply. An error at the silo leaves as its refusal."""
        reply, error = answer(self._participant, frame, self._sync)
        if error is not None:
            self.errors.append(error)
        return reply

    def _sync(self, records: Sequence[SiloRecord]) -> None:
        self.journal += [encode_record(record) for record in records]

    def restart(self) -> None:
        """Crash, and come back from the journal: sessions and their secrets are gone, the workload is not."""
        self._kept = self._participant.opened or self._kept
        self._participant = self._build([decode_silo_record(line) for line in self.journal])


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
    driver = RoundDriver(coordinator, timer=timer, watcher=watcher, tap=tap)
    return drive(driver, silos, dropouts=dropouts, clock=clock), driver.traffic


def drive(
    driver: RoundDriver,
    silos: Mapping[SiloId, SimulatedSilo],
    *,
    dropouts: Dropouts | None = None,
    clock: Clock | None = None,
) -> Aggregate:
    """Run the round of ``driver`` to its end and return the opened sum; arguments as ``run_round``."""
    return _Round(driver, silos, dropouts or {}, clock or SimulatedClock()).run()


class _Round:
    def __init__(
        self,
        driver: RoundDriver,
        silos: Mapping[SiloId, SimulatedSilo],
        dropouts: Dropouts,
        clock: Clock,
    ) -> None:
        check_dropouts(dropouts, silos)
        self._driver = driver
        self._silos = silos
        self._dropouts = dropouts
        self._clock = clock
        self._downlink: deque[tuple[SiloId, Frame]] = deque()
        self._lost: set[SiloId] = set()

    def run(self) -> Aggregate:
        """Return the sum: as the coordinator opened it, or as a silo did where it cannot."""
        try:
            self._downlink += self._driver.open(self._clock.now())
            while self._driver.outcome is None or self._downlink:
                self._deliver_all()
                if self._driver.outcome is None:
                    moments = (self._driver.deadline, self._driver.alarm)
                    self._clock.wait_until(
                        min((m for m in moments if m is not None), default=self._clock.now())
                    )
                    self._downlink += self._driver.advance(self._clock.now())
            outcome = self._driver.outcome
            return self._learned(outcome) if isinstance(outcome, SealedSum) else outcome
        finally:
            for silo in self._lost:
                self._silos[silo].restart()

    def _deliver_all(self) -> None:
        """Deliver one frame at a time and take its reply at once: one upload is in flight, never n."""
        while self._downlink:
            silo, frame = self._downlink.popleft()
            if silo in self._lost:
                continue
            self._driver.working(silo)
            with self._driver.measured():
                reply = self._silos[silo].deliver(frame)
            if reply is not None:
                self._take(silo, reply)
                if self._driver.outcome is None:
                    self._downlink += self._driver.advance(self._clock.now())

    def _take(self, silo: SiloId, reply: Frame) -> None:
        message = self._driver.read(silo, reply)
        if message is None:
            return
        phase = phase_of(message)
        if self._drops(silo, message, phase):
            self._lost.add(silo)
            self._driver.left(silo, phase)
            return
        self._downlink += self._driver.receive(silo, message, reply)

    def _learned(self, outcome: SealedSum) -> Aggregate:
        training = training_digest(self._driver.coordinator.terms)
        opened = (self._silos[silo].opened(training) for silo in outcome.survivors)
        return next(aggregate for aggregate in opened if aggregate is not None)

    def _drops(self, silo: SiloId, message: FromSilo, phase: str) -> bool:
        if silo not in self._dropouts or isinstance(message, BaseRequested | BaseWanted | BaseSealed):
            return False
        # In the phase named, or where the scheme has none of that name, in the one that comes next.
        return reaches(phase, self._dropouts[silo])
