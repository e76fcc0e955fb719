"""Drive one round over the silos' lines: the same driver as the simulation's, with real time around it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from coordinator.lines import QUANTUM, Arrived, Broken, Event, Gone, Joined, Lines, Unkept
from secagg.names import SiloId
from secagg.rounds.driver import Frames, RoundDriver
from secagg.session import Aggregate, SealedSum

FLUSH_SECONDS = 30.0
"""How long a round that was opened waits for silos to take the sum."""


async def run_round(
    driver: RoundDriver,
    lines: Lines,
    *,
    seconds: float,
    keep: Callable[[Aggregate | SealedSum], Awaitable[None]] | None = None,
    short: Callable[[frozenset[SiloId], int, float], None] | None = None,
) -> Aggregate | SealedSum:
    """Run one round to its end.

    Args:
        driver: around a round that is not yet opened.
        lines: of its roster.
        seconds: of a phase; a silo whose bytes move is awaited so long after the last ``QUANTUM``.
        keep: puts the opened sum where it survives a crash; nobody is told of it before.
        short: told, when too few are left to train, who was lost and is awaited, how many silos there are,
            and for how many seconds.

    Returns:
        The opened sum, when every connected silo that is in it has taken it, or ``FLUSH_SECONDS`` later.

    Raises:
        RoundAborted, FaultySilo: the sum could not be formed.
        EnvironmentFault: an upload, or what ``keep`` was given, could not be kept here.

    Guarantees:
        Driving, adding and opening never hold up the event loop.
        A sum that was not kept is not announced.
    """
    return await _Round(driver, lines, seconds, keep, short).run()


class _Round:
    def __init__(
        self,
        driver: RoundDriver,
        lines: Lines,
        seconds: float,
        keep: Callable[[Aggregate | SealedSum], Awaitable[None]] | None,
        short: Callable[[frozenset[SiloId], int, float], None] | None,
    ) -> None:
        self._driver = driver
        self._lines = lines
        self._seconds = seconds
        self._keep = keep
        self._short = short
        self._recalled: frozenset[SiloId] = frozenset()
        self._loop = asyncio.get_running_loop()
        self._phase: tuple[int, str] | None = None
        self._deferred = 0

    async def run(self) -> Aggregate | SealedSum:
        box = self._lines.listen()
        self._lines.limit = self._driver.coordinator.upload_size
        try:
            self._send(await self._do(self._driver.open, self._loop.time()))
            for silo in frozenset(self._lines.roster.silos) - self._lines.present:
                self._driver.lose(silo)
            while (outcome := self._driver.outcome) is None:
                await self._take(await self._next(box))  # No name outlives it: an upload is freed when added.
                self._tell_short()
                frames = await self._do(self._driver.advance, self._loop.time())
                if self._driver.outcome is not None and self._keep is not None:
                    await self._keep(self._driver.outcome)
                self._send(frames)
            self._lines.deafen()  # So that whoever says more than there is room for is still read.
            with self._driver.measured():
                # Who is not in the sum may take nothing, so as to hold everybody up.
                await self._lines.flushed(FLUSH_SECONDS, to=outcome.survivors)
            return outcome
        finally:
            self._lines.deafen()

    async def _next(self, box: asyncio.Queue[Event]) -> Event | None:
        """Return what happens next, or None when it is time to advance without."""
        with self._driver.measured():
            return await self._event(box)

    async def _event(self, box: asyncio.Queue[Event]) -> Event | None:
        while True:
            deadline, alarm = self._driver.deadline, self._driver.alarm
            moments = [moment for moment in (deadline, alarm) if moment is not None]
            if not moments:
                return await box.get()
            try:
                async with asyncio.timeout_at(min(moments)):
                    return await box.get()
            except TimeoutError:
                if deadline is None or (alarm is not None and alarm <= deadline):
                    return None
                moved = max((self._lines[silo].moved for silo in self._driver.waiting), default=0.0)
                if moved + self._seconds <= deadline or not self._may_defer():
                    return None
                self._driver.defer(moved + self._seconds)  # A slow silo is not a lost one.

    def _may_defer(self) -> bool:
        """Whether a silo may move more in this phase: no more than there is for it."""
        phase = self._driver.coordinator.attempt, self._driver.phase
        self._deferred = self._deferred + 1 if phase == self._phase else 1
        self._phase = phase
        return self._deferred <= self._driver.coordinator.phase_size // QUANTUM + 1

    async def _take(self, event: Event | None) -> None:
        match event:
            case None:
                pass
            case Arrived(silo, frame):
                self._send(await self._do(self._driver.take, silo, frame))
                self._lines.read(event)
            case Joined(silo):
                self._send(self._driver.lose(silo))  # Its session ended with its process.
                self._send(self._driver.invite(silo))
            case Gone(silo):
                self._send(self._driver.lose(silo))
            case Broken(silo, fault):
                self._send(self._driver.lose(silo, fault=fault))
            case Unkept(fault):
                raise fault

    def _tell_short(self) -> None:
        before, self._recalled = self._recalled, self._driver.coordinator.recalled
        deadline = self._driver.deadline
        if self._short is not None and deadline is not None and self._recalled - before:
            self._short(self._recalled, self._driver.coordinator.here, deadline - self._loop.time())

    def _send(self, frames: Frames) -> None:
        for silo, frame in frames:
            self._driver.working(silo)
            self._lines.send(silo, frame)

    async def _do(self, step: Callable[..., Frames], *arguments: object) -> Frames:
        """Run a step in a thread: one that adds or opens takes a tenth of a second for every 10^7 entries."""
        return await asyncio.to_thread(step, *arguments)
