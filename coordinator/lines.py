"""One line to each silo of the roster, kept across streams, and the box in which a run finds what arrived.

A stream may break and come back; the line numbers go on, so a run does not notice. A silo that restarts, or
stays away for longer than ``GRACE``, is reported to the run, which then waits for it no longer.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from coordinator.on_disk import Spooled
from secagg.errors import EnvironmentFault, MalformedMessage, ProtocolError
from secagg.link.frames import BOOT_SIZE, Begin, Held, Hello, Piece
from secagg.link.line import Incoming, InMemory, Outgoing, Store, Unwanted
from secagg.names import SiloId
from secagg.payload import Frame
from secagg.roster import Roster

GRACE = 5.0
"""Seconds that a silo may be away before a run goes on without it."""
QUANTUM = 1024 * 1024
"""Bytes of a payload that count as progress."""
MAX_UNREAD = 8
"""Messages of one silo that wait for a run before its stream is read no further; one, if it has a payload."""
MAX_PENDING = 64
MAX_PENDING_PAYLOADS = 3
"""What may wait for one silo, away or not, before its line starts over: messages, and payloads among them."""
IDLE_FRAMES = 256
"""Frames a second that move nothing, after which a silo's streams are read no faster than that."""
IDLE_BYTES = 64 * 1024
"""Bytes that make a frame count once more."""
LONGEST_PAUSE = 0.5
"""Seconds; more is not held against a silo."""


@dataclass(frozen=True)
class Arrived:
    """A whole message of ``silo``."""

    silo: SiloId
    frame: Frame = field(repr=False)


@dataclass(frozen=True)
class Joined:
    """A process of ``silo`` that this coordinator does not know: what was under way with it is gone."""

    silo: SiloId


@dataclass(frozen=True)
class Gone:
    """``silo`` has been away for ``GRACE``."""

    silo: SiloId


@dataclass(frozen=True)
class Broken:
    """The bytes of ``silo`` are not messages of the protocol."""

    silo: SiloId
    fault: ProtocolError


@dataclass(frozen=True)
class Unkept:
    """An upload cannot be kept here: the disk is full, say. No silo is at fault."""

    fault: EnvironmentFault


Event: TypeAlias = Arrived | Joined | Gone | Broken | Unkept


class Pace:
    """How fast one silo's streams are read while they move nothing, however many it opens.

    Guarantees:
        Who waits as long as it says takes no more than ``IDLE_FRAMES`` * (s + 1) in any s seconds.
    """

    def __init__(self) -> None:
        self._until = 0.0

    def spend(self, frames: float, now: float) -> float:
        """Count ``frames`` and return for how many seconds nothing more should be read."""
        until = max(self._until, now - 1.0) + frames / IDLE_FRAMES
        self._until = min(until, now + LONGEST_PAUSE)
        return max(0.0, self._until - now)


class Line:
    """What this process and one silo's process have said to each other, whatever the stream.

    Attributes:
        silo: whose line it is.
        boot: of the silo's process; None before the first stream.
        stream: number of the present stream; a later one displaces it.
        connected: whether a stream is open.
        unread: messages in the box, one with a payload for ``MAX_UNREAD``; ``room`` is set while there may be
            more.
        pace: of its streams.
        moved: when the last ``QUANTUM`` of a payload went either way, on the loop's clock.
    """

    def __init__(self, silo: SiloId, store: Callable[[int], Store]) -> None:
        self.silo = silo
        self.boot: bytes | None = None
        self.stream = 0
        self.connected = False
        self.moved = 0.0
        self.outgoing = Outgoing()
        self.incoming = Incoming(store)
        self.wake = asyncio.Event()
        self.room = asyncio.Event()
        self.room.set()
        self.unread = 0
        self.pace = Pace()
        self._store = store
        self._bytes = 0

    def attach(self, hello: Hello, own: bytes) -> bool:
        """Open a stream on this line; return whether it goes on from an earlier one.

        Raises:
            MalformedMessage: the silo claims to hold what was never sent; the line is unchanged.
        """
        resumed = hello.boot == self.boot and hello.peer == own
        if resumed:
            self.outgoing.resume(hello.held)
        else:
            self.incoming.close()
            self.outgoing, self.incoming = Outgoing(), Incoming(self._store)
            self.boot = hello.boot
        self.stream += 1
        self.connected = True
        self.wake.set()
        return resumed

    def start_over(self) -> None:
        """End the present stream; the next one is that of a silo that is not known."""
        self.incoming.close()
        self.outgoing, self.incoming = Outgoing(), Incoming(self._store)
        self.boot, self.connected = None, False
        self.stream += 1
        self.wake.set()
        self.room.set()

    def count(self, frame: Begin | Piece, now: float) -> None:
        """Note progress."""
        if isinstance(frame, Piece):
            self._bytes += len(frame.data)
            if self._bytes >= QUANTUM:
                self._bytes, self.moved = 0, now


class Lines:
    """The lines of one coordinator's process.

    Args:
        roster: whose lines.
        spool: folder for payloads under way.

    Attributes:
        boot: of this process.
        limit: bytes that a payload from a silo may have now; 0 while no run expects one.

    Guarantees:
        Of what a silo announces beyond ``limit`` bytes none is kept. It is cut off for it, unless an earlier
        round expected so much: then it is only late.
        What arrives while no run listens is dropped.
        A silo that takes nothing costs a bounded amount of memory.
    """

    def __init__(self, roster: Roster, spool: Path) -> None:
        self.boot = os.urandom(BOOT_SIZE)
        self.limit = 0
        self.roster = roster
        self._late = 0  # Bytes that an upload of an earlier round may have.
        self._spool = spool
        self._lines = {silo: Line(silo, self._new_store) for silo in roster.silos}
        self._box: asyncio.Queue[Event] | None = None
        self._changed = asyncio.Event()
        self._departures: dict[SiloId, asyncio.TimerHandle] = {}

    def __getitem__(self, silo: SiloId) -> Line:
        return self._lines[silo]

    @property
    def connected(self) -> frozenset[SiloId]:
        """Silos whose stream is open."""
        return frozenset(silo for silo, line in self._lines.items() if line.connected)

    @property
    def present(self) -> frozenset[SiloId]:
        """Silos that are connected, or were a moment ago."""
        return self.connected | self._departures.keys()

    # --- for a run -----------------------------------------------------------------------------------------

    def listen(self) -> asyncio.Queue[Event]:
        """Return a fresh box for what arrives from now on; the one before is no longer filled."""
        self.deafen()
        self._box = asyncio.Queue()
        return self._box

    def deafen(self) -> None:
        """Drop what arrives from now on."""
        self._box = None
        self._late, self.limit = max(self._late, self.limit), 0
        for line in self._lines.values():
            line.unread = 0
            line.room.set()

    def send(self, silo: SiloId, frame: Frame) -> None:
        """Queue a message; it leaves when the silo's stream takes it.

        If too much waits already, it is dropped with all the rest, and the silo is one that just joined when
        it is back.
        """
        line = self._lines[silo]
        line.outgoing.put(frame)
        line.wake.set()
        if line.outgoing.pending > MAX_PENDING or line.outgoing.payloads > MAX_PENDING_PAYLOADS:
            if line.connected:
                self.detach(silo, line.stream)
            line.start_over()

    def read(self, event: Arrived) -> None:
        """Say that a run is done with a message: its silo may send another."""
        line = self._lines[event.silo]
        line.unread = max(0, line.unread - _weight(event.frame))
        if line.unread < MAX_UNREAD:
            line.room.set()

    async def flushed(self, seconds: float, *, to: Collection[SiloId] | None = None) -> None:
        """Return when those of ``to`` (None: all) that are connected have all that was sent to them.

        No later than after ``seconds``.
        """
        awaited = frozenset(self.roster.silos if to is None else to)
        try:
            async with asyncio.timeout(seconds):
                while any(self._lines[silo].outgoing.pending for silo in self.connected & awaited):
                    await self.change()
        except TimeoutError:
            pass

    async def change(self) -> None:
        """Return when a silo came, went, or acknowledged something."""
        self._changed.clear()
        await self._changed.wait()

    def close(self) -> None:
        """Give up what is under way. A stream that has not ended yet, as the server stops, takes no more."""
        for departure in self._departures.values():
            departure.cancel()
        self._departures.clear()
        for line in self._lines.values():
            line.start_over()

    # --- for the service -----------------------------------------------------------------------------------

    def attach(self, silo: SiloId, hello: Hello) -> bool:
        """Open a stream; see ``Line.attach``."""
        line = self._lines[silo]
        known = line.attach(hello, self.boot)
        departure = self._departures.pop(silo, None)
        if departure is not None:
            departure.cancel()
        if not known:
            self._tell(Joined(silo))
        self._changed.set()
        return known

    def detach(self, silo: SiloId, stream: int) -> None:
        """Close a stream, unless a later one displaced it."""
        line = self._lines[silo]
        if line.stream != stream:
            return
        line.connected = False
        loop = asyncio.get_running_loop()
        self._departures[silo] = loop.call_later(GRACE, self._depart, silo)
        self._changed.set()

    def arrived(self, silo: SiloId, frame: Frame) -> None:
        """Put a whole message into the box; ``Line.room`` tells whether more may be read."""
        if self._box is not None:
            line = self._lines[silo]
            line.unread += _weight(frame)
            if line.unread >= MAX_UNREAD:
                line.room.clear()
            self._tell(Arrived(silo, frame))

    def acknowledged(self, silo: SiloId, number: int) -> None:
        """Take an acknowledgement of ``silo``.

        Raises:
            MalformedMessage: of what was not sent.
        """
        self._lines[silo].outgoing.acknowledge(number)
        self._changed.set()

    def broken(self, silo: SiloId, fault: ProtocolError) -> None:
        """Tell the run that ``silo`` left the protocol."""
        self._tell(Broken(silo, fault))

    def unkept(self, fault: EnvironmentFault) -> None:
        """Tell the run that an upload cannot be kept."""
        self._tell(Unkept(fault))

    def held(self, silo: SiloId) -> Held:
        """Return what is here of the silo's messages."""
        return self._lines[silo].incoming.held

    def _depart(self, silo: SiloId) -> None:
        self._departures.pop(silo, None)
        self._tell(Gone(silo))
        self._changed.set()

    def _tell(self, event: Event) -> None:
        if self._box is not None:
            self._box.put_nowait(event)

    def _new_store(self, size: int) -> Store:
        if size <= self.limit:
            return Spooled(self._spool) if size > QUANTUM else InMemory(size)
        if size <= self._late:
            return Unwanted()  # Its silo was too slow for an earlier round; nobody is at fault.
        raise MalformedMessage(f"a payload of {size} bytes was announced; {self.limit} are taken now")


def _weight(frame: Frame) -> int:
    """Return how much of a silo's room a message takes in the box."""
    return MAX_UNREAD if frame[1] else 1
