"""Meetings on loopback over real gRPC and mutual TLS: a coordinator's service, and silos of a federation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from coordinator.config import CoordinatorConfig
from coordinator.development import write_development_federation
from coordinator.meetings import MeetingService
from coordinator.tls import server_credentials

import grpc  # isort: skip
import grpc.aio  # isort: skip

from examples.processes import free_port
from secagg import __version__
from secagg.channel.end import Channel, Reply
from secagg.channel.handshake import Ends
from secagg.channel.messages import Inside
from secagg.channel.relay import (
    FromParty,
    FromRelay,
    Join,
    Met,
    Record,
    decode_from_relay,
    encode,
)
from secagg.conversation import Side, hear, say
from secagg.link.frames import PROTOCOL
from secagg.link.options import SERVER_OPTIONS
from secagg.messages import Part
from secagg.names import SiloId
from secagg.payload import Payload
from secagg.roster import Roster
from silo.client import OPTIONS
from silo.config import SiloConfig
from silo.meeting import JOIN
from silo.tls import dialling

T = TypeVar("T")

SECONDS = 60
"""A test that hangs ends here."""
FEDERATION = "meetings"


class Number(Part, frozen=True, tag=True):
    """What the sides below say."""

    number: int
    ballast: Payload | None = None


def adds(others: Sequence[SiloId], number: int, *, steps: int = 3, ballast: int = 0) -> Side[int]:
    """Say a number to all others and add theirs, some times; ``ballast``: bytes beside each."""
    payload = Payload.of(np.full(ballast, number, np.uint8)) if ballast else None
    total = number * steps
    for step in range(steps):
        for other in others:
            yield from say(other, Number(number + step, payload))
        for other in others:
            heard = yield from hear(other, Number)
            total += heard.number - step
            if heard.ballast is not None:
                assert set(heard.ballast.array()[:: 1 << 16].tolist()) == {heard.number - step}
    return total


def run(test: Callable[[], Coroutine[Any, Any, T]]) -> T:
    async def limited() -> T:
        async with asyncio.timeout(SECONDS):
            return await test()

    return asyncio.run(limited())


@dataclass
class Files:
    """The files of a federation.

    Attributes:
        silos: its silos, in the order of the roster.
        address: that the coordinator listens on.
    """

    folder: Path
    silos: tuple[SiloId, ...]
    roster: Roster
    address: str

    @classmethod
    def write(cls, folder: Path, silos: tuple[SiloId, ...]) -> Self:
        address = f"127.0.0.1:{free_port()}"
        roster = write_development_federation(folder, silos, federation=FEDERATION, listen=address)
        return cls(folder, silos, roster, address)

    def config(self, silo: SiloId) -> SiloConfig:
        return SiloConfig.load(self.folder / "silos" / silo / "silo.toml")

    def others(self, silo: SiloId) -> tuple[SiloId, ...]:
        return tuple(other for other in self.silos if other != silo)


@dataclass
class Tap:
    """The context of a call, through which all goes that the coordinator hears and says.

    Attributes:
        change: gets who the coordinator writes to, and the frame; returns what is written instead.
        seen: all bytes, both ways.
    """

    context: Any
    change: Callable[[bytes], list[bytes]]
    seen: list[bytes]

    async def read(self) -> Any:
        data = await self.context.read()
        if isinstance(data, bytes):
            self.seen.append(data)
        return data

    async def write(self, data: bytes) -> None:
        for changed in self.change(data):
            self.seen.append(changed)
            await self.context.write(changed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.context, name)


@dataclass
class Relay(MeetingService):
    """The service, and what passes through it.

    Attributes:
        change: gets to whom the coordinator writes, and the bytes; returns what is written instead.
    """

    files: Files
    change: Callable[[SiloId, bytes], list[bytes]] = lambda _, data: [data]
    seen: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(self.files.roster)

    async def join(self, requests: object, context: Any) -> None:
        silo = await self._admission.silo(context)
        await super().join(requests, Tap(context, lambda data: self.change(silo, data), self.seen))

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Self]:
        """Serve where the files say."""
        config = CoordinatorConfig.load(self.files.folder / "coordinator" / "coordinator.toml")
        server = grpc.aio.server(options=SERVER_OPTIONS)
        server.add_generic_rpc_handlers((self.handler(),))
        server.add_secure_port(self.files.address, server_credentials(config.tls, federation=FEDERATION))
        await server.start()
        try:
            yield self
        finally:
            await server.stop(grace=None)


class Raw:
    """A silo that says what a test lets it say.

    Attributes:
        name: its own.
        stream: to the coordinator.
    """

    def __init__(self, files: Files, name: SiloId, stream: Any) -> None:
        self.files = files
        self.name = name
        self.stream = stream

    @classmethod
    @asynccontextmanager
    async def dialling(cls, files: Files, name: SiloId) -> AsyncIterator[Self]:
        """Open a stream and say nothing."""
        config = files.config(name)
        credentials = dialling(config.tls, name=name).credentials
        async with grpc.aio.secure_channel(config.coordinator, credentials, options=OPTIONS) as channel:
            open_stream: Any = channel.stream_stream
            yield cls(files, name, open_stream(JOIN)())

    async def say(self, frame: FromParty | bytes) -> None:
        await self.stream.write(frame if isinstance(frame, bytes) else encode(frame))

    async def hear(self) -> FromRelay:
        data = await self.stream.read()
        assert isinstance(data, bytes), (await self.stream.code(), await self.stream.details())
        return decode_from_relay(data)

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        """Return how the stream ends, reading on until it does."""
        try:
            while isinstance(await self.stream.read(), bytes):
                pass
        except grpc.aio.AioRpcError:
            pass
        return await self.stream.code(), await self.stream.details() or ""

    async def join(self, meeting: str, parties: tuple[SiloId, ...], **changes: Any) -> None:
        said = {"protocol": PROTOCOL, "version": __version__, "roster": self.files.roster.digest}
        await self.say(Join(**{**said, "meeting": meeting, "parties": parties, **changes}))

    async def met(self, meeting: str, parties: tuple[SiloId, ...]) -> Self:
        """Join, and return when all have."""
        await self.join(meeting, parties)
        while not isinstance(await self.hear(), Met):
            pass
        return self

    def channel(self, other: SiloId, meeting: str, parties: tuple[SiloId, ...]) -> Channel:
        identity, roster = self.files.config(self.name).member()
        return Channel(Ends(roster, meeting, parties, self.name, other), identity, largest=1 << 20)

    async def opened(self, other: SiloId, meeting: str, parties: tuple[SiloId, ...]) -> Channel:
        """Shake hands with ``other``, which does so with this one alone, and return the channel."""
        channel = self.channel(other, meeting, parties)
        await self.say(Record(other, channel.first))
        while not channel.open:
            frame = await self.hear()
            if isinstance(frame, Record) and frame.party == other:
                event = channel.receive(frame.data)
                if isinstance(event, Reply):
                    await self.say(Record(other, event.data))
        return channel

    async def seal(self, channel: Channel, to: SiloId, message: Inside) -> None:
        await self.say(Record(to, channel.seal(message)))
