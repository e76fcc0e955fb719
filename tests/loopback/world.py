"""A coordinator's service on loopback with real mutual TLS, and silos that speak to it over real streams.

The silos are sessions of the library behind the link protocol, written here a second time and kept small, so
that a test can cut, delay or change what a silo's process would send. That process has tests of its own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from coordinator.authority import Authority, Issued
from coordinator.lines import Lines
from coordinator.service import SILOS, SiloService

import grpc  # isort: skip

from secagg import __version__
from secagg.link.frames import (
    BOOT_SIZE,
    PROTOCOL,
    Begin,
    Hello,
    Piece,
    Received,
    Welcome,
    decode_link,
    encode_link,
)
from secagg.link.line import Incoming, Outgoing
from secagg.link.options import CHANNEL_OPTIONS, SERVER_OPTIONS
from secagg.names import SiloId
from secagg.payload import Frame
from secagg.roster import Roster

Deliver = Callable[[Frame], Frame | None]
Sent: TypeAlias = Begin | Piece | Received | bytes
"""A frame, or bytes in the place of one."""
FINAL = {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.FAILED_PRECONDITION}


@dataclass
class Service:
    """What runs, and what is needed to connect to it."""

    port: int
    lines: Lines
    authority: Authority
    speakers: dict[SiloId, Speaker] = field(default_factory=dict)

    def channel(self, issued: Issued | None) -> grpc.aio.Channel:
        return channel(self.port, self.authority, issued)


def channel(port: int, authority: Authority, issued: Issued | None) -> grpc.aio.Channel:
    key, certificate = (None, None) if issued is None else (issued.key, issued.certificate)
    credentials = grpc.ssl_channel_credentials(authority.certificate, key, certificate)
    return grpc.aio.secure_channel(f"localhost:{port}", credentials, options=CHANNEL_OPTIONS)


@asynccontextmanager
async def serving(
    roster: Roster, folder: Path, *, authority: Authority | None = None, revoked: frozenset[str] = frozenset()
) -> AsyncIterator[Service]:
    """Serve the silos' side on a free port of loopback."""
    authority = authority or Authority.create("tests")
    issued = authority.issue_coordinator("tests", ["localhost", "127.0.0.1"])
    credentials = grpc.ssl_server_credentials(
        [(issued.key, issued.certificate)],
        root_certificates=authority.certificate,
        require_client_auth=True,
    )
    lines = Lines(roster, folder)
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers((SiloService(lines, revoked=revoked).handler(),))
    port = server.add_secure_port("localhost:0", credentials)
    await server.start()
    service = Service(port, lines, authority)
    try:
        yield service
    finally:
        for speaker in service.speakers.values():
            await speaker.stop()
        await server.stop(grace=None)
        lines.close()


def connect(channel: Any) -> Any:
    """Open a silo's stream; bytes in and bytes out. The stubs of grpc know no call without serialisers."""
    return channel.stream_stream(f"/{SILOS}/Connect")()


class Speaker:
    """One silo's process as far as the coordinator can tell.

    Attributes:
        change: sees every frame that leaves; returns those that leave instead.
        streams: how many were opened.
        closed: why each ended.
    """

    def __init__(self, service: Service, silo: SiloId, roster: Roster, deliver: Deliver) -> None:
        self._service = service
        self._silo = silo
        self._roster = roster
        self._deliver = deliver
        self._issued = service.authority.issue_silo(silo)
        self._task: asyncio.Task[None] | None = None
        self._call: Any = None
        self.change: Callable[[Sent], list[Sent]] = lambda frame: [frame]
        self.taken: Callable[[Begin | Piece], None] = lambda frame: None
        self.streams = 0
        self.closed: list[grpc.StatusCode] = []
        self.connected = asyncio.Event()
        self.boot()
        service.speakers[silo] = self

    def boot(self) -> None:
        """Begin as a new process does."""
        self._boot = os.urandom(BOOT_SIZE)
        self._peer: bytes | None = None
        self.outgoing, self.incoming = Outgoing(), Incoming()
        self._wake = asyncio.Event()

    def start(self) -> Speaker:
        """Connect, and connect again whenever the stream ends."""
        self._task = asyncio.create_task(self._run())
        return self

    async def stop(self) -> None:
        """End as a process does that is killed."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def cut(self) -> None:
        """End the stream from this side, as a network does."""
        self._call.cancel()

    async def _run(self) -> None:
        async with self._service.channel(self._issued) as channel:
            while True:
                self.streams += 1
                self._call = connect(channel)
                try:
                    await self._speak(self._call)
                except grpc.aio.AioRpcError as error:
                    self.closed.append(error.code())
                    if error.code() in {
                        grpc.StatusCode.PERMISSION_DENIED,
                        grpc.StatusCode.FAILED_PRECONDITION,
                    }:
                        return
                except asyncio.CancelledError:
                    if (
                        not self._call.cancelled()
                        or (task := asyncio.current_task()) is None
                        or task.cancelling()
                    ):
                        raise
                self.connected.clear()

    async def _speak(self, call: Any) -> None:
        hello = Hello(PROTOCOL, __version__, self._roster.digest, self._boot, self._peer, self.incoming.held)
        await call.write(encode_link(hello))
        data = await call.read()
        if not isinstance(data, bytes):
            await call
            return
        welcome = decode_link(data)
        assert isinstance(welcome, Welcome)
        if welcome.resumed:
            self.outgoing.resume(welcome.held)
        else:
            self.outgoing, self.incoming = Outgoing(), Incoming()
            self._peer = welcome.boot
        self.connected.set()
        writer = asyncio.create_task(self._write(call))
        try:
            while isinstance(data := await call.read(), bytes):
                await self._take(decode_link(data))
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        self.closed.append(await call.code())

    async def _take(self, frame: object) -> None:
        match frame:
            case Begin() | Piece():
                self.taken(frame)
                whole = self.incoming.take(frame)
                if whole is not None:
                    reply = await asyncio.to_thread(self._deliver, whole)
                    if reply is not None:
                        self.outgoing.put(reply)
                    self._wake.set()
            case Received():
                self.outgoing.acknowledge(frame.number)
            case _:
                raise AssertionError(frame)

    async def _write(self, call: Any) -> None:
        told = 0
        while True:
            self._wake.clear()
            acknowledgement = self.incoming.acknowledgement
            if acknowledgement is not None and acknowledgement.number > told:
                told = acknowledgement.number
                frame: Begin | Piece | Received | None = acknowledgement
            else:
                frame = self.outgoing.take()
            if frame is None:
                await self._wake.wait()
                continue
            for sent in self.change(frame):
                await call.write(sent if isinstance(sent, bytes) else encode_link(sent))


def speak(service: Service, roster: Roster, silos: Mapping[SiloId, Any]) -> dict[SiloId, Speaker]:
    """Start a speaker for each of ``silos``, which have ``deliver`` as a simulated silo has."""
    return {silo: Speaker(service, silo, roster, silos[silo].deliver).start() for silo in silos}
