"""Keys of the coordinator's silos: made in a ceremony over their lines, remembered by what is public of them.

The coordinator relays and learns the document. Making a key again is how it is rotated: the new one replaces
the last of its scheme, and rounds that begin from then on use it.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from coordinator.lines import Arrived, Broken, Event, Gone, Joined, Lines, Unkept
from coordinator.runs import Runs
from coordinator.store import Store
from secagg import wire
from secagg.ckks.parameters import DEFAULT_DEGREE
from secagg.cohort import Cohort
from secagg.errors import FaultySilo, MalformedMessage, SecaggError, UnexpectedMessage
from secagg.explanation import annotate, explain
from secagg.keys.coordinator import EstablishedKey, KeyCeremony
from secagg.keys.document import DEFAULT_LIFETIME, audit_line
from secagg.messages import Refused
from secagg.names import SiloId
from secagg.paillier.params import DEFAULT_BITS
from secagg.payload import Frame
from secagg.session import CoordinatorStep
from secagg.terms import KeyScheme

PHASE_SECONDS = 120.0
"""How long each phase of a ceremony waits; a threshold key of 3072 bits takes its maker some ten seconds."""

log = structlog.get_logger("coordinator")


class Keys:
    """The keys of one federation.

    Args:
        store: what is remembered.
        lines: to the silos.
        runs: none is under way while a key is made.
        federation: its name.
    """

    def __init__(self, store: Store, lines: Lines, runs: Runs, *, federation: str) -> None:
        self._store = store
        self._lines = lines
        self._runs = runs
        self._federation = federation

    def all(self) -> tuple[EstablishedKey, ...]:
        """Return every key, oldest first."""
        return self._store.keys()

    async def make(
        self,
        scheme: KeyScheme,
        *,
        size: int | None = None,
        threshold: int | None = None,
        maker: SiloId | None = None,
        lifetime: int | None = None,
        by: str,
    ) -> EstablishedKey:
        """Let the silos make a key, and remember it.

        Args:
            scheme: what it is for.
            size: bits of a Paillier key, degree of a CKKS ring; None for the default.
            threshold: how many open together; None for the least of the roster, or where one opens alone.
            maker: the silo that makes it; None for the first of the roster.
            lifetime: seconds; None for the default.
            by: who asks, ``role:name``.

        Raises:
            ParameterError: there are no such keys, or the maker is not in the roster.
            UsageError: a run is under way.
            TooFewSilos: a silo is not there, or refused; the error names it.
            EnvironmentFault: it cannot be kept.
        """
        roster = self._lines.roster
        if threshold is None and scheme == "threshold-paillier":
            threshold = Cohort.of(roster.n).t
        before = self._store.key(scheme)
        ceremony = KeyCeremony(
            roster,
            federation=self._federation,
            scheme=scheme,
            size=size or (DEFAULT_DEGREE if scheme == "ckks" else DEFAULT_BITS),
            threshold=threshold,
            maker=maker or roster.silos[0],
            lifetime=lifetime or DEFAULT_LIFETIME,
            replaces=None if before is None else before.document.key,
            seconds=PHASE_SECONDS,
        )
        async with self._runs.idle():
            log.info("a key is being made", scheme=scheme, asker=by)
            key = await _Ceremony(ceremony, self._lines).run()
        await asyncio.to_thread(self._store.add_key, key)
        log.info("key made", asker=by, key=audit_line(key.document))
        return key


class _Ceremony:
    """Drives one ceremony over the lines."""

    def __init__(self, ceremony: KeyCeremony, lines: Lines) -> None:
        self._ceremony = ceremony
        self._lines = lines
        self._reasons: dict[SiloId, str] = {}

    async def run(self) -> EstablishedKey:
        box = self._lines.listen()
        loop = asyncio.get_running_loop()
        try:
            self._send(self._ceremony.open(loop.time()))
            for silo in frozenset(self._lines.roster.silos) - self._lines.present:
                self._lose(silo, "not connected")
            while (outcome := self._ceremony.outcome) is None:
                await self._take(await self._next(box))
                self._send(self._ceremony.advance(loop.time()))
        except SecaggError as error:
            annotate(error, explain(error, reasons=self._reasons))
            raise
        else:
            return outcome
        finally:
            self._lines.deafen()

    async def _next(self, box: asyncio.Queue[Event]) -> Event | None:
        try:
            async with asyncio.timeout_at(self._ceremony.deadline):
                return await box.get()
        except TimeoutError:
            return None

    async def _take(self, event: Event | None) -> None:
        match event:
            case None:
                pass
            case Arrived(silo, frame):
                await self._receive(silo, frame)
                self._lines.read(event)
            case Joined(silo):
                self._lose(silo, "it restarted")
                invitation = self._ceremony.invitation
                if invitation is not None and silo in self._ceremony.waiting:
                    self._lines.send(silo, wire.encode(invitation))
            case Gone(silo):
                self._lose(silo, "it is away")
            case Broken(silo, fault):
                self._lose(silo, f"faulty: {fault}", struck=True)
            case Unkept(fault):
                raise fault

    async def _receive(self, silo: SiloId, frame: Frame) -> None:
        try:
            message = wire.decode_from_silo(*frame)
            if isinstance(message, Refused):
                self._reasons[silo] = f"refused: {message.rule}"
            # Checking what the maker dealt, its key above all, is arithmetic with large numbers.
            await asyncio.to_thread(self._ceremony.receive, silo, message)
        except UnexpectedMessage:
            pass  # Of a run or a ceremony that is over.
        except (FaultySilo, MalformedMessage) as fault:
            self._lose(silo, f"faulty: {fault}", struck=True)

    def _lose(self, silo: SiloId, why: str, *, struck: bool = False) -> None:
        self._reasons.setdefault(silo, why)
        self._ceremony.lose(silo, struck=struck)

    def _send(self, step: CoordinatorStep) -> None:
        for silo, message in step.output.items():
            self._lines.send(silo, wire.encode(message))


def usable(key: EstablishedKey) -> bool:
    """Whether a key is within its lifetime by this machine's clock; the silos decide by theirs."""
    return time.time() < key.document.expires
