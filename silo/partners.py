"""The partners of a silo in one incarnation of a meeting: a channel to each, over one stream.

Frames of each partner come in the order in which it sent them, and no partner's slowness holds up another:
what is said waits here until its receiver takes it. What arrives is taken off the stream at once, and
acknowledged when there is room for more of it.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, NoReturn, TypeAlias, TypeVar

from secagg.channel.end import Arrived, Channel, Event, Reply
from secagg.channel.messages import Begin, Finished, Piece, Stopped
from secagg.channel.pieces import cut
from secagg.channel.relay import (
    OVERHEAD,
    RESERVE,
    WINDOW,
    Leave,
    Left,
    Met,
    Missing,
    Record,
    Taken,
    cost,
    decode_from_relay,
    encode,
)
from secagg.errors import (
    FaultyCoordinator,
    FaultySilo,
    FaultySiloOrCoordinator,
    MalformedMessage,
    PartnerStopped,
    PolicyRefused,
    ProtocolError,
    SecaggError,
)
from secagg.names import SiloId
from secagg.payload import Frame

T = TypeVar("T")

Stream: TypeAlias = Any  # grpc.aio.StreamStreamCall over bytes, which its stubs do not describe.
Moved: TypeAlias = Callable[[SiloId, int, int], None]
"""Told of a partner, and bytes sent to it and received from it."""

UNREAD = WINDOW
"""Bytes of whole messages of one partner that wait for the side, before it may send no more of them."""
ROOM = 128
"""What a message takes around the bytes of a frame, sealed."""
FAREWELL = 5.0
"""Seconds in which partners are told that this silo stops."""
GRACE = 2.0
"""Seconds between the news that a partner is gone, or stopped over another or by a rule, and what is made of
it: a word that says more may be under way, or this side's own."""

_RULE = re.compile(r"[A-Za-z0-9 ._-]{1,64}")


class Lost(Exception):
    """A partner, the coordinator or the stream is lost; all may meet again."""


async def read(stream: Stream) -> bytes:
    """Return the next frame; InvalidStateError at the end of the stream."""
    data = await stream.read()
    if not isinstance(data, bytes):
        raise asyncio.InvalidStateError
    return data


class Partner:
    """One partner: what waits for it, and what of it waits for the side.

    Args:
        name: of the partner.
        channel: to it.

    Attributes:
        told: the last word was said to it.
        finished: its side ended well.
        gone: it stopped, or left.
        faulty: what came in its name is not read any further.
    """

    def __init__(self, name: SiloId, channel: Channel) -> None:
        self.name = name
        self.channel = channel
        self.told = self.finished = self.gone = self.faulty = False
        self._handshake = deque([channel.first])
        self._outbox: deque[Frame] = deque()
        self._parts: Iterator[Begin | Piece] = iter(())
        self._part: Begin | Piece | None = None
        self._last: Finished | Stopped | None = None
        self._under_way = 0
        self._inbox: deque[Frame] = deque()
        self._came = asyncio.Event()
        self._unread = 0
        self._untold = 0

    @property
    def reached(self) -> bool:
        """Whether there is nothing more to tell it, or no way to."""
        return self.told or self.gone or (self.faulty and not self.channel.open)

    # --- to it ---------------------------------------------------------------------------------------------

    def reply(self, data: bytes) -> None:
        """Queue a message of the handshake."""
        self._handshake.append(data)

    def say(self, frame: Frame) -> None:
        """Queue a frame."""
        self._outbox.append(frame)

    def end(self, last: Finished | Stopped) -> None:
        """Say ``last`` after all frames, or ``Stopped`` in their place; nothing more of it is wanted."""
        if isinstance(last, Stopped):
            self._outbox.clear()
            self._parts, self._part = iter(()), None
        self._last = last
        self._inbox.clear()
        self._unread = 0

    def next(self) -> bytes | None:
        """Return the next bytes that may leave."""
        if self._handshake:
            return self._counted(self._handshake.popleft())
        if not self.channel.open:
            return None
        part = self._next_part()
        if part is not None:
            if self._under_way + len(part.data) + ROOM + OVERHEAD > WINDOW - RESERVE:
                return None
            self._part = None
            return self._counted(self.channel.seal(part))
        if self._last is None:
            return None
        self.told = True
        return self._counted(self.channel.seal(self._last))

    def _next_part(self) -> Begin | Piece | None:
        while self._part is None:
            self._part = next(self._parts, None)
            if self._part is None:
                if not self._outbox:
                    return None
                self._parts = cut(self._outbox.popleft())
        return self._part

    def _counted(self, data: bytes) -> bytes:
        self._under_way += cost(data)
        return data

    def took(self, amount: int) -> None:
        """Note that the partner took so much."""
        if amount > self._under_way:
            raise FaultySiloOrCoordinator(self.name, "it took more than was sent to it")
        self._under_way -= amount

    # --- from it -------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> Event | None:
        """Take what came, and return what it means beside a frame, which is kept.

        Raises:
            FaultySilo, FaultySiloOrCoordinator: it is not what was due.
        """
        self._untold += cost(data)
        if self._untold > WINDOW:
            raise FaultySiloOrCoordinator(self.name, "it sent more than may be under way")
        event = self.channel.receive(data)
        match event:
            case Reply(data):
                self.reply(data)
            case Arrived(frame) if self._last is None:
                self._inbox.append(frame)
                self._unread += _size(frame)
                self._came.set()
            case Finished():
                self.finished = True
                self._came.set()
            case Stopped():
                self.gone = True
        return event

    async def hear(self) -> Frame:
        """Return its next frame, waiting for it.

        Raises:
            FaultySilo: it ended well and said less than is awaited.
        """
        while not self._inbox:
            if self.finished:
                raise FaultySilo(self.name, "it ended before it said what was due")
            self._came.clear()
            await self._came.wait()
        frame = self._inbox.popleft()
        self._unread -= _size(frame)
        return frame

    def to_tell(self) -> int:
        """Return how much may be said to be taken now; 0 if there is no need to say so yet."""
        if self._unread > UNREAD or self._untold < WINDOW // 4:
            return 0
        told, self._untold = self._untold, 0
        return told


def _size(frame: Frame) -> int:
    header, payload = frame
    return OVERHEAD + len(header) + (0 if payload is None else len(payload))


class Partners:
    """All partners.

    Args:
        stream: to the coordinator, which has said that all have joined.
        channels: partner -> the channel to it, new.
        moved: told of bytes.
    """

    def __init__(self, stream: Stream, channels: Mapping[SiloId, Channel], *, moved: Moved) -> None:
        self._stream = stream
        self._partners = {name: Partner(name, channel) for name, channel in channels.items()}
        self._moved = moved
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._arrivals = 0
        self._leaving = self._deaf = False
        self._left = asyncio.Event()
        self._failed: asyncio.Future[NoReturn] = asyncio.get_running_loop().create_future()

    @property
    def unopened(self) -> tuple[SiloId, ...]:
        """Who is not authenticated."""
        return tuple(partner.name for partner in self._partners.values() if not partner.channel.open)

    # --- for the side --------------------------------------------------------------------------------------

    def say(self, to: SiloId, frame: Frame) -> None:
        """Queue ``frame`` for ``to``; see ``Carrier``."""
        self._partner(to, "sends to").say(frame)
        self._wake.set()

    async def hear(self, sender: SiloId) -> Frame:
        """Return the next frame of ``sender``; see ``Carrier``."""
        frame = await self._partner(sender, "awaits").hear()
        self._wake.set()  # It may send more.
        return frame

    def _partner(self, name: SiloId, does: str) -> Partner:
        if name not in self._partners:
            raise ProtocolError(f"this side {does} {name}, which is none of the others")
        return self._partners[name]

    # --- for whoever meets ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def speaking(self) -> AsyncIterator[None]:
        """Read and write the stream within the block."""
        tasks = asyncio.create_task(self._read()), asyncio.create_task(self._write())
        for task in tasks:
            task.add_done_callback(self._ended)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            self._failed.cancel()  # Nothing if it is done; then its error is looked at, here or before.
            await asyncio.gather(*tasks, self._failed, return_exceptions=True)

    async def meanwhile(self, work: Coroutine[Any, Any, T]) -> T:
        """Do ``work`` and return what it returns; if the stream or a partner fails before, that is raised."""
        task = asyncio.create_task(work)
        try:
            both: set[asyncio.Future[Any]] = {task, self._failed}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            return await task if task.done() else self._failed.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def shake_hands(self) -> None:
        """Return when every partner is authenticated."""
        await self.meanwhile(self._until(lambda: not self.unopened))

    async def finish(self, patience: float) -> tuple[SiloId, ...]:
        """Say that this side ended well, wait until all others said so, and leave.

        Args:
            patience: seconds without a byte after which others are not waited for.

        Returns:
            Who did not say so.
        """
        for partner in self._partners.values():
            partner.end(Finished())
        self._wake.set()
        await self.meanwhile(self._all_finish(patience))
        await self._leave()
        return tuple(partner.name for partner in self._partners.values() if not partner.finished)

    async def stop(self, error: BaseException) -> None:
        """Tell partners why this silo stops, as far as that concerns them, and leave; within ``FAREWELL``."""
        if self._stream.done() or isinstance(
            error, Lost | asyncio.CancelledError | asyncio.InvalidStateError
        ):
            return  # It comes back, or there is nobody to tell.
        for partner in self._partners.values():
            partner.end(said_of(error, partner.name))
        self._wake.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL):
                await self._until(lambda: all(map(self._reached, self._partners.values())))
        await self._leave()

    def _reached(self, partner: Partner) -> bool:
        return partner.reached or (self._deaf and not partner.channel.open)

    async def _all_finish(self, patience: float) -> None:
        def over() -> bool:
            return all(partner.told and partner.finished for partner in self._partners.values())

        while not over():
            before = self._arrivals
            try:
                async with asyncio.timeout(patience):
                    await self._until(lambda: over() or self._arrivals > before)  # noqa: B023 - awaited here
            except TimeoutError:
                return

    async def _leave(self) -> None:
        """Say that nothing more is needed; return when that was heard, or ``FAREWELL`` is over."""
        self._leaving = True
        self._wake.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL):
                await self._left.wait()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    # --- the stream ----------------------------------------------------------------------------------------

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._deaf = True
            self._left.set()
            self._changed.set()
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)

    def _fail_soon(self, error: BaseException) -> None:
        asyncio.get_running_loop().call_later(GRACE, self._fail, error)

    async def _read(self) -> None:
        while True:
            try:
                data = await read(self._stream)
            except asyncio.InvalidStateError:
                if not self._leaving:
                    raise
                self._left.set()
                return
            self._arrivals += 1
            try:
                frame = decode_from_relay(data)
            except MalformedMessage as fault:
                raise FaultyCoordinator(str(fault)) from None
            if isinstance(frame, Missing | Met) or frame.party not in self._partners:
                raise FaultyCoordinator("what came is no record of a party of this meeting")
            partner = self._partners[frame.party]
            try:
                self._take(partner, frame)
            except SecaggError as error:
                partner.faulty = True  # Others are still heard: they are to learn of it.
                self._fail(error)
            self._changed.set()
            self._wake.set()

    def _take(self, partner: Partner, frame: Record | Taken | Left) -> None:
        match frame:
            case Record(data=data) if not (partner.faulty or partner.gone):
                event = partner.receive(data)
                self._moved(partner.name, 0, len(data))
                if isinstance(event, Stopped):
                    # Another party's word says more; or this side's, which told it of a rule just now.
                    soon = event.why in {"others", "policy"}
                    (self._fail_soon if soon else self._fail)(stopped_by(partner.name, event))
            case Taken(cost=amount):
                partner.took(amount)
            case Left() if not (partner.finished or partner.gone):
                partner.gone = True
                self._fail_soon(Lost(f"{partner.name} left before it said how it ended"))

    async def _write(self) -> None:
        while True:
            self._wake.clear()
            idle = True
            for partner in self._partners.values():
                if amount := partner.to_tell():
                    await self._stream.write(encode(Taken(partner.name, amount)))
                data = partner.next()
                if data is not None:
                    idle = False
                    await self._stream.write(encode(Record(partner.name, data)))
                    self._moved(partner.name, len(data), 0)
                    self._changed.set()
            if idle and self._leaving:
                await self._stream.write(encode(Leave()))
                await self._stream.done_writing()
                return
            if idle:
                await self._wake.wait()


def said_of(error: BaseException, partner: SiloId) -> Stopped:
    """Return what ``partner`` is told of ``error``: a rule by its name, and no text."""
    match error:
        case PolicyRefused(rule=rule):
            return Stopped.by(rule if _RULE.fullmatch(rule) else "")
        case FaultySilo(silo=silo) | FaultySiloOrCoordinator(silo=silo):
            return Stopped("faulty" if silo == partner else "others")
        case PartnerStopped():
            return Stopped("others")
        case _:
            return Stopped("mishap")


def stopped_by(partner: SiloId, stopped: Stopped) -> PartnerStopped:
    """Return the error that ``partner``'s last word makes here."""
    rule = stopped.rule.strip()
    match stopped.why:
        case "policy" if rule:
            text = f"it stopped by the rule {rule!r} of its policy"
        case "policy":
            text = "it stopped by a rule of its policy; its log says which"
        case "faulty":
            text = (
                "it stopped because it holds that this silo, or the coordinator in its name, left the "
                "protocol; compare versions"
            )
        case "others":
            text = "it stopped because another party left the protocol or stopped"
        case _:
            text = "it stopped over trouble of its own, which its log names"
    return PartnerStopped(partner, text, rule=rule)
