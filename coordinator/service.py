"""The gRPC service: silos' streams on one side, lines on the other. Only here errors become status codes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import structlog

from coordinator.admission import Admission, Context, refuse  # Before grpc: it sets what that reads.

import grpc  # isort: skip

from coordinator.lines import IDLE_BYTES, LONGEST_PAUSE, Line, Lines
from coordinator.on_disk import Unreadable
from secagg import __version__
from secagg.errors import EnvironmentFault, MalformedMessage
from secagg.link.frames import (
    MAX_PIECE,
    PROTOCOL,
    Begin,
    Hello,
    Piece,
    Probe,
    Received,
    Welcome,
    decode_link,
    encode_link,
)
from secagg.link.line import OutOfOrder
from secagg.names import SiloId

SILOS = "secagg.v1.Silos"
HELLO_SECONDS = 10.0
"""A stream that has not said who it is by then is closed."""
WRITE_SECONDS = 30.0
"""A piece that a silo has not taken by then ends its stream; it goes on where it was."""
MAX_TRANSFERS = 4
"""Pieces that are written at once, and read at once; more would be held in memory by the transport."""
BARRED_SECONDS = 5.0
"""How long a silo that left the protocol is not taken back: it would be cut off again at once."""
SLOT_SECONDS = 1.0
READ_SLOT_SECONDS = 0.1
"""How long a silo that does not take its piece, or is sending it, holds up the transfers of others."""
STREAM_FRAMES = 32
"""Idle frames that a stream counts for: a silo opens eight a second."""

log = structlog.get_logger("coordinator")


class SiloService:
    """Streams of silos.

    Args:
        lines: where messages go to and come from.
        revoked: fingerprints of certificates that are no longer accepted.

    Guarantees:
        A silo is who its certificate says, whatever it sends.
        A stream speaks only after versions and rosters were compared.
        What a silo sends costs memory only up to what it may send now.
    """

    def __init__(self, lines: Lines, *, revoked: Collection[str] = ()) -> None:
        self._lines = lines
        self._admission = Admission(lines.roster, revoked=revoked)
        self._written = asyncio.Semaphore(MAX_TRANSFERS)
        self._read_now = asyncio.Semaphore(MAX_TRANSFERS)
        self._barred: dict[SiloId, float] = {}

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """Return what a server is given."""
        connect = grpc.stream_stream_rpc_method_handler(self.connect)
        return grpc.method_handlers_generic_handler(SILOS, {"Connect": connect})

    async def connect(self, _requests: object, context: Context) -> None:
        """Serve one stream until it ends or a later one displaces it."""
        silo = await self._admission.silo(context)
        line, loop = self._lines[silo], asyncio.get_running_loop()
        pause = line.pace.spend(STREAM_FRAMES, loop.time())
        await asyncio.sleep(pause)
        if pause >= LONGEST_PAUSE:
            await refuse(context, grpc.StatusCode.UNAVAILABLE, "it opens too many streams")
        hello = await self._hello(silo, context)
        if isinstance(hello, Probe):
            return  # With the status OK.
        if self._barred.get(silo, 0.0) > loop.time():
            await refuse(context, grpc.StatusCode.UNAVAILABLE, "it left the protocol a moment ago")
        try:
            resumed = self._lines.attach(silo, hello)
        except MalformedMessage as fault:
            await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, fault)
        stream = line.stream
        log.info("silo connected", silo=silo, resumed=resumed, version=hello.version)
        held = self._lines.held(silo)
        try:
            await context.write(encode_link(Welcome(PROTOCOL, __version__, self._lines.boot, resumed, held)))
            reading = asyncio.create_task(self._read(line, stream, context))
            writing = asyncio.create_task(self._write(line, stream, context))
            try:
                done, _ = await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (reading, writing):
                    task.cancel()
                await asyncio.gather(reading, writing, return_exceptions=True)
        finally:
            self._lines.detach(silo, stream)
            log.info("silo disconnected", silo=silo)
        await self._end(line, done, context)  # Its status waits behind what a silo does not take.

    async def _hello(self, silo: SiloId, context: Context) -> Hello | Probe:
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                data = await context.read()
            hello = decode_link(data if isinstance(data, bytes) else b"")
        except TimeoutError:
            await refuse(context, grpc.StatusCode.DEADLINE_EXCEEDED, "the stream said nothing")
        except MalformedMessage as fault:
            await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, fault)
        if not isinstance(hello, Hello | Probe):
            await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "a stream begins with Hello")
        await self._admission.check(
            silo, context, protocol=hello.protocol, version=hello.version, roster=hello.roster
        )
        return hello

    async def _read(self, line: Line, stream: int, context: Context) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await line.room.wait()
            async with _slot(self._read_now if line.incoming.under_way else None, READ_SLOT_SECONDS):
                data = await context.read()
                if not isinstance(data, bytes) or line.stream != stream:
                    return  # The silo closed its side, or speaks on another stream: there this comes again.
                before = line.incoming.held.part
                self._take(line, data, loop.time())
            if line.incoming.held.part < before + MAX_PIECE:
                await asyncio.sleep(line.pace.spend(1 + len(data) // IDLE_BYTES, loop.time()))

    def _take(self, line: Line, data: bytes, now: float) -> None:
        """Take one frame. Nothing here outlives the call: an upload is freed when a run is done with it."""
        before = line.incoming.held
        match decode_link(data):
            case Begin() | Piece() as frame:
                message = line.incoming.take(frame)
                if message is not None:
                    self._lines.arrived(line.silo, message)
                if line.incoming.held != before:
                    line.count(frame, now)
                if line.incoming.held.whole != before.whole:
                    line.wake.set()
            case Received(number):
                self._lines.acknowledged(line.silo, number)
            case _:
                raise MalformedMessage("a stream says Hello once")

    async def _write(self, line: Line, stream: int, context: Context) -> None:
        loop, told = asyncio.get_running_loop(), 0
        while line.stream == stream:
            line.wake.clear()
            frame: Begin | Piece | Received | None = line.incoming.acknowledgement
            if isinstance(frame, Received) and frame.number > told:
                told = frame.number
            else:
                frame = line.outgoing.take()
            # Each turn takes one frame at the most: after a wait, this stream may be displaced.
            if frame is None:
                await line.wake.wait()
            elif isinstance(frame, Piece):
                async with _slot(self._written, SLOT_SECONDS):
                    await self._send(context, frame)
                line.count(frame, loop.time())
            else:
                await self._send(context, frame)

    @staticmethod
    async def _send(context: Context, frame: Begin | Piece | Received) -> None:
        async with asyncio.timeout(WRITE_SECONDS):
            await context.write(encode_link(frame))

    async def _end(self, line: Line, done: set[asyncio.Task[None]], context: Context) -> None:
        for task in done:
            match task.exception():
                case None:
                    pass
                case OutOfOrder() as gap:
                    await refuse(context, grpc.StatusCode.ABORTED, gap)
                case MalformedMessage() as fault:
                    log.warning("silo left the protocol", silo=line.silo, fault=str(fault))
                    self._lines.broken(line.silo, fault)
                    self._barred[line.silo] = asyncio.get_running_loop().time() + BARRED_SECONDS
                    await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, fault)
                case Unreadable() as fault:
                    log.error("a message cannot be sent", silo=line.silo, fault=str(fault))
                    await refuse(
                        context, grpc.StatusCode.UNAVAILABLE, "the coordinator's disk cannot be read"
                    )
                case EnvironmentFault() as fault:
                    log.error("an upload cannot be kept", silo=line.silo, fault=str(fault))
                    self._lines.unkept(fault)
                    await refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, fault)
                case TimeoutError():
                    await refuse(context, grpc.StatusCode.DEADLINE_EXCEEDED, "too slow to take a piece")
                case error:
                    raise error


@asynccontextmanager
async def _slot(slots: asyncio.Semaphore | None, seconds: float) -> AsyncIterator[None]:
    """Hold one of ``slots``, if any, but no longer than ``seconds``."""
    if slots is None:
        yield
        return
    await slots.acquire()
    with ExitStack() as slot:
        slot.callback(slots.release)
        late = asyncio.get_running_loop().call_later(seconds, slot.close)
        slot.callback(late.cancel)
        yield
