"""Meetings of silos: sealed records of each go to the others, through memory and nowhere else.

A meeting is met when all its parties have joined. When one is lost, it is over for all, and they join anew:
what is kept for that is the silos' matter. The coordinator sees who meets, when, and sizes of records; it has
no key, and nothing that could open one is imported here.

Source: ``docs/wire.md``, "Meetings of silos"; ``docs/decisions/0022-meetings-of-silos.md``.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import structlog

from coordinator.admission import Admission, Context, refuse  # Before grpc: it sets what that reads.

import grpc  # isort: skip

from coordinator.lines import LONGEST_PAUSE, Pace
from secagg.channel.relay import (
    MEETINGS,
    WINDOW,
    FromRelay,
    Join,
    Leave,
    Left,
    Met,
    Missing,
    Record,
    Taken,
    cost,
    decode_from_party,
    encode,
)
from secagg.errors import MalformedMessage
from secagg.names import SiloId
from secagg.roster import Roster

JOIN_SECONDS = 10.0
"""A stream that has not said what it joins by then is closed."""
STREAM_FRAMES = 32
"""What a stream counts for in ``Pace``: a silo opens eight a second."""
MAX_MEETINGS = 32
MAX_MEETINGS_OF_ONE = 4
"""Meetings at a time, all of them and those of one silo."""
MAX_PAIRS = 128
"""Ordered pairs of parties in all meetings; up to ``WINDOW`` is held for each whose reader has stopped."""

log = structlog.get_logger("coordinator")


class Unjoined(Exception):
    """A silo cannot join. The text says why; ``code`` whether it may try again."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(eq=False)
class Seat:
    """One silo's stream in a meeting, and what waits to be written to it.

    Attributes:
        over: set when the stream is to end; ``why`` says how.
    """

    silo: SiloId
    meeting: Meeting
    over: asyncio.Event = field(default_factory=asyncio.Event)
    why: tuple[grpc.StatusCode, str] | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    _news: Missing | Met | None = None
    _taken: Counter[SiloId] = field(default_factory=Counter)
    _records: deque[Record | Left] = field(default_factory=deque)

    def tell(self, news: Missing | Met) -> None:
        """Say how the meeting stands; what was not yet written of that is out of date."""
        self._news = news
        self.wake.set()

    def took(self, party: SiloId, amount: int) -> None:
        """Say that ``party`` has taken so much of this silo's."""
        self._taken[party] += amount
        self.wake.set()

    def put(self, frame: Record | Left) -> None:
        """Queue what comes from another party."""
        self._records.append(frame)
        self.wake.set()

    def end(self, code: grpc.StatusCode, text: str) -> None:
        """End the stream; what waited for it is dropped."""
        self._records.clear()
        self.why = code, text
        self.over.set()

    def next(self) -> FromRelay | None:
        """Return what is to be written next."""
        if self._news is not None:
            news, self._news = self._news, None
            return news
        if self._taken:
            return Taken(*self._taken.popitem())
        return self._records.popleft() if self._records else None


class Meeting:
    """One incarnation of a meeting: it is met once, and over when a party is lost or all have left.

    Attributes:
        name, parties: as who came first gave them.
        seats: of those who are here.
        gone: who left after having said all.
        met: whether all have joined.
    """

    def __init__(self, name: str, parties: tuple[SiloId, ...]) -> None:
        self.name = name
        self.parties = parties
        self.seats: dict[SiloId, Seat] = {}
        self.gone: set[SiloId] = set()
        self.met = False
        self._under_way: Counter[tuple[SiloId, SiloId]] = Counter()  # (from, to) -> cost that is not taken
        self._written: Counter[tuple[SiloId, SiloId]] = (
            Counter()
        )  # The part of it that was taken off the queue.
        self._bytes: Counter[tuple[SiloId, SiloId]] = Counter()

    @property
    def pairs(self) -> int:
        """Ordered pairs of parties."""
        return len(self.parties) * (len(self.parties) - 1)

    def sit(self, silo: SiloId) -> Seat:
        """Give ``silo`` a seat; when all have one, the meeting is met."""
        seat = self.seats[silo] = Seat(silo, self)
        self.met = len(self.seats) == len(self.parties)
        if self.met:
            log.info("silos meet", meeting=self.name, parties=", ".join(self.parties))
        self._tell()
        return seat

    def _tell(self) -> None:
        news = Met() if self.met else Missing(tuple(p for p in self.parties if p not in self.seats))
        for seat in self.seats.values():
            seat.tell(news)

    def take(self, sender: SiloId, frame: Record | Taken) -> None:
        """Take a frame of ``sender``.

        Raises:
            MalformedMessage: it is not due, or for nobody of this meeting, or more than may be under way.
        """
        if not self.met or frame.party == sender or frame.party not in self.parties:
            raise MalformedMessage("a record is for another party of a meeting that is met")
        match frame:
            case Record(party, data):
                self._forward(sender, party, data)
            case Taken(party, amount):
                pair = party, sender
                if amount > self._written[pair]:
                    raise MalformedMessage("more was taken of a party than came from it")
                self._written[pair] -= amount
                self._under_way[pair] -= amount
                if party in self.seats:
                    self.seats[party].took(sender, amount)

    def _forward(self, sender: SiloId, to: SiloId, data: bytes) -> None:
        pair, weight = (sender, to), cost(data)
        if to in self.gone:  # It needs nothing more.
            self.seats[sender].took(to, weight)
            return
        self._under_way[pair] += weight
        if self._under_way[pair] > WINDOW:
            raise MalformedMessage(f"more than {WINDOW} bytes are under way to {to}")
        self._bytes[pair] += len(data)
        self.seats[to].put(Record(sender, data))

    def writing(self, to: SiloId, frame: FromRelay) -> None:
        """Note that ``frame`` is about to be written to the stream of ``to``."""
        if isinstance(frame, Record):
            self._written[frame.party, to] += cost(frame.data)

    def leave(self, seat: Seat, *, said_all: bool) -> None:
        """Take a seat away; if that is a loss, the meeting is over for all."""
        if self.seats.get(seat.silo) is not seat:
            return  # Another stream of that silo has it.
        del self.seats[seat.silo]
        if not self.met:
            self._tell()
        elif said_all:
            self.gone.add(seat.silo)
            for other in self.seats.values():
                rest = self._under_way.pop((other.silo, seat.silo), 0)
                if rest:
                    other.took(seat.silo, rest)
                other.put(Left(seat.silo))
            if not self.seats:
                self._close("all have left")
        else:
            self.end(f"{seat.silo} was lost")

    def end(self, why: str) -> None:
        """End every stream; all may join anew."""
        for seat in self.seats.values():
            seat.end(grpc.StatusCode.ABORTED, f"the meeting {self.name} is over: {why}")
        self.seats.clear()
        self._close(why)

    def _close(self, why: str) -> None:
        for (sender, to), size in sorted(self._bytes.items()):
            log.info("records carried", meeting=self.name, sender=sender, to=to, bytes=size)
        log.info("meeting over", meeting=self.name, parties=", ".join(self.parties), why=why)


class Meetings:
    """All meetings of a federation.

    Guarantees:
        A silo that is no party of a meeting cannot keep its parties from meeting.
        There are never more than ``MAX_MEETINGS``, ``MAX_MEETINGS_OF_ONE`` and ``MAX_PAIRS`` allow.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[str, tuple[SiloId, ...]], Meeting] = {}
        self._all: set[Meeting] = set()  # Also those that some have left and others not yet.

    def join(self, silo: SiloId, name: str, parties: tuple[SiloId, ...]) -> Seat:
        """Seat ``silo``, in the place of an earlier stream of it.

        Raises:
            Unjoined: one of the parties came with other parties, or there are too many meetings.
        """
        self._check_agreed(silo, name, parties)
        meeting = self._open.get((name, parties))
        if meeting is not None and silo in meeting.gone:
            meeting = None  # It said all in that one; this is the next.
        if meeting is not None and silo in meeting.seats:
            old = meeting.seats.pop(silo)
            old.end(grpc.StatusCode.ALREADY_EXISTS, f"another process of {silo} came to the meeting {name}")
            if meeting.met:
                meeting.end(f"another process of {silo} came")
                self._forget(meeting)
                meeting = None
        self._check_room(silo, meeting, parties)
        if meeting is None:
            meeting = self._open[name, parties] = Meeting(name, parties)
            self._all.add(meeting)
        return meeting.sit(silo)

    def _check_agreed(self, silo: SiloId, name: str, parties: tuple[SiloId, ...]) -> None:
        for other in self._all:
            if other.name != name or other.parties == parties or silo in other.gone:
                continue
            # Others may come to meetings of that name as they like; who is waited for here may not.
            if any(party in other.seats for party in parties if party != silo):
                raise Unjoined(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"parties: the meeting {name} is one of {', '.join(other.parties)}, and {silo} came to "
                    f"one of {', '.join(parties)}; give the same silos in the same order everywhere, or "
                    "take another name",
                )

    def _check_room(self, silo: SiloId, meeting: Meeting | None, parties: tuple[SiloId, ...]) -> None:
        own = sum(silo in other.seats for other in self._all)
        if own >= MAX_MEETINGS_OF_ONE or (meeting is None and len(self._all) >= MAX_MEETINGS):
            raise Unjoined(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{silo} is in {own} meetings, and there are {len(self._all)} in all; at most "
                f"{MAX_MEETINGS_OF_ONE} of one silo and {MAX_MEETINGS} in all are held at a time",
            )
        # Only what is met can hold records, and only all parties together can make that.
        if meeting is not None and len(meeting.seats) == len(parties) - 1:
            pairs = meeting.pairs + sum(other.pairs for other in self._all if other.met)
            if pairs > MAX_PAIRS:
                raise Unjoined(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"all would meet, and {pairs} pairs of silos would speak; at most {MAX_PAIRS} do",
                )

    def leave(self, seat: Seat, *, said_all: bool) -> None:
        """Take a seat away; see ``Meeting.leave``."""
        seat.meeting.leave(seat, said_all=said_all)
        if not seat.meeting.seats:
            self._forget(seat.meeting)

    def _forget(self, meeting: Meeting) -> None:
        self._all.discard(meeting)
        if self._open.get((meeting.name, meeting.parties)) is meeting:
            del self._open[meeting.name, meeting.parties]


class MeetingService:
    """Streams of silos that meet.

    Args:
        roster: whose silos may.
        revoked: fingerprints of certificates that are no longer accepted.

    Guarantees:
        A silo is who its certificate says, whatever it sends.
        A stream joins only after versions and rosters were compared.
        What a silo sends costs memory only up to ``WINDOW`` for each other party.
    """

    def __init__(self, roster: Roster, *, revoked: Collection[str] = ()) -> None:
        self._roster = roster
        self._admission = Admission(roster, revoked=revoked)
        self._meetings = Meetings()
        self._paces: dict[SiloId, Pace] = {silo: Pace() for silo in roster.silos}

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """Return what a server is given."""
        join = grpc.stream_stream_rpc_method_handler(self.join)
        return grpc.method_handlers_generic_handler(MEETINGS, {"Join": join})

    async def join(self, _requests: object, context: Context) -> None:
        """Serve one stream until its silo leaves, or the meeting is over."""
        silo = await self._admission.silo(context)
        pause = self._paces[silo].spend(STREAM_FRAMES, asyncio.get_running_loop().time())
        await asyncio.sleep(pause)
        if pause >= LONGEST_PAUSE:
            await refuse(context, grpc.StatusCode.UNAVAILABLE, "it opens too many streams")
        join = await self._join(silo, context)
        # Before any write: one that is cancelled while it sends these leaves a stream that never ends.
        await context.send_initial_metadata(())
        try:
            seat = self._meetings.join(silo, join.meeting, join.parties)
        except Unjoined as error:
            await refuse(context, error.code, error)
        log.debug("silo joined", silo=silo, meeting=join.meeting, version=join.version)
        reading = asyncio.create_task(_read(seat, context))
        writing = asyncio.create_task(_write(seat, context))
        over = asyncio.create_task(seat.over.wait())
        tasks = reading, writing, over
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            said_all, written, _ = await asyncio.gather(*tasks, return_exceptions=True)
            self._meetings.leave(seat, said_all=said_all is True)
        if seat.why is not None:
            await refuse(context, *seat.why)
        if isinstance(said_all, MalformedMessage):
            log.warning("silo left the protocol", silo=silo, meeting=join.meeting, fault=str(said_all))
            await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, said_all)
        for failed in (said_all, written):
            # A connection that broke is nobody's mistake; anything else is one of this program.
            if isinstance(failed, Exception) and not isinstance(failed, grpc.aio.BaseError):
                raise failed

    async def _join(self, silo: SiloId, context: Context) -> Join:
        try:
            async with asyncio.timeout(JOIN_SECONDS):
                data = await context.read()
            join = decode_from_party(data if isinstance(data, bytes) else b"")
        except TimeoutError:
            await refuse(context, grpc.StatusCode.DEADLINE_EXCEEDED, "the stream said nothing")
        except MalformedMessage as fault:
            await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, fault)
        if not isinstance(join, Join):
            await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "a stream begins with Join")
        await self._admission.check(
            silo, context, protocol=join.protocol, version=join.version, roster=join.roster
        )
        named = set(join.parties)
        if silo not in named or len(named) < len(join.parties) or not all(p in self._roster for p in named):
            await refuse(
                context,
                grpc.StatusCode.FAILED_PRECONDITION,
                "parties: they are silos of the roster, each once, and the one that joins is one of them",
            )
        return join


async def _read(seat: Seat, context: Context) -> bool:
    """Read a stream to its end; return whether the silo said that it needs nothing more."""
    while True:
        data = await context.read()
        if not isinstance(data, bytes):
            return False
        match decode_from_party(data):
            case Leave():
                return True
            case Record() | Taken() as frame:
                seat.meeting.take(seat.silo, frame)
            case Join():
                raise MalformedMessage("a stream says Join once")


async def _write(seat: Seat, context: Context) -> None:
    while True:
        seat.wake.clear()
        frame = seat.next()
        if frame is None:
            await seat.wake.wait()
        else:
            seat.meeting.writing(seat.silo, frame)  # Before: who reads may be faster than this task.
            await context.write(encode(frame))
