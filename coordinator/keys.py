"""Keys of the coordinator's silos: made in a ceremony over their lines, remembered by what is public of them.

The coordinator relays and learns the document. Making a key again is how it is rotated: the new one replaces
the last of its scheme, and rounds that begin from then on use it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import structlog

from coordinator.lines import Arrived, Broken, Event, Gone, Joined, Lines, Unkept
from coordinator.run import policy_rules
from coordinator.runs import Runs
from coordinator.store import Store
from secagg import wire
from secagg.ckks.parameters import DEFAULT_DEGREE
from secagg.cohort import Cohort
from secagg.errors import (
    FaultySilo,
    MalformedMessage,
    PolicyRefused,
    SecaggError,
    TooFewSilos,
    UnexpectedMessage,
)
from secagg.explanation import annotate, explain, whom_and_why
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

AWAY_SECONDS = 5.0
"""How long a silo is waited for that is not connected: no key can come of it without any one of them."""
HEARING_SECONDS = 2.0
"""How long silos that have not answered are heard after one refused, so that all that refuse are named."""

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
            PolicyRefused: by the policy of silos; the error names all of them.
            TooFewSilos: silos are not there, or left the protocol; the error names them.
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
            key = await _Ceremony(ceremony, self._lines, scheme).run()
        await asyncio.to_thread(self._store.add_key, key)
        log.info("key made", asker=by, key=audit_line(key.document))
        return key


class _Ceremony:
    """Drives one ceremony over the lines."""

    def __init__(self, ceremony: KeyCeremony, lines: Lines, scheme: KeyScheme) -> None:
        self._ceremony = ceremony
        self._lines = lines
        self._scheme = scheme
        self._reasons: dict[SiloId, str] = {}
        self._away: dict[SiloId, float] = {}  # Until when a silo may come back.
        self._over: float | None = None  # When it ends without a key.

    async def run(self) -> EstablishedKey:
        box = self._lines.listen()
        loop = asyncio.get_running_loop()
        try:
            self._send(self._ceremony.open(loop.time()))
            self._miss(loop.time())
            while (outcome := self._ceremony.outcome) is None:
                await self._take(await self._next(box))
                if self._hears(loop.time()):
                    continue
                # Checking what the maker dealt, and reading its key, is arithmetic with large numbers.
                self._send(await asyncio.to_thread(self._ceremony.advance, loop.time()))
                self._miss(loop.time())
        except TooFewSilos as few:
            raise no_key(few, self._reasons, self._scheme) from None
        else:
            return outcome
        finally:
            self._lines.deafen()

    async def _next(self, box: asyncio.Queue[Event]) -> Event | None:
        ends = (self._ceremony.deadline, self._over, *self._away.values())
        moments = [moment for moment in ends if moment is not None]
        with suppress(TimeoutError):
            async with asyncio.timeout_at(min(moments, default=None)):
                return await box.get()
        return None

    def _miss(self, now: float) -> None:
        """Note who is awaited and not connected, and give up whoever has been so for too long."""
        absent = self._ceremony.waiting - self._lines.present
        if absent - self._away.keys():
            log.info("a key waits for silos", missing=", ".join(self._lines.roster.ordered(absent)))
        self._away = {silo: self._away.get(silo, now + AWAY_SECONDS) for silo in absent}
        for silo, until in self._away.items():
            if until <= now:
                self._lose(silo, "not connected", struck=True)

    def _hears(self, now: float) -> bool:
        """Whether it ends without a key, and others may still say that they refuse too."""
        self._miss(now)
        if not self._ceremony.left:
            return False
        if self._over is None:
            self._over = now + HEARING_SECONDS
        present = self._lines.present
        if now < self._over and self._ceremony.waiting & present:
            return True
        for silo in frozenset(self._lines.roster.silos) - present:
            self._lose(silo, "not connected", struck=True)  # So that all who are missing are named.
        return False

    async def _take(self, event: Event | None) -> None:
        match event:
            case None:
                pass
            case Arrived(silo, frame):
                await self._receive(silo, frame)
                self._lines.read(event)
            case Joined(silo):
                self._join(silo)
            case Gone():
                pass  # ``_miss`` sees that it is not there.
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

    def _join(self, silo: SiloId) -> None:
        """Invite a silo whose process is a new one; it knows nothing of this ceremony."""
        invitation, awaited = self._ceremony.invitation, silo in self._ceremony.waiting
        if invitation is not None and awaited:
            self._lines.send(silo, wire.encode(invitation))
        elif awaited or self._ceremony.phase != "KeyTaken":
            self._lose(silo, "it restarted", struck=True)

    def _lose(self, silo: SiloId, why: str, *, struck: bool = False) -> None:
        self._reasons.setdefault(silo, why)
        self._ceremony.lose(silo, struck=struck)

    def _send(self, step: CoordinatorStep) -> None:
        for silo, message in step.output.items():
            self._lines.send(silo, wire.encode(message))


def no_key(few: TooFewSilos, reasons: Mapping[SiloId, str], scheme: KeyScheme) -> SecaggError:
    """Return why no key was made, explained: ``few``, or that policies refused."""
    rules = policy_rules({silo: reasons.get(silo, "") for silo in few.missing})
    if not rules:
        annotate(few, explain(few, reasons=reasons))
        return few
    refusing = ", ".join(rules)
    cause = f"{few.have} of {few.need} silos took part: {whom_and_why(few.missing, reasons)}"
    refused = PolicyRefused("ceremony", f"no key was made: {refusing} refused it by policy", tuple(rules))
    words = replace(explain(refused), what=f"no key was made: {refusing} refused it by policy", cause=cause)
    if set(rules.values()) == {"scheme"}:
        add = f'{refusing}: add "{scheme}" to schemes in [policy] of silo.toml, then start the silo again'
        words = replace(words, they_can=add)
    annotate(refused, words)
    return refused


def usable(key: EstablishedKey) -> bool:
    """Whether a key is within its lifetime by this machine's clock; the silos decide by theirs."""
    return time.time() < key.document.expires
