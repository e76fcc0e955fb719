"""A coordinator of the link protocol that is told what to send, and when to fail."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from secagg.link.frames import (
    BOOT_SIZE,
    PROTOCOL,
    Begin,
    Held,
    Hello,
    Piece,
    Probe,
    Received,
    Welcome,
    decode_link,
    encode_link,
)
from secagg.link.line import Incoming, Outgoing
from secagg.payload import Frame
from silo.client import CONNECT

import grpc  # isort: skip
import grpc.aio  # isort: skip


class Cut(Exception):
    """The stream ends here."""


@dataclass
class Coordinator:
    """The other end, with faults.

    Attributes:
        cut_down, cut_up: end the stream after so many pieces in that direction; each is used up once.
        refuse: what every stream is ended with.
        instead: frames to send in the place of the next Welcome.
        garbage: sent once in the place of the next frame.
        certificate: of the last silo that dialled.
    """

    boot: bytes = field(default_factory=lambda: os.urandom(BOOT_SIZE))
    cut_down: list[int] = field(default_factory=list)
    cut_up: list[int] = field(default_factory=list)
    refuse: tuple[grpc.StatusCode, str] | None = None
    instead: list[bytes] = field(default_factory=list)
    garbage: list[bytes] = field(default_factory=list)
    hellos: list[Hello] = field(default_factory=list)
    welcomes: list[Held] = field(default_factory=list)
    pieces: list[tuple[str, int, int]] = field(default_factory=list)
    replies: asyncio.Queue[Frame] = field(default_factory=asyncio.Queue)
    streams: int = 0
    port: int = 0
    certificate: bytes = b""

    def __post_init__(self) -> None:
        self._peer: bytes | None = None
        self.outgoing, self.incoming = Outgoing(), Incoming()
        self.wake = asyncio.Event()
        self.changed = asyncio.Condition()

    def send(self, frame: Frame) -> None:
        self.outgoing.put(frame)
        self.wake.set()

    def restart(self) -> None:
        """Become a process that remembers nothing; the stream ends."""
        self.boot = os.urandom(BOOT_SIZE)
        self.outgoing, self.incoming = Outgoing(), Incoming()
        self.wake.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with self.changed:
            await self.changed.wait_for(condition)

    async def tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    @asynccontextmanager
    async def serving(self, credentials: grpc.ServerCredentials) -> AsyncIterator[Coordinator]:
        server = grpc.aio.server()
        connect = grpc.stream_stream_rpc_method_handler(self.connect)
        _, service, method = CONNECT.split("/")
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: connect}),))
        self.port = server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)

    async def connect(self, _: object, context: Any) -> None:
        (self.certificate,) = context.auth_context().get("x509_pem_cert", (b"",))
        self.streams += 1
        await self.tell()
        if self.refuse is not None:
            await context.abort(*self.refuse)
        hello = decode_link(await context.read())
        if isinstance(hello, Probe):
            self.streams -= 1
            return
        assert isinstance(hello, Hello)
        self.hellos.append(hello)
        if self.instead:
            await context.write(self.instead.pop())
        else:
            resumed = (hello.boot, hello.peer) == (self._peer, self.boot)
            if resumed:
                self.outgoing.resume(hello.held)
            else:
                self._peer = hello.boot
                if hello.peer is None:
                    self.outgoing.resume(Held())
                else:
                    self.outgoing, self.incoming = Outgoing(), Incoming()
            self.welcomes.append(self.incoming.held)
            welcome = Welcome(PROTOCOL, "9.9.9", self.boot, resumed, self.incoming.held)
            await context.write(encode_link(welcome))
        boot = self.boot
        await self.tell()
        tasks = [asyncio.create_task(work(context, boot)) for work in (self._read, self._write)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            self.streams -= 1  # Before anything is awaited: this call may be cancelled a second time.
            self._telling = asyncio.create_task(self.tell())
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        unexpected = [end for end in ends if not isinstance(end, None | Cut | asyncio.CancelledError)]
        assert not unexpected, unexpected
        await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")

    def _count(self, way: str, piece: Piece, cuts: list[int]) -> None:
        self.pieces.append((way, len(self.hellos), piece.offset))
        if (
            cuts
            and len([1 for w, stream, _ in self.pieces if (w, stream) == (way, len(self.hellos))]) > cuts[0]
        ):
            cuts.pop(0)
            raise Cut

    async def _read(self, context: Any, boot: bytes) -> None:
        while boot == self.boot:
            data = await context.read()
            if not isinstance(data, bytes):
                return
            match decode_link(data):
                case Begin() | Piece() as frame:
                    if isinstance(frame, Piece):
                        self._count("up", frame, self.cut_up)
                    whole = self.incoming.take(frame)
                    if whole is not None:
                        self.replies.put_nowait(whole)
                        self.wake.set()
                case Received(number):
                    self.outgoing.acknowledge(number)
                    await self.tell()
                case other:
                    raise AssertionError(other)

    async def _write(self, context: Any, boot: bytes) -> None:
        while boot == self.boot:
            self.wake.clear()
            if self.incoming.acknowledgement is not None:
                await context.write(encode_link(self.incoming.acknowledgement))
            if self.garbage:
                await context.write(self.garbage.pop())
            frame = self.outgoing.take()
            if frame is None:
                await self.wake.wait()
                continue
            if isinstance(frame, Piece):
                self._count("down", frame, self.cut_down)
            await context.write(encode_link(frame))
