"""An observer that kills a hospital's process in the middle of a round, and starts it again later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from examples.processes import Processes
from secagg.learning.progress import Observer, State
from secagg.names import SiloId
from secagg.report import RoundReport


@dataclass(eq=False)
class Killing:
    """An observer that passes everything on, and kills a hospital's process when it works in a phase.

    Attributes:
        observer: who is told.
        processes: of the hospitals.
        victim: who is killed.
        at: round and phase in which it is. It is started again when a later round begins.
        killed: whether it was.
    """

    observer: Observer
    processes: Processes
    victim: SiloId
    at: tuple[int, str]
    killed: bool = False
    _round: int = field(default=0, init=False)
    _back: bool = field(default=False, init=False)

    def __enter__(self) -> Self:
        self.observer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.observer.__exit__(kind, error, trace)

    def run_started(self, silos: Sequence[SiloId], phases: Sequence[str], *, rounds: int) -> None:
        """Pass it on."""
        self.observer.run_started(silos, phases, rounds=rounds)

    def round_started(self, round_number: int, *, attempt: int = 1) -> None:
        """Pass it on, and start the victim again."""
        if self.killed and not self._back and round_number > self.at[0]:
            self._back = True
            self.processes.start(self.victim)
        self._round = round_number
        self.observer.round_started(round_number, attempt=attempt)

    def silo_phase(self, silo: SiloId, phase: str, state: State) -> None:
        """Pass it on, and kill the victim when its moment has come."""
        if not self.killed and (self._round, phase, silo, state) == (*self.at, self.victim, "working"):
            self.processes.kill(self.victim)
            self.killed = True
        self.observer.silo_phase(silo, phase, state)

    def round_finished(self, report: RoundReport, metrics: Mapping[str, float]) -> None:
        """Pass it on."""
        self.observer.round_finished(report, metrics)
