"""A silo's end of a meeting: silos that speak to each other, sealed end to end, through the coordinator.

A ``Side`` is driven here: its frames go to its partners' processes and theirs come to it. When a partner, the
coordinator or a connection is lost, the side is dropped, all meet again, and a new side begins from its own
checkpoints. It needs no journal and no state folder, so it runs beside ``silo run`` of the same silo.

Source: ``docs/wire.md``, "Meetings of silos"; ``docs/decisions/0022-meetings-of-silos.md``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import stamina
import structlog

from secagg import __version__
from secagg.channel.end import Channel
from secagg.channel.handshake import Ends
from secagg.channel.relay import MAX_PARTIES, MEETINGS, Join, Met, Missing, decode_from_relay, encode
from secagg.conversation import Side
from secagg.errors import (
    EnvironmentFault,
    FaultyCoordinator,
    MalformedMessage,
    ParameterError,
    PartnersMissing,
    ProtocolError,
    SecaggError,
)
from secagg.link.frames import PROTOCOL
from secagg.names import SiloId
from secagg.ranges import positive, whole
from secagg.roster import check_silo
from secagg.wire import MAX_HEADER_SIZE, MAX_LENGTH
from silo.client import OPTIONS, refusal, shown  # Before grpc: it sets what grpc reads when it is imported.
from silo.config import SiloConfig
from silo.partners import Lost, Partners, Stream, read
from silo.side import SideThread
from silo.tls import Dialling, dialling

import grpc  # isort: skip
import grpc.aio  # isort: skip

T = TypeVar("T")

PATIENCE = 600.0
"""Seconds for which partners or the coordinator are waited for, each time that one is lost."""
LARGEST = MAX_LENGTH + MAX_HEADER_SIZE
"""Bytes that one message of a partner may have: the longest payload of single bytes, and its header."""
FIRST_WAIT = 0.2
LONGEST_WAIT = 5.0
JITTER = 0.5
"""Seconds between two tries at the least and at the most, and what is added by lot."""
JOIN = f"/{MEETINGS}/Join"

State: TypeAlias = Literal["waiting", "meeting", "at work", "ending"]

_SAID: Mapping[State, str] = {
    "meeting": "all parties are there",
    "at work": "all parties are who they should be; the work begins",
    "ending": "this side ended well; the others are waited for",
}

log = structlog.get_logger("silo")


@dataclass(frozen=True)
class Progress:
    """How a meeting stands.

    Attributes:
        state: ``"waiting"`` for somebody; ``"meeting"``: all are there and shake hands; ``"at work"``: the
            side runs; ``"ending"``: it has ended well here, and others still work.
        since: when that began, UTC.
        missing: who is waited for; empty with ``"waiting"`` while it is the coordinator.
        sent, received: partner -> bytes of sealed records, in all incarnations of the meeting.
    """

    state: State
    since: datetime
    missing: tuple[SiloId, ...]
    sent: Mapping[SiloId, int]
    received: Mapping[SiloId, int]


Watch: TypeAlias = Callable[[Progress], None]
"""Told in the event loop's thread whenever the state changes or bytes moved; it returns at once."""


async def meet(
    config: SiloConfig,
    meeting: str,
    parties: tuple[SiloId, ...],
    side: Callable[[], Side[T]],
    *,
    patience: float = PATIENCE,
    largest: int = LARGEST,
    watch: Watch | None = None,
) -> T:
    """Meet the other parties, drive a side of the protocol with them, and return what it learned.

    Args:
        config: of this silo: its identity, pinned roster, certificates and coordinator.
        meeting: a name that the parties agreed on, of the form of a silo's; none of them uses it for another
            meeting at that time.
        parties: 2 to 10 silos of the roster, this one among them, in the order that all of them give.
        side: makes this silo's side, which knows its own data alone; called anew, in a thread of its own,
            each time that all have met.
        patience: seconds for which whoever is missing is waited for, each time.
        largest: bytes that one message of a partner may have.
        watch: told of progress.

    Raises:
        ParameterError: names that cannot meet; or another party came with another list of parties.
        PartnerStopped: a partner ended it, and why: its policy's rule, a fault, or trouble of its own.
        FaultySilo: a partner left the protocol.
        FaultySiloOrCoordinator: what came in a partner's name is not what it sent, or it left the protocol.
        FaultyCoordinator: what came is no message of a meeting.
        PartnersMissing: whoever is missing did not come in time.
        EnvironmentFault: the coordinator could not be reached in time; it speaks another version; another
            process of this silo came to the meeting; a file cannot be read.
        TrustError: coordinator, roster or certificates are not those that were confirmed.
        Exception: whatever the side raises.

    Guarantees:
        The coordinator sees who meets, when, and sizes of records; never a byte of what is said.
        A partner is the silo of that name in the roster pinned here, or no side begins.
        If the side raises, every partner is told which rule stopped it, and nothing else.
        A side whose partner is lost is closed before another one begins.
    """
    return await _Meeting(config, meeting, parties, side, patience, largest, watch).run()


def meet_now(
    config: SiloConfig,
    meeting: str,
    parties: tuple[SiloId, ...],
    side: Callable[[], Side[T]],
    *,
    patience: float = PATIENCE,
    largest: int = LARGEST,
    watch: Watch | None = None,
) -> T:
    """Do as ``meet``, from a thread without an event loop: for commands."""
    return asyncio.run(meet(config, meeting, parties, side, patience=patience, largest=largest, watch=watch))


def check_parties(config: SiloConfig, meeting: str, parties: tuple[SiloId, ...]) -> None:
    """Check that ``parties`` can meet under that name, before anything is read or computed for it.

    Raises:
        ParameterError: they cannot.
    """
    try:
        check_silo(meeting)
    except ParameterError:
        raise ParameterError(
            f"the meeting's name {meeting!r}: 1 to 64 of letters, digits, dot, underscore, hyphen"
        ) from None
    roster = config.members()
    if not 2 <= len(parties) <= MAX_PARTIES:
        raise ParameterError(f"{len(parties)} parties cannot meet; 2 to {MAX_PARTIES} can")
    if len(set(parties)) < len(parties):
        raise ParameterError("a silo stands twice among the parties")
    if strangers := [party for party in parties if party not in roster]:
        raise ParameterError(
            f"{', '.join(strangers)}: not in the roster, which has {', '.join(roster.silos)}"
        )
    if config.name not in parties:
        raise ParameterError(f"this silo, {config.name}, is not among the parties {', '.join(parties)}")


class _Meeting(Generic[T]):
    def __init__(
        self,
        config: SiloConfig,
        meeting: str,
        parties: tuple[SiloId, ...],
        side: Callable[[], Side[T]],
        patience: float,
        largest: int,
        watch: Watch | None,
    ) -> None:
        check_parties(config, meeting, parties)
        self._config = config
        self._identity, self._roster = config.member()
        self._meeting = meeting
        self._parties = parties
        self._others = tuple(party for party in parties if party != config.name)
        self._side = side
        self._patience = positive("patience", patience)
        self._largest = whole("largest", largest, least=1)
        self._watch = watch
        self._dialling: Dialling | None = None
        self._sent = dict.fromkeys(self._others, 0)
        self._received = dict.fromkeys(self._others, 0)
        self._state: State = "waiting"
        self._since = datetime.now(UTC)
        self._missing: tuple[SiloId, ...] = ()
        self._deadline: float | None = None
        self._trusted = False
        self._why = ""
        self._met = self._met_before = False
        self._learned: list[T] = []
        """What a side returned whose partners were lost before all had said that they ended well."""

    async def run(self) -> T:
        """Meet until a side has ended well."""
        while True:
            tries = stamina.retry_context(
                on=Lost,
                attempts=None,
                timeout=None,
                wait_initial=FIRST_WAIT,
                wait_max=LONGEST_WAIT,
                wait_jitter=JITTER,
            )
            async for attempt in tries:
                with attempt:
                    try:
                        return await self._try()
                    except Lost as lost:
                        self._wait(str(lost))
                        if not self._met:
                            raise
            # All had met: tries count anew.

    async def _try(self) -> T:
        """Meet once."""
        self._met = False
        loop = asyncio.get_running_loop()
        if self._deadline is None:
            self._deadline = loop.time() + self._patience
        limit = asyncio.timeout_at(self._deadline)
        try:
            async with limit:
                credentials = self._credentials()
                address = self._config.coordinator
                async with grpc.aio.secure_channel(address, credentials, options=OPTIONS) as channel:
                    connect: Any = channel.stream_stream  # Its stubs demand what has defaults.
                    stream = connect(JOIN)()
                    try:
                        return await self._meet(stream, limit)
                    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                        raise await self._ended(stream) from None
                    finally:
                        stream.cancel()
        except TimeoutError:
            if not limit.expired():
                raise  # Of the side's own.
            if not self._learned:
                raise self._out_of_patience() from None
            self._warn_of_silence(self._missing or self._others)
            return self._learned[0]

    async def _meet(self, stream: Stream, limit: asyncio.Timeout) -> T:
        """Join, wait until all are there, and drive one side to its end."""
        join = Join(PROTOCOL, __version__, self._roster.digest, self._meeting, self._parties)
        await stream.write(encode(join))
        while not isinstance(news := await self._news(stream), Met):
            self._tell("waiting", news.parties)
        self._tell("meeting", self._others)
        partners = Partners(
            stream, {other: self._channel(other) for other in self._others}, moved=self._count
        )
        async with partners.speaking(), SideThread(self._side, partners) as side:
            try:
                try:
                    await partners.shake_hands()
                finally:
                    self._missing = partners.unopened
                self._deadline, self._met, self._met_before = None, True, True
                limit.reschedule(None)
                self._tell("at work")
                learned = await partners.meanwhile(side.learned())
                self._learned[:] = [learned]
                self._tell("ending")
                silent = await partners.finish(self._patience)
            except BaseException as error:
                if not limit.expired():
                    limit.reschedule(None)
                await partners.stop(error)
                self._drop(error)
                raise
        if silent:
            self._warn_of_silence(silent)
        return learned

    def _channel(self, other: SiloId) -> Channel:
        ends = Ends(self._roster, self._meeting, self._parties, self._config.name, other)
        return Channel(ends, self._identity, largest=self._largest)

    async def _news(self, stream: Stream) -> Missing | Met:
        try:
            news = decode_from_relay(await read(stream))
        except MalformedMessage as fault:
            raise FaultyCoordinator(str(fault)) from None
        self._trusted = True
        if not isinstance(news, Missing | Met):
            raise FaultyCoordinator("a meeting begins with who is missing")
        return news

    def _credentials(self) -> grpc.ChannelCredentials:
        try:
            self._dialling = dialling(self._config.tls, name=self._config.name)
        except SecaggError:
            # They may be just being renewed, file after file.
            if self._dialling is None or self._dialling.until <= datetime.now(UTC):
                raise
        return self._dialling.credentials

    # --- ends ----------------------------------------------------------------------------------------------

    async def _ended(self, stream: Stream) -> SecaggError | Lost:
        """Return what the end of ``stream`` means."""
        stream.cancel()  # Nothing if it is over.
        code, details = await stream.code(), shown(await stream.details())
        address = self._config.coordinator
        match code:
            case grpc.StatusCode.FAILED_PRECONDITION if details.startswith("parties"):
                return ParameterError(details)
            case grpc.StatusCode.ALREADY_EXISTS:
                return EnvironmentFault(f"{details}; let one of the two run")
            case grpc.StatusCode.INVALID_ARGUMENT:
                return ProtocolError(f"the coordinator at {address} refuses what this silo sends: {details}")
        final = refusal(address, code, details, trusted=self._trusted)
        return Lost(f"{code.name.lower().replace('_', ' ')}: {details}") if final is None else final

    def _out_of_patience(self) -> SecaggError:
        parties, patience = ", ".join(self._parties), f"{self._patience:.0f} s"
        if self._missing:
            names = ", ".join(self._missing)
            if self._met_before:
                return PartnersMissing(
                    self._missing,
                    f"{names} did not come back to the meeting {self._meeting} within {patience}: what was "
                    "done is kept, type the same command again at every party",
                    met=True,
                )
            return PartnersMissing(
                self._missing,
                f"{names} did not come to the meeting {self._meeting} within {patience}: start the same "
                f"command there, with this meeting and the parties {parties}, or wait longer with --wait",
            )
        return EnvironmentFault(
            f"no meeting through the coordinator at {self._config.coordinator} within {patience} "
            f"({self._why or 'it does not answer'}): silo check says what is wrong"
        )

    def _warn_of_silence(self, silent: tuple[SiloId, ...]) -> None:
        log.warning(
            "this side ended well; not every partner said that its side did",
            meeting=self._meeting,
            silent=", ".join(silent),
        )

    # --- for people ----------------------------------------------------------------------------------------

    def _drop(self, error: BaseException) -> None:
        """Say that a side is given up; it is closed when its present step is done."""
        if self._state == "at work" and not isinstance(error, asyncio.CancelledError):
            # What others raise may quote data.
            why = str(error) if isinstance(error, SecaggError | Lost) else type(error).__name__
            log.warning("this side is given up", meeting=self._meeting, why=why)

    def _wait(self, why: str) -> None:
        """Note that a try came to nothing."""
        if self._met:
            log.warning("the meeting is over; all meet again", meeting=self._meeting, why=why)
        elif not self._why:
            text = (
                f"waiting to meet {', '.join(self._others)} through the coordinator at "
                f"{self._config.coordinator} since {self._since:%H:%M:%S} UTC, up to {self._patience:.0f} s"
            )
            log.warning(text, meeting=self._meeting, why=why)
        self._why = "" if self._met else why
        self._tell("waiting")

    def _tell(self, state: State, missing: tuple[SiloId, ...] = ()) -> None:
        """Say once what changed."""
        if (state, missing) == (self._state, self._missing):
            return
        if state != self._state:
            self._since = datetime.now(UTC)
        self._state, self._missing = state, missing
        if state == "waiting" and missing:
            text = (
                f"waiting for {', '.join(missing)} since {self._since:%H:%M:%S} UTC, up to "
                f"{self._patience:.0f} s"
            )
            log.warning(text, meeting=self._meeting)
        elif state != "waiting":
            self._why = ""
            log.info(_SAID[state], meeting=self._meeting, parties=", ".join(self._parties))
        self._show()

    def _count(self, partner: SiloId, sent: int, received: int) -> None:
        self._sent[partner] += sent
        self._received[partner] += received
        self._show()

    def _show(self) -> None:
        if self._watch is not None:
            progress = Progress(
                self._state, self._since, self._missing, dict(self._sent), dict(self._received)
            )
            self._watch(progress)
