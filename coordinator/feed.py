"""What happens in a run, for whoever watches, however late: the opened sums, and how the round stands.

An event replaces an earlier one of the same place (one silo's phase, one wait), so a feed grows with rounds
and never with time. It names silos and phases and has figures of opened sums only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable, Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from coordinator.failures import Failed
from coordinator.store import State
from secagg.learning.history import Record
from secagg.learning.progress import Silent
from secagg.learning.progress import State as PhaseState
from secagg.names import SiloId
from secagg.report import RoundReport


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shape of every event."""


class RunStarted(Event, frozen=True, tag=True):
    """First: what is to be watched. ``rounds`` are those of training."""

    run: str
    name: str
    silos: tuple[SiloId, ...]
    phases: tuple[str, ...]
    rounds: int


class Waiting(Event, frozen=True, tag=True):
    """The run waits for ``missing``: ``have`` silos are there, ``need`` are enough.

    ``since`` and ``until`` are seconds of the epoch; with a quorum the run goes on at ``until``, without one
    it halts then.
    """

    missing: tuple[SiloId, ...]
    have: int
    need: int
    since: float
    until: float


class RoundStarted(Event, frozen=True, tag=True):
    """An attempt of round ``round`` begins."""

    round: int
    attempt: int


class SiloPhase(Event, frozen=True, tag=True):
    """``silo`` entered, finished or was lost in a phase."""

    silo: SiloId
    phase: str
    state: PhaseState


class RoundFinished(Event, frozen=True, tag=True):
    """A sum was opened."""

    record: Record


class Ended(Event, frozen=True, tag=True):
    """Last: the verdict. ``model`` and ``card`` are paths at the coordinator; None if there is no model."""

    state: State
    exit: int
    text: str
    failure: Failed | None = None
    model: str | None = None
    card: str | None = None


AnyEvent: TypeAlias = RunStarted | Waiting | RoundStarted | SiloPhase | RoundFinished | Ended
Place: TypeAlias = Literal["round", "wait", "end"] | tuple[SiloId, str]


class Feed(Silent):
    """The events of one run; an ``Observer``, which may be told from any thread.

    Args:
        started: the first event.
        records: of the rounds before.

    Guarantees:
        Every watcher sees ``started``, each sum from where it likes, and the end, in order.
    """

    def __init__(self, started: RunStarted, records: Sequence[Record] = ()) -> None:
        self._loop = asyncio.get_running_loop()
        self._started = started
        self._finished = [RoundFinished(record) for record in records]
        self._present: dict[Hashable, tuple[int, AnyEvent]] = {}
        self._count = 0
        self._changed = asyncio.Event()

    async def follow(self, seen: int = 0) -> AsyncIterator[AnyEvent]:
        """Yield what happened and what happens, to the end.

        Args:
            seen: opened sums that the watcher knows already.
        """
        yield self._started
        finished, begun, last = min(seen, len(self._finished)), 0, 0
        while True:
            changed = self._changed
            if finished < len(self._finished):
                event = self._finished[finished]
                finished += 1
                if (number := event.record.report.round) != begun:
                    yield RoundStarted(number, event.record.report.attempts)
                yield event
                continue
            following = next((new for new in self._present.values() if new[0] > last), None)
            if following is None:
                await changed.wait()
                continue
            last, present = following
            if isinstance(present, RoundStarted):
                begun = present.round
            yield present
            if isinstance(present, Ended):
                return

    # --- told by the run -----------------------------------------------------------------------------------

    def round_started(self, round_number: int, *, attempt: int = 1) -> None:
        """See ``Observer``."""
        self._loop.call_soon_threadsafe(self._begin, RoundStarted(round_number, attempt))

    def silo_phase(self, silo: SiloId, phase: str, state: PhaseState) -> None:
        """See ``Observer``."""
        self._loop.call_soon_threadsafe(self._put, (silo, phase), SiloPhase(silo, phase, state))

    def round_finished(self, report: RoundReport, metrics: Mapping[str, float]) -> None:
        """See ``Observer``."""
        record = Record(report.round - 1, metrics, report)
        self._loop.call_soon_threadsafe(self._finish, RoundFinished(record))

    def waiting(self, event: Waiting) -> None:
        """Tell that the run waits."""
        self._loop.call_soon_threadsafe(self._put, "wait", event)

    def ended(self, event: Ended) -> None:
        """Tell how the run ended; nothing follows."""
        self._loop.call_soon_threadsafe(self._put, "end", event)

    # --- in the loop ---------------------------------------------------------------------------------------

    def _begin(self, event: RoundStarted) -> None:
        self._present.clear()
        self._put("round", event)

    def _finish(self, event: RoundFinished) -> None:
        self._present.clear()
        self._finished.append(event)
        self._wake()

    def _put(self, place: Place, event: AnyEvent) -> None:
        self._count += 1
        self._present.pop(place, None)  # The newest stands last.
        self._present[place] = self._count, event
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
