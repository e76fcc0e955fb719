"""One run from its first round to its verdict: waits, rounds, and what is kept of each.

What a round asked of silos is on disk before it leaves, and the record of an opened sum and the model that
follows are one file; so a run goes on where it was, and no silo trains twice. A round that did not open
leaves nothing. ``model.safetensors`` and its card appear when the run is complete.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import structlog

from coordinator.failures import Failed
from coordinator.feed import Feed, Waiting
from coordinator.lines import Lines
from coordinator.model_file import (
    Layout,
    StoredModel,
    write_checkpoint,
    write_model,
    write_sealed,
    write_whole,
)
from coordinator.rounds import run_round
from coordinator.store import Store, StoredRun, Verdict
from secagg.errors import (
    PolicyRefused,
    PrivacyBudgetExhausted,
    RoundAborted,
    RunStopped,
    SecaggError,
    TooFewSilos,
    UsageError,
    exit_code,
)
from secagg.explanation import annotate, explain
from secagg.learning.card import model_card
from secagg.learning.history import Record, rounds_of
from secagg.learning.model import Blocks, SealedBase
from secagg.learning.progress import PhaseWatcher
from secagg.learning.run import Run
from secagg.messages import BUDGET_SPENT
from secagg.names import SiloId
from secagg.records import CoordinatorRecord
from secagg.report import level_mark, plural
from secagg.rounds.coordinator import RoundCoordinator
from secagg.rounds.driver import RoundDriver
from secagg.rounds.reporting import reasons_of
from secagg.session import Aggregate, SealedSum

CHECKPOINT = "checkpoint.safetensors"
MODEL = "model.safetensors"
CARD = "model.card.json"

RETURN_SECONDS = 60.0
"""How long a run that goes on, in another process or after a halt, waits for silos beyond a quorum."""

COMPLETE = {"completed", "degraded"}
DEGRADED = 8

_NOT_POLICY = ("input: ", "missing extra", "trainer", "faulty ", "no sum", "wrong parts", "error")
"""Begin the rules of refusals that are no policy's: something went wrong at the silo."""

log = structlog.get_logger("coordinator")


class Driving:
    """Drives one run to its verdict."""

    def __init__(
        self,
        store: Store,
        lines: Lines,
        folder: Path,
        stored: StoredRun,
        run: Run[StoredModel | SealedBase],
        feed: Feed,
        *,
        goes_on: bool,
    ) -> None:
        self._store = store
        self._lines = lines
        self._folder = folder
        self._name = stored.id
        self._request = stored.request
        self._run = run
        self._feed = feed
        self._goes_on = goes_on
        self._roster = run.roster
        self._wanted = stored.request.silos or run.roster.n
        self._quorum = run.quorum
        self._coordinator: RoundCoordinator | None = None
        self._driver: RoundDriver | None = None
        self.last = ""  # Why no other round may begin.

    @property
    def in_round(self) -> bool:
        """Whether silos are at work."""
        return self._driver is not None

    @property
    def where(self) -> tuple[int | None, str | None]:
        """The round that is next or under way, and its phase."""
        if self._driver is None:
            return (None if self._run.finished else self._run.number), None
        return self._driver.coordinator.terms.round, self._driver.phase

    async def run(self) -> Verdict:
        """Run all rounds."""
        # In a run that goes on, whoever is not back soon was lost; one that begins waits for everybody.
        wanted, patience = self._wanted, RETURN_SECONDS if self._goes_on else self._request.training_seconds
        while not self._run.finished:
            if self.last:
                raise RunStopped(self.last)
            await self._wait(wanted, patience)
            await self._round()
            wanted = self._quorum  # A silo that was lost comes back when it can.
        done = asyncio.create_task(asyncio.to_thread(self._complete))
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            return await done  # Too late to stop.

    # --- waiting -------------------------------------------------------------------------------------------

    async def _wait(self, wanted: int, patience: float) -> None:
        """Wait for ``wanted`` silos, then for a quorum, until the time for training is over.

        Args:
            wanted: how many; fewer than a quorum are never enough.
            patience: seconds after which a quorum is enough.

        Raises:
            TooFewSilos: there is none.
        """
        loop, quorum, most = asyncio.get_running_loop(), self._quorum, self._request.training_seconds
        began, since = loop.time(), time.time()
        told: frozenset[SiloId] | None = None
        while len(connected := self._lines.connected) < max(wanted, quorum):
            seconds = min(patience, most) if len(connected) >= quorum else most
            if loop.time() >= began + seconds:
                break
            if connected != told:
                self._tell_wait(self._missing(connected), len(connected), since, since + seconds)
                told = connected
            with suppress(TimeoutError):
                async with asyncio.timeout_at(began + seconds):
                    await self._lines.change()
        if len(connected) < quorum:
            raise TooFewSilos(len(connected), quorum, "Training", self._missing(connected))

    def _tell_wait(self, missing: tuple[SiloId, ...], have: int, since: float, until: float) -> None:
        need = self._quorum
        log.info("run waits", run=self._name, missing=", ".join(missing), have=have, need=need)
        self._feed.waiting(Waiting(missing, have, need, since, until))

    def _tell_short(self, recalled: frozenset[SiloId], have: int, seconds: float) -> None:
        now = time.time()
        self._tell_wait(self._roster.ordered(recalled), have, now, now + seconds)

    def _missing(self, connected: frozenset[SiloId]) -> tuple[SiloId, ...]:
        return tuple(silo for silo in self._roster.silos if silo not in connected)

    # --- a round -------------------------------------------------------------------------------------------

    async def _round(self) -> None:
        number = self._run.number
        known = self._store.memory(self._name, number)
        self._coordinator = self._run.next_round(known)
        memory = _Memory(self._store, self._name, self._coordinator)
        driver = RoundDriver(
            self._coordinator,
            sync=memory.sync,
            timer=time.perf_counter,
            watcher=PhaseWatcher(self._feed, number, self._run.phases),
        )
        self._feed.round_started(number, attempt=known.attempt + 1)
        log.info("round begins", run=self._name, round=number, attempted=known.attempt)
        self._driver = driver
        try:
            await run_round(
                driver,
                self._lines,
                seconds=self._request.phase_seconds,
                keep=lambda outcome: _undisturbed(lambda: self._keep(driver, outcome)),
                short=self._tell_short,
            )
        except asyncio.CancelledError:
            memory.close()
            raise
        finally:
            self._driver = None

    def _keep(self, driver: RoundDriver, outcome: Aggregate | SealedSum) -> None:
        record = self._run.opened(driver, outcome)
        self._store.add_record(self._name, record)
        report = record.report
        log.info(
            "sum opened",
            run=self._name,
            round=report.round,
            silos=len(report.survivors),
            attempts=report.attempts,
            seconds=round(sum(report.seconds.values()), 3),
        )
        self._feed.round_finished(report, record.metrics)

    # --- the end -------------------------------------------------------------------------------------------

    def _complete(self) -> Verdict:
        records, model = self._run.records, self._run.model
        where = ""
        if isinstance(model, SealedBase):
            where = (
                f"\n  the model is at the silos alone: silo model show {self._run.job}"
                f"\n  digest {model.digest.hex()[:16]}"
            )
        else:
            layout: Layout = self._request.layout
            write_model(self._folder / MODEL, model, layout)
            card = model_card(records, self._folder / MODEL, parameters=model.length)
            write_whole(self._folder / CARD, json.dumps(card, indent=2).encode() + b"\n")
        smallest = min(records, key=lambda record: len(record.report.survivors)).report
        silos = f"{len(smallest.survivors)} of {smallest.n} silos in the smallest sum"
        level, rounds = level_mark(smallest.scheme), plural(rounds_of(records), "round")
        if len(smallest.survivors) >= self._wanted:
            return Verdict(state="completed", exit=0, text=f"{level}completed: {rounds}, {silos}{where}")
        lost = ", ".join(f"{silo} ({why})" for silo, why in smallest.dropouts.items())
        text = (
            f"{level}degraded: {rounds}, {silos}, {self._wanted} were asked for; {smallest.title} went on "
            f"without {lost or 'those that were not there'}{where}"
        )
        return Verdict(state="degraded", exit=DEGRADED, text=text)

    def judge(self, error: SecaggError, *, on_purpose: bool = False) -> Verdict:
        """Return the verdict on a run that ``error`` ended; ``on_purpose``: somebody halted this run."""
        number = self._run.number
        reasons = {} if self._coordinator is None else reasons_of(self._coordinator)
        refused = _refusal(error, reasons)
        if refused is not None:
            silos, by_policy = refused
            annotate(by_policy, explain(by_policy, round_number=number, silo=silos))
            return verdict_on("refused", by_policy)
        if isinstance(error, RoundAborted) and self._coordinator is not None:
            error.opened |= self._coordinator.may_be_open
        annotate(
            error,
            explain(error, round_number=number, reasons=reasons, protected=self._run.protected),
        )
        return verdict_on("stopped" if on_purpose else "halted", error)


class _Memory:
    """Writes what must be known of an attempt if the process ends, before the messages leave that need it."""

    def __init__(self, store: Store, run: str, coordinator: RoundCoordinator) -> None:
        self._store = store
        self._run = run
        self._coordinator = coordinator
        self._written = coordinator.memory
        self._lock = threading.Lock()
        self._closed = False

    def sync(self, _records: Sequence[CoordinatorRecord]) -> None:
        """Called with the records of a step, before what they allow is sent."""
        with self._lock:
            if self._closed:
                raise UsageError("the run was stopped: nothing of this step may leave")
            now = self._coordinator.memory
            if now != self._written:
                number = self._coordinator.terms.round
                self._store.set_memory(self._run, number, now)
                self._written = now

    def close(self) -> None:
        """Write no more: a step that is still being worked on is not sent either."""
        with self._lock:
            self._closed = True


async def _undisturbed(work: Callable[[], None]) -> None:
    """Do ``work`` in a thread, to its end however often this task is cancelled meanwhile."""
    task = asyncio.create_task(asyncio.to_thread(work))
    stopped: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            stopped = error
    task.result()
    if stopped is not None:
        raise stopped


def keeping(folder: Path) -> Callable[[Blocks, Record], StoredModel]:
    """Return what puts the model that follows a sum, and the sum's record, into the folder of a run."""
    return lambda base, record: write_checkpoint(folder / CHECKPOINT, base, record)


def sealing(folder: Path) -> Callable[[SealedBase, Record], SealedBase]:
    """Return what puts the name of a model that silos alone have, and the sum's record, into that folder."""

    def seal(base: SealedBase, record: Record) -> SealedBase:
        write_sealed(folder / CHECKPOINT, base, record)
        return base

    return seal


def policy_rules(reasons: Mapping[SiloId, str]) -> dict[SiloId, str]:
    """Return who refused by policy, and the rule."""
    rules = {
        silo: why.removeprefix("refused: ") for silo, why in reasons.items() if why.startswith("refused: ")
    }
    return {silo: rule for silo, rule in rules.items() if not rule.startswith(_NOT_POLICY)}


def _refusal(
    error: SecaggError, reasons: dict[SiloId, str]
) -> tuple[str, PolicyRefused | PrivacyBudgetExhausted] | None:
    """Return who refused by policy and their rule, if with them there would have been enough silos."""
    if not isinstance(error, TooFewSilos):
        return None
    by_policy = policy_rules(reasons)
    if not by_policy or error.have + len(by_policy) < error.need:
        return None
    rule, _, named = next(iter(by_policy.values())).rstrip(")").partition(" (")
    told = ", ".join(f"{silo} ({rule})" for silo, rule in by_policy.items())
    text = f"{error.have} silos answered, {error.need} are needed; refused by policy: {told}"
    if rule == BUDGET_SPENT:
        return " and ".join(by_policy), PrivacyBudgetExhausted(text)
    # A lock names whose return would help, a ledger whose it is: behind one word that says which.
    silos = tuple(named.partition(" ")[2].split(", ")) if named else ()
    return " and ".join(by_policy), PolicyRefused(rule, text, silos)


def verdict_on(state: Literal["halted", "refused", "stopped"], error: SecaggError) -> Verdict:
    """Return the verdict that stands for ``error``, with its explanation as text."""
    failed = Failed.of(error)
    return Verdict(state=state, exit=exit_code(error), text=failed.note, failure=failed.bytes())
