"""The control API: what scientists and operators ask of a coordinator, and the servicer that answers.

Calls are one frame of MessagePack each way, weights go in pieces. An error of this library travels inside a
reply (``failures``); a status code says only that there was no call: another role, or bytes that are none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import suppress
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec
import structlog

from coordinator import tls  # Before grpc: it sets what grpc reads when it is imported.
from coordinator.failures import Failed
from coordinator.feed import AnyEvent
from coordinator.keys import Keys, usable
from coordinator.on_disk import Spooled, Unreadable
from coordinator.presence import Presence
from coordinator.runs import Runs
from coordinator.store import State, StoredRun

import grpc  # isort: skip

from secagg import __version__
from secagg.certificates import Role
from secagg.errors import MalformedMessage, SecaggError, TrustError, UsageError
from secagg.keys.coordinator import EstablishedKey
from secagg.keys.document import DAY, audit_line
from secagg.learning.request import RunRequest
from secagg.link.frames import MAX_PIECE
from secagg.link.line import InMemory
from secagg.names import SiloId
from secagg.payload import Payload
from secagg.terms import Digest, KeyScheme

CONTROL = "secagg.v1.Control"
MAX_WEIGHTS = 1 << 28
"""Weights of a model, 2 GiB as float64."""
MAX_SENDING = 2
"""Models that are fetched at once; another caller is refused rather than kept waiting."""
PIECE_SECONDS = 30.0
"""A caller that has not sent or taken the next piece by then is given up."""

Context: TypeAlias = Any  # grpc.aio.ServicerContext, whose stubs know no generic handlers.
Watched: TypeAlias = AnyEvent | Failed
M = TypeVar("M")

log = structlog.get_logger("coordinator")

RunName = Annotated[str, msgspec.Meta(max_length=16)]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shape of every request and reply."""


class Weights(Part, frozen=True, tag=True):
    """A vector of float64, little-endian, which follows in pieces."""

    length: Annotated[int, msgspec.Meta(ge=1, le=MAX_WEIGHTS)]
    digest: Digest


class Start(Part, frozen=True):
    """Start a run from ``weights``; ``roster`` is the digest of the one that the caller has pinned."""

    request: RunRequest
    weights: Weights
    roster: Digest


class Of(Part, frozen=True):
    """Halt a run, or fetch its model."""

    run: RunName


class Resume(Part, frozen=True):
    """Go on with a run, or begin its round anew with noise of its own, for which silos are charged."""

    run: RunName
    new_release: bool = False


class Watch(Part, frozen=True):
    """Watch a run, of which ``seen`` opened sums are known already."""

    run: RunName
    seen: Annotated[int, msgspec.Meta(ge=0)] = 0


class Ask(Part, frozen=True):
    """Ask for all runs, or for how things stand."""


class Done(Part, frozen=True, tag=True):
    """It was done, with this run."""

    run: str


class RunShown(Part, frozen=True):
    """A run in a list; ``sums`` were opened of ``rounds`` and the final metrics."""

    run: str
    name: str
    asker: str
    state: State
    exit: int | None
    rounds: int
    sums: int
    started: float
    ended: float | None


class RunList(Part, frozen=True, tag=True):
    """All runs, oldest first."""

    runs: tuple[RunShown, ...]


class SiloShown(Part, frozen=True):
    """A silo: connected, or away, since when (seconds of the epoch)."""

    silo: SiloId
    connected: bool
    since: float


class MakeKey(Part, frozen=True):
    """Make a key; ``Keys.make`` says what the fields are. ``days``: how long it is used."""

    scheme: KeyScheme
    size: int | None
    threshold: int | None
    maker: Annotated[str, msgspec.Meta(max_length=64)] | None
    days: Annotated[int, msgspec.Meta(ge=1, le=366)]
    roster: Digest


class KeyShown(Part, frozen=True, tag=True):
    """A key: its id in hex, its scheme, what is to be known of it in a line, and whether it is used now."""

    key: str
    scheme: KeyScheme
    line: str
    used: bool


class KeyList(Part, frozen=True, tag=True):
    """All keys, oldest first."""

    keys: tuple[KeyShown, ...]


class Standing(Part, frozen=True, tag=True):
    """How things stand."""

    federation: str
    version: str
    silos: tuple[SiloShown, ...]
    run: RunShown | None
    round: int | None
    phase: str | None


def pieces(weights: Payload) -> Iterator[bytes]:
    """Yield the bytes of ``weights``."""
    for piece in weights.pieces():
        yield bytes(piece)


def weights_of(weights: Payload) -> Weights:
    """Return what announces ``weights``."""
    return Weights(weights.length, weights.digest)


class Gathered:
    """Puts the pieces of announced weights together.

    Args:
        announced: what is to arrive.
        store: where it is put together; None for memory.

    Guarantees:
        It grows with what arrives: see ``InMemory`` and ``Spooled``.
    """

    def __init__(self, announced: Weights, store: Spooled | None = None) -> None:
        self._announced = announced
        self.missing = 8 * announced.length
        self._store = InMemory(self.missing) if store is None else store

    def add(self, piece: bytes) -> None:
        """Append a piece.

        Raises:
            MalformedMessage: it is empty, too large, or more than was announced.
            EnvironmentFault: the disk is full.
        """
        if not 0 < len(piece) <= min(MAX_PIECE, self.missing):
            raise MalformedMessage(f"a piece of {len(piece)} bytes; {self.missing} are missing")
        self._store.write(memoryview(piece))
        self.missing -= len(piece)

    def whole(self) -> Payload:
        """Return the vector; call once.

        Raises:
            MalformedMessage: its digest is not the announced one.
        """
        payload = Payload.over("f8", self._announced.length, self._store.whole())
        if payload.digest != self._announced.digest:
            raise MalformedMessage("the weights are not those whose digest was announced")
        return payload

    def discard(self) -> None:
        """Free what was put together, if nobody took it."""
        self._store.discard()


def encode(part: object) -> bytes:
    """Return the frame of ``part``."""
    return msgspec.msgpack.encode(part)


def decode(data: object, kind: type[M]) -> M:
    """Return what is in a frame.

    Raises:
        MalformedMessage: whatever is wrong with the bytes, and nothing else.
    """
    try:
        return msgspec.msgpack.decode(data if isinstance(data, bytes) else b"", type=kind)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise MalformedMessage("bytes are not a message of the control API") from error


class ControlService:
    """Answers scientists and operators.

    Args:
        runs: what they ask about.
        keys: of the silos.
        presence: who is connected.
        federation: its name.
        revoked: fingerprints of certificates that are no longer accepted.

    Guarantees:
        A silo, or a certificate that is revoked, is refused before anything it sends is read.
    """

    def __init__(
        self,
        runs: Runs,
        keys: Keys,
        presence: Presence,
        *,
        federation: str,
        revoked: Collection[str] = (),
    ) -> None:
        self._runs = runs
        self._keys = keys
        self._presence = presence
        self._federation = federation
        self._revoked = revoked
        self._receiving = asyncio.Lock()
        self._sending = asyncio.Semaphore(MAX_SENDING)
        self._late: set[asyncio.Task[None]] = set()

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """Return what a server is given."""
        one, many = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        return grpc.method_handlers_generic_handler(
            CONTROL,
            {
                "Start": grpc.stream_unary_rpc_method_handler(self.start),
                "Watch": many(self.watch),
                "Model": many(self.model),
                "Halt": one(self.halt),
                "Resume": one(self.resume),
                "Runs": one(self.runs),
                "MakeKey": one(self.make_key),
                "Keys": one(self.keys),
                "Status": one(self.status),
            },
        )

    async def start(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        """Take a request and its weights, and begin the run."""
        who = await self._caller(context)
        try:
            asked = decode(await _next(requests), Start)
            self._runs.check_roster(asked.roster)
            self._runs.check_idle()
            if self._receiving.locked():
                raise UsageError("another run is being handed in, and there is one at a time")
            async with self._receiving:
                gathered = Gathered(asked.weights, self._runs.spool())
                try:
                    while gathered.missing:
                        gathered.add(await _next(requests))
                    weights = await asyncio.to_thread(gathered.whole)
                finally:
                    gathered.discard()
                return encode(Done(await self._runs.start(asked.request, weights, asker=who)))
        except SecaggError as error:
            return _failed(error, who)

    async def watch(self, request: bytes, context: Context) -> None:
        """Send what happened and happens in a run."""
        who = await self._caller(context)
        try:
            asked = decode(request, Watch)
            feed = await self._runs.feed(asked.run)
        except SecaggError as error:
            await self._write(context, _failed(error, who))
            return
        async for event in feed.follow(asked.seen):
            await self._write(context, encode(event))

    async def model(self, request: bytes, context: Context) -> None:
        """Send the weights after the last opened sum."""
        who = await self._caller(context)
        try:
            asked = decode(request, Of)
            if self._sending.locked():
                raise UsageError(f"{MAX_SENDING} models are being fetched already: try again in a moment")
        except SecaggError as error:
            await self._write(context, _failed(error, who))
            return
        async with self._sending:
            try:
                weights = await asyncio.to_thread(self._runs.model, asked.run)
                announced = await asyncio.to_thread(weights_of, weights)
            except SecaggError as error:
                await self._write(context, _failed(error, who))
                return
            await self._write(context, encode(announced))
            try:
                for piece in pieces(weights):
                    await self._write(context, piece)
            except Unreadable as error:
                log.error("a model cannot be sent", run=asked.run, why=str(error))  # noqa: TRY400 - it says all
                await context.abort(grpc.StatusCode.DATA_LOSS, "the coordinator's disk cannot be read")

    async def halt(self, request: bytes, context: Context) -> bytes:
        """Stop a run."""
        who = await self._caller(context)
        try:
            run = decode(request, Of).run
            await self._runs.halt(run, by=who)
            return encode(Done(run))
        except SecaggError as error:
            return _failed(error, who)

    async def resume(self, request: bytes, context: Context) -> bytes:
        """Go on with a run."""
        who = await self._caller(context)
        try:
            asked = decode(request, Resume)
            await self._runs.resume(asked.run, new_release=asked.new_release)
            return encode(Done(asked.run))
        except SecaggError as error:
            return _failed(error, who)

    async def runs(self, request: bytes, context: Context) -> bytes:
        """List all runs."""
        who = await self._caller(context)
        try:
            decode(request, Ask)
            return encode(RunList(tuple(map(self._shown, self._runs.all()))))
        except SecaggError as error:
            return _failed(error, who)

    async def make_key(self, request: bytes, context: Context) -> bytes:
        """Let the silos make a key."""
        who = await self._caller(context, roles={"operator"})
        try:
            asked = decode(request, MakeKey)
            self._runs.check_roster(asked.roster)
            made = await self._keys.make(
                asked.scheme,
                size=asked.size,
                threshold=asked.threshold,
                maker=asked.maker,
                lifetime=asked.days * DAY,
                by=who,
            )
            return encode(_key_shown(made, (made,)))
        except SecaggError as error:
            return _failed(error, who)

    async def keys(self, request: bytes, context: Context) -> bytes:
        """List all keys."""
        who = await self._caller(context)
        try:
            decode(request, Ask)
            keys = self._keys.all()
            return encode(KeyList(tuple(_key_shown(key, keys) for key in keys)))
        except SecaggError as error:
            return _failed(error, who)

    async def status(self, request: bytes, context: Context) -> bytes:
        """Say how things stand."""
        who = await self._caller(context)
        try:
            decode(request, Ask)
            present = self._runs.present
            number, phase = self._runs.where
            silos = tuple(
                SiloShown(silo, connected, since.timestamp())
                for silo, connected, since in self._presence.shown()
            )
            shown = None if present is None else self._shown(present)
            return encode(Standing(self._federation, __version__, silos, shown, number, phase))
        except SecaggError as error:
            return _failed(error, who)

    def _shown(self, run: StoredRun) -> RunShown:
        return RunShown(
            run.id,
            run.request.name,
            run.asker,
            run.state,
            None if run.verdict is None else run.verdict.exit,
            run.request.rounds,
            self._runs.sums(run.id),
            run.started.timestamp(),
            None if run.ended is None else run.ended.timestamp(),
        )

    async def _write(self, context: Context, data: bytes) -> None:
        try:
            async with asyncio.timeout(PIECE_SECONDS):
                await context.write(data)
        except TimeoutError:
            log.warning("a caller was given up: it does not take what it asked for")
            # Its status waits behind what it does not take; here nobody waits for that.
            late = asyncio.create_task(_abort_late(context))
            self._late.add(late)
            late.add_done_callback(self._late.discard)
            raise asyncio.CancelledError from None

    async def _caller(self, context: Context, roles: Collection[Role] = ("scientist", "operator")) -> str:
        try:
            who = tls.caller(context, roles=roles, revoked=self._revoked)
        except TrustError as error:
            log.warning("a caller was refused", why=str(error))
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
            raise
        return f"{who.role}:{who.name}"


def _key_shown(key: EstablishedKey, among: Collection[EstablishedKey]) -> KeyShown:
    """Return how ``key`` is shown; it is used if it is the last of its scheme and not too old."""
    document = key.document
    last = [other for other in among if other.document.scheme == document.scheme][-1]
    return KeyShown(document.key.hex(), document.scheme, audit_line(document), key is last and usable(key))


async def _next(requests: AsyncIterator[bytes]) -> bytes:
    with suppress(StopAsyncIteration, TimeoutError):
        async with asyncio.timeout(PIECE_SECONDS):
            return await anext(requests)
    raise MalformedMessage("the call ended before all of it was sent")


async def _abort_late(context: Context) -> None:
    with suppress(Exception):  # The caller has gone meanwhile.
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "too slow to take what it asked for")


def _failed(error: SecaggError, who: str) -> bytes:
    log.info("a call was refused", caller=who, kind=type(error).__name__)
    return encode(Failed.of(error))
