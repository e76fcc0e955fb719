"""The silo's end of its line to the coordinator: dials out, and goes on where a cut stream broke off.

Frames in, frames out; what they mean is the agent's matter. Nothing listens here. A stream that ends for any
reason but a refusal is opened again, for as long as the process lives.

Source: "Connection" in ``docs/wire.md``; https://grpc.github.io/grpc/core/group__grpc__arg__keys.html.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeAlias

import stamina
import stamina.instrumentation
import structlog

from secagg import __version__
from secagg.errors import EnvironmentFault, MalformedMessage, SecaggError, TrustError
from secagg.link.frames import (
    BOOT_SIZE,
    PROTOCOL,
    Begin,
    Held,
    Hello,
    Piece,
    Received,
    Welcome,
    decode_link,
    encode_link,
)
from secagg.link.line import Incoming, InMemory, Outgoing, Store, Unwanted
from secagg.link.options import CHANNEL_OPTIONS, Options
from secagg.payload import Frame
from silo.tls import Dialling  # Before grpc: it sets what grpc reads when it is imported.

import grpc  # isort: skip
import grpc.aio  # isort: skip

Stream: TypeAlias = Any  # grpc.aio.StreamStreamCall over bytes, which its stubs do not describe.

CONNECT = "/secagg.v1.Silos/Connect"
FIRST_WAIT = 0.2
LONGEST_WAIT = 30.0
JITTER = 0.5
"""Seconds between two tries at the least and at the most, and what is added by lot."""
WELCOME_SECONDS = 30.0
MAX_UNREAD = 8
"""Messages that wait for the agent before the stream is read no further."""
LONGEST_TEXT = 500

# Each try makes a connection of its own: when to try is decided here alone.
OPTIONS: Options = (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))

stamina.instrumentation.set_on_retry_hooks([])  # The client says itself for whom it waits.

log = structlog.get_logger("silo")


@dataclass(eq=False)
class Line:
    """What this process and one process of the coordinator have said to each other, whatever the stream."""

    peer: bytes
    incoming: Incoming
    outgoing: Outgoing = field(default_factory=Outgoing)
    wake: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class Arrival:
    """A whole message of the coordinator, and the line that it came on."""

    frame: Frame = field(repr=False)
    line: Line = field(repr=False)


class _Lost(Exception):
    """The stream ended; another is opened."""


class Client:
    """One silo's connection, across streams.

    Args:
        address: ``host:port`` of the coordinator.
        credentials: reads those of mutual TLS; called for every stream, so that a renewed certificate is used
            from the next one on. If it raises, those before are used while their certificate lasts.
        roster: digest of the pinned roster.

    Guarantees:
        Every message arrives once and in order, and every reply leaves once, however often streams break.
        A reply to a coordinator that restarted meanwhile is dropped.
        No more than ``MAX_UNREAD`` messages wait here.
        Of a payload of more than ``limit`` bytes nothing is kept: its message is as one that was never sent.

    Attributes:
        limit: bytes that a payload may have now.
    """

    def __init__(self, address: str, credentials: Callable[[], Dialling], *, roster: bytes) -> None:
        self._address = address
        self._read_credentials = credentials
        self._dialling: Dialling | None = None
        self._roster = roster
        self._boot = os.urandom(BOOT_SIZE)
        self.limit = 0
        self._dropped = False
        self._line: Line | None = None
        self._unread: deque[Arrival] = deque()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._moved = False
        self._lost_at: datetime | None = datetime.now(UTC)
        self._told = False
        self._trusted = False

    # --- for the agent -------------------------------------------------------------------------------------

    async def next(self) -> Arrival:
        """Return the next message, waiting for it."""
        while not self._unread:
            self._arrived.clear()
            await self._arrived.wait()
        arrival = self._unread.popleft()
        self._room.set()
        return arrival

    def reply(self, arrival: Arrival, frame: Frame) -> None:
        """Answer ``arrival``; the answer leaves when the stream takes it."""
        if arrival.line is self._line:
            arrival.line.outgoing.put(frame)
            arrival.line.wake.set()

    async def run(self) -> NoReturn:
        """Keep the line open.

        Raises:
            TrustError: the coordinator does not know this silo or its roster, or is not the one that the
                authority signed for.
            EnvironmentFault: it speaks another version.
            SecaggError: as ``credentials`` raises, if there are none that last.
        """
        while True:
            tries = stamina.retry_context(
                on=_Lost,
                attempts=None,
                timeout=None,
                wait_initial=FIRST_WAIT,
                wait_max=LONGEST_WAIT,
                wait_jitter=JITTER,
            )
            async for attempt in tries:
                with attempt:
                    await self._try(attempt.next_wait)

    # --- streams -------------------------------------------------------------------------------------------

    async def _try(self, next_wait: float) -> None:
        """Open a stream and serve it until it ends; return if it was of use, so that tries count anew.

        Raises:
            _Lost: it was of none.
        """
        self._moved = False
        began = asyncio.get_running_loop().time()
        try:
            credentials = self._credentials()
            async with grpc.aio.secure_channel(self._address, credentials, options=OPTIONS) as channel:
                connect: Any = channel.stream_stream  # Its stubs demand what has defaults.
                stream = connect(CONNECT)()
                try:
                    await self._stream(stream)
                finally:
                    stream.cancel()
        except _Lost as lost:
            lasted = asyncio.get_running_loop().time() - began
            if self._moved or lasted > LONGEST_WAIT:
                self._tell_lost(str(lost), 0.0)
                return
            self._tell_lost(str(lost), next_wait)
            raise

    def _credentials(self) -> grpc.ChannelCredentials:
        try:
            self._dialling = self._read_credentials()
        except SecaggError as error:
            # They may be just being renewed, file after file.
            if self._dialling is None or self._dialling.until <= datetime.now(UTC):
                raise
            log.warning("the certificate cannot be read again; the one before is used", why=str(error))
        return self._dialling.credentials

    async def _stream(self, stream: Stream) -> None:
        """Serve ``stream`` until it ends, which raises."""
        try:
            async with asyncio.timeout(WELCOME_SECONDS):
                await stream.write(encode_link(self._hello()))
                line = self._welcomed(await _read(stream))
        except TimeoutError:
            raise _Lost(f"no answer within {WELCOME_SECONDS:.0f} s") from None
        except MalformedMessage as fault:
            raise _Lost(f"{fault}") from None
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            raise await self._ended(stream) from None
        self._tell_connected()
        reading = asyncio.create_task(self._reading(stream, line))
        writing = asyncio.create_task(self._writing(stream, line))
        try:
            done, _ = await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)
        for task in done:
            match task.exception():
                case MalformedMessage() as malformed:
                    raise _Lost(f"{malformed}")
                case grpc.aio.AioRpcError() | asyncio.InvalidStateError():
                    raise await self._ended(stream)
                case None:
                    pass
                case error:
                    raise error
        raise await self._ended(stream)

    def _hello(self) -> Hello:
        line = self._line
        if line is None:
            return Hello(PROTOCOL, __version__, self._roster, self._boot, None, Held())
        return Hello(PROTOCOL, __version__, self._roster, self._boot, line.peer, line.incoming.held)

    def _welcomed(self, data: bytes) -> Line:
        """Return the line that the coordinator's ``Welcome`` opens or resumes."""
        welcome = decode_link(data)
        if not isinstance(welcome, Welcome):
            raise MalformedMessage("a stream begins with Welcome")
        if welcome.protocol != PROTOCOL:
            raise EnvironmentFault(
                f"the coordinator runs secagg {welcome.version} (protocol {welcome.protocol}), this silo "
                f"runs secagg {__version__} (protocol {PROTOCOL}); install the same protocol at both"
            )
        before, self._line = self._line, None
        if welcome.resumed:
            if before is None or welcome.boot != before.peer:
                raise MalformedMessage("the coordinator resumes what it never began")
            before.outgoing.resume(welcome.held)  # If it raises, the next stream begins a new line.
            self._line = before
            return before
        self._unread.clear()
        self._room.set()
        if before is not None:
            log.warning("the coordinator restarted; what was under way with it is given up")
        self._line = Line(welcome.boot, Incoming(self._store))
        return self._line

    async def _reading(self, stream: Stream, line: Line) -> None:
        while True:
            await self._room.wait()
            match decode_link(await _read(stream)):
                case Begin() | Piece() as frame:
                    before = line.incoming.held
                    whole = line.incoming.take(frame)
                    self._moved |= line.incoming.held != before
                    if whole is not None:
                        self._arrive(Arrival(whole, line))
                        line.wake.set()  # For the acknowledgement.
                case Received(number):
                    line.outgoing.acknowledge(number)
                    self._moved = True
                case _:
                    raise MalformedMessage("a stream says Welcome once")

    def _store(self, size: int) -> Store:
        if size <= self.limit:
            return InMemory(size)
        tell = log.debug if self._dropped else log.warning
        tell("a payload was dropped that this silo has no use for now", size=size, limit=self.limit)
        self._dropped = True
        return Unwanted()

    def _arrive(self, arrival: Arrival) -> None:
        # Never awaits: between counting a message as received and keeping it, nothing may be cancelled.
        self._unread.append(arrival)
        self._arrived.set()
        if len(self._unread) >= MAX_UNREAD:
            self._room.clear()

    async def _writing(self, stream: Stream, line: Line) -> None:
        acknowledged = 0
        while True:
            line.wake.clear()
            received = line.incoming.acknowledgement
            if received is not None and received.number > acknowledged:
                acknowledged = received.number
                await stream.write(encode_link(received))
            frame = line.outgoing.take()
            if frame is None:
                await line.wake.wait()
            else:
                await stream.write(encode_link(frame))

    # --- ends ----------------------------------------------------------------------------------------------

    async def _ended(self, stream: Stream) -> SecaggError | _Lost:
        """Return what the end of ``stream`` means."""
        stream.cancel()  # Nothing if it is over.
        code, details = await stream.code(), shown(await stream.details())
        final = refusal(self._address, code, details, trusted=self._trusted)
        return _Lost(f"{code.name.lower().replace('_', ' ')}: {details}") if final is None else final

    def _tell_lost(self, why: str, next_wait: float) -> None:
        """Say once for whom this silo waits."""
        if self._lost_at is None:
            self._lost_at, self._told = datetime.now(UTC), False
        if self._told:
            log.debug("the coordinator did not answer", why=why, next_try_seconds=next_wait)
            return
        self._told = True
        text = (
            f"waiting for the coordinator at {self._address} since {self._lost_at:%H:%M:%S} UTC; the next "
            f"try is in {next_wait:.1f} s, later ones up to {LONGEST_WAIT:.0f} s apart, until it is back"
        )
        log.warning(
            text,
            coordinator=self._address,
            since=self._lost_at.isoformat(timespec="seconds"),
            next_try_seconds=next_wait,
            why=why,
        )

    def _tell_connected(self) -> None:
        away = None if self._lost_at is None else (datetime.now(UTC) - self._lost_at).total_seconds()
        self._lost_at, self._trusted = None, True
        log.info("connected", coordinator=self._address, after_seconds=away)


async def _read(stream: Stream) -> bytes:
    data = await stream.read()
    if not isinstance(data, bytes):  # The end of the stream, without an error.
        raise asyncio.InvalidStateError
    return data


_DISTRUST = (
    "CERTIFICATE_VERIFY_FAILED",
    "Hostname Verification",
    "ALERT_UNKNOWN_CA",
    "ALERT_BAD_CERTIFICATE",
)


def refusal(
    address: str, code: grpc.StatusCode, details: str, *, trusted: bool = False
) -> SecaggError | None:
    """Return what the end of a stream means for good; None if another one may be opened.

    Args:
        address: of the coordinator.
        code: of the end.
        details: as of ``shown``.
        trusted: a handshake with it was finished before.
    """
    match code:
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return TrustError(f"the coordinator at {address} refuses this silo: {details}")
        case grpc.StatusCode.FAILED_PRECONDITION:
            kind = TrustError if details.startswith("roster") else EnvironmentFault
            return kind(
                f"the coordinator at {address} refuses this silo, which runs secagg {__version__} "
                f"(protocol {PROTOCOL}): {details}"
            )
        case grpc.StatusCode.UNAVAILABLE if not trusted and _distrusts(details):
            return TrustError(
                f"the certificate of the coordinator at {address} is not one that the authority here signed "
                f"for that name; compare the authority's fingerprint by telephone ({details})"
            )
        case _:
            return None


def _distrusts(details: str) -> bool:
    """Tell whether a handshake failed over the other side's certificate. gRPC says so in words only."""
    return any(words in details for words in _DISTRUST)


def shown(details: str | None) -> str:
    """Return the other side's text, fit to be printed."""
    return "".join(c if c.isprintable() else " " for c in details or "no reason given")[:LONGEST_TEXT]
