"""The runs of a coordinator, one at a time: begun, halted, gone on with, and watched.

What happens inside a run is in ``run``. A run that was under way when its process ended, however it ended,
goes on in the next one.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import structlog

from coordinator.failures import Failed
from coordinator.feed import Ended, Feed, RunStarted
from coordinator.lines import Lines
from coordinator.model_file import (
    PART,
    FirstModel,
    StoredModel,
    check_layout,
    read_checkpoint,
    unwritable,
    write_checkpoint,
)
from coordinator.on_disk import Spooled
from coordinator.run import CARD, CHECKPOINT, COMPLETE, MODEL, Driving, keeping, sealing, verdict_on
from coordinator.store import Store, StoredRun, Verdict
from secagg.errors import RunStopped, SecaggError, TrustError, UsageError
from secagg.estimates import check_round_memory
from secagg.heap import return_freed_memory
from secagg.keys.coordinator import EstablishedKey
from secagg.learning.history import Record
from secagg.learning.model import SealedBase
from secagg.learning.request import RunRequest, tag_of
from secagg.learning.run import Run
from secagg.payload import Payload
from secagg.rounds.driver import phases_of
from secagg.terms import DistributedNoise, is_encrypted

FAILED = 1

log = structlog.get_logger("coordinator")


@dataclass
class _Present:
    """The run that is under way."""

    run: StoredRun
    driving: Driving
    task: asyncio.Task[None] = field(init=False)
    stop: str = ""  # Why it is being stopped.
    keep: bool = False  # It goes on when the coordinator is started again.
    verdict: Verdict | None = None


class Runs:
    """The runs of one coordinator's process.

    Args:
        store: what is remembered.
        lines: to the silos.
        folder: for models; each run has a folder of its own.
        federation: its name.
        memory_limit: bytes that this process may hold; None for what the machine has.

    Guarantees:
        At most one run is under way.
        No run begins or goes on that would need more memory, as far as ``estimates`` can tell.
        A run's folder holds ``model.safetensors`` only if every round was opened.
    """

    def __init__(
        self,
        store: Store,
        lines: Lines,
        folder: Path,
        *,
        federation: str,
        memory_limit: int | None = None,
    ) -> None:
        self._store = store
        self._lines = lines
        self._folder = folder
        self._federation = federation
        self._memory_limit = memory_limit
        self._present: _Present | None = None
        self._feeds: dict[str, Feed] = {}
        self._starting = asyncio.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for part in folder.glob(f"*/*{PART}"):
                part.unlink()
            for part in folder.glob(f"*{PART}"):  # Of runs that were being taken.
                self._settle(part)
        except OSError as error:
            raise unwritable(folder, error) from None

    @property
    def present(self) -> StoredRun | None:
        """The run that is under way."""
        return None if self._present is None else self._present.run

    @property
    def where(self) -> tuple[int | None, str | None]:
        """The round and phase of the run that is under way; None where there is none."""
        return (None, None) if self._present is None else self._present.driving.where

    def sums(self, name: str) -> int:
        """Return how many sums of a run were opened."""
        return self._store.sums(name)

    def all(self) -> tuple[StoredRun, ...]:
        """Return every run, oldest first."""
        return self._store.runs()

    def spool(self) -> Spooled:
        """Return where weights are kept while they arrive.

        Raises:
            EnvironmentFault: the disk is full.
        """
        return Spooled(self._folder, otherwise="no run was begun")

    async def start(self, request: RunRequest, weights: Payload, *, asker: str) -> str:
        """Begin a run and return its name.

        Args:
            request: what is asked for.
            weights: first global weights, float64.
            asker: who asks, ``role:name``.

        Raises:
            UsageError: another run is under way.
            ParameterError, InputRefused: a value that no run can have.
            EnvironmentFault: it cannot be kept.
        """
        async with self._starting:
            self.check_idle()
            if request.layout:
                check_layout(request.layout, weights.length)
            name = secrets.token_hex(4)
            stored, run = await asyncio.to_thread(self._keep_new, name, request, weights, asker)
            log.info("run asked for", run=name, asker=asker, rounds=request.rounds, parameters=weights.length)
            self._begin(stored, run, goes_on=False)
        return name

    async def resume(self, name: str, *, new_release: bool = False) -> None:
        """Go on with a run that ended without a verdict or was halted.

        Args:
            name: of the run.
            new_release: begin its round anew, with noise of its own: no set that was signed for it binds it.

        Raises:
            UsageError: there is no such run, it is complete, or one is under way; or a new release is asked
                for without differential privacy.
            EnvironmentFault: its checkpoint cannot be read.
        """
        async with self._starting:
            stored = self.stored(name)
            self.check_idle()
            if stored.state in COMPLETE:
                raise UsageError(f"run {name} is {stored.state}: there is nothing left to do")
            run = await asyncio.to_thread(self._restored, stored)
            if new_release:
                terms = run.terms()
                if is_encrypted(terms.scheme):
                    raise UsageError(
                        "silos may have opened the sum already, and a second release would never find "
                        "out; go on without one"
                    )
                if not isinstance(terms.privacy, DistributedNoise):
                    raise UsageError("another release of a model needs noise in its sum; begin a new run")
                memory = self._store.memory(name, run.number)
                self._store.set_memory(name, run.number, memory.next_release())
            self._store.begin_again(name)
            log.info("run goes on", run=name, round=run.number)
            self._begin(self.stored(name), run, goes_on=True)

    async def resume_interrupted(self) -> str | None:
        """Go on with the run that was under way when the process before this one ended; return its name.

        One that cannot go on is halted, and says why.
        """
        for stored in reversed(self._store.runs()):
            if stored.verdict is None:
                try:
                    await self.resume(stored.id)
                except SecaggError as error:
                    log.error("a run cannot go on", run=stored.id, why=str(error))  # noqa: TRY400 - it says all
                    self._store.end(stored.id, verdict_on("halted", error), now=datetime.now(UTC))
                    return None
                return stored.id
        return None

    async def halt(self, name: str, *, by: str) -> None:
        """Stop a run now; return when it has stopped. It can be resumed.

        Raises:
            UsageError: it is not under way, or was complete a moment before.
        """
        self.stored(name)
        present = self._present
        if present is None or present.run.id != name:
            raise UsageError(f"run {name} is not under way")
        await self._stop(present, f"{by} halted the run")
        if present.verdict is not None and present.verdict.state in COMPLETE:
            raise UsageError(f"run {name} was {present.verdict.state} before it could be halted")

    async def drain(self, seconds: float) -> bool:
        """Begin no round; halt the run if its present round takes longer; return whether it was halted.

        The run goes on when the coordinator is started again.
        """
        present = self._present
        if present is None:
            return False
        present.keep = True
        present.stop = present.driving.last = "the coordinator is being stopped"
        if present.driving.in_round:
            await asyncio.wait({present.task}, timeout=seconds)
        await self._stop(present, present.stop)
        return present.verdict is None or present.verdict.state not in COMPLETE

    async def feed(self, name: str) -> Feed:
        """Return what happens in a run; of one that is about to begin or to go on, once it does.

        Raises:
            UsageError: there is no such run.
        """
        if self.stored(name).verdict is None and name not in self._feeds:
            async with self._starting:
                pass
        stored = self.stored(name)
        if name in self._feeds:
            return self._feeds[name]
        feed = Feed(self._started(stored), self._store.records(name))
        if stored.verdict is not None:
            feed.ended(self._ended(name, stored.verdict))
        return feed

    def model(self, name: str) -> Payload:
        """Return the weights after the last opened sum of a run.

        Raises:
            UsageError: there is no such run.
            EnvironmentFault: its checkpoint cannot be read.
        """
        self.stored(name)
        model, _ = read_checkpoint(self._folder / name / CHECKPOINT)
        if isinstance(model, SealedBase):
            raise UsageError(f"the model of run {name} is at the silos alone: type `silo model list` there")
        return model.weights()

    def stored(self, name: str) -> StoredRun:
        """Return one run.

        Raises:
            UsageError: there is none of that name.
        """
        stored = self._store.run(name)
        if stored is None:
            known = ", ".join(run.id for run in self._store.runs()[-5:]) or "none yet"
            raise UsageError(f"there is no run of that name; the last ones are: {known}")
        return stored

    def check_roster(self, digest: bytes) -> None:
        """Check that a caller means these silos.

        Raises:
            TrustError: its roster is another one.
        """
        own = self._lines.roster.digest
        if digest != own:
            raise TrustError(
                f"roster: the caller has pinned {digest.hex()[:16]}, this coordinator serves "
                f"{own.hex()[:16]}; compare roster.toml with the silos"
            )

    @asynccontextmanager
    async def idle(self) -> AsyncIterator[None]:
        """Give a block in which no run begins.

        Raises:
            UsageError: one is under way.
        """
        async with self._starting:
            self.check_idle()
            yield

    def check_idle(self) -> None:
        """Check that no run is under way.

        Raises:
            UsageError: naming it.
        """
        if self._present is not None:
            run = self._present.run
            raise UsageError(
                f"run {run.id} ({run.request.name}) is under way, and there is one at a time: "
                f"wait for it, or type: coordinator run halt {run.id}"
            )

    # --- one run -------------------------------------------------------------------------------------------

    def _run(
        self,
        name: str,
        request: RunRequest,
        model: StoredModel | SealedBase,
        records: tuple[Record, ...] = (),
    ) -> Run[StoredModel | SealedBase]:
        run = request.run(
            self._lines.roster,
            model,
            federation=self._federation,
            job=_job(request, name),
            keep=keeping(self._folder / name),
            seal=sealing(self._folder / name),
            key=self._key(request),
            records=records,
        )
        if not run.finished:
            check_round_memory(run.terms(), self._memory_limit, holder="at the coordinator")
        return run

    def _key(self, request: RunRequest) -> EstablishedKey | None:
        """Return the last key for the scheme of ``request``; None where there is none."""
        match tag_of(request.scheme):
            case "masking" | "plain":
                return None
            case scheme:
                return self._store.key(scheme)

    def _restored(self, stored: StoredRun) -> Run[StoredModel | SealedBase]:
        model, record = read_checkpoint(self._folder / stored.id / CHECKPOINT)
        records = self._store.records(stored.id)
        if record is not None and record.report.round == len(records) + 1:
            # The process ended between the file and the database.
            self._store.add_record(stored.id, record)
            records = (*records, record)
        return self._run(stored.id, stored.request, model, records)

    def _keep_new(
        self, name: str, request: RunRequest, weights: Payload, asker: str
    ) -> tuple[StoredRun, Run[StoredModel | SealedBase]]:
        first = FirstModel(request.asked_strategy(), weights)
        part = self._folder / f"{name}{PART}"  # Until the database knows the run.
        try:
            part.mkdir()
        except OSError as error:
            raise unwritable(part, error) from None
        try:
            run = self._run(name, request, write_checkpoint(part / CHECKPOINT, first, None))
            stored = self._store.add_run(name, request, asker=asker, now=datetime.now(UTC))
        except SecaggError:
            shutil.rmtree(part, ignore_errors=True)
            raise
        try:
            self._settle(part)
        except OSError as error:
            raise unwritable(part, error) from None
        return stored, run

    def _settle(self, part: Path) -> None:
        """Give the folder of a run its name if the run was taken; otherwise nothing is left of it."""
        name = part.name.removesuffix(PART)
        if self._store.run(name) is None:
            shutil.rmtree(part)
        else:
            part.rename(part.with_name(name))

    def _begin(self, stored: StoredRun, run: Run[StoredModel | SealedBase], *, goes_on: bool) -> None:
        feed = Feed(self._started(stored), run.records)
        self._feeds = {stored.id: feed}  # Those of ended runs are made anew when somebody asks.
        folder = self._folder / stored.id
        driving = Driving(self._store, self._lines, folder, stored, run, feed, goes_on=goes_on)
        self._present = present = _Present(stored, driving)
        present.task = asyncio.create_task(self._drive(present, feed))

    async def _stop(self, present: _Present, why: str) -> None:
        present.stop = why
        present.task.cancel()
        await asyncio.wait({present.task})

    async def _drive(self, present: _Present, feed: Feed) -> None:
        name, keep = present.run.id, True
        try:
            verdict = await present.driving.run()
        except asyncio.CancelledError:
            keep = not present.keep
            verdict = present.driving.judge(RunStopped(present.stop), on_purpose=keep)
        except SecaggError as error:
            keep = not (present.keep and isinstance(error, RunStopped))
            verdict = present.driving.judge(error)
        except Exception as error:  # Watchers get a verdict whatever it is, and the next run may start.
            log.exception("a run ended by a mistake of this program", run=name)
            text = f"x an unexpected {type(error).__name__}; the coordinator's log shows where"
            verdict = Verdict(state="halted", exit=FAILED, text=text)
        try:
            if keep:
                self._store.end(name, verdict, now=datetime.now(UTC))
        except SecaggError as error:
            log.error("a verdict cannot be kept", run=name, why=str(error))  # noqa: TRY400 - it says all
        log.info("run ended", run=name, state=verdict.state, exit=verdict.exit)
        present.verdict = verdict
        self._present = None
        return_freed_memory()
        feed.ended(self._ended(name, verdict))

    def _started(self, stored: StoredRun) -> RunStarted:
        request, roster = stored.request, self._lines.roster
        phases = phases_of(tag_of(request.scheme))
        return RunStarted(stored.id, request.name, roster.silos, phases, request.rounds)

    def _ended(self, name: str, verdict: Verdict) -> Ended:
        folder = self._folder / name
        complete = verdict.state in COMPLETE
        return Ended(
            verdict.state,
            verdict.exit,
            verdict.text,
            None if verdict.failure is None else Failed.read(verdict.failure),
            str(folder / MODEL) if complete and (folder / MODEL).exists() else None,
            str(folder / CARD) if complete and (folder / CARD).exists() else None,
        )


def _job(request: RunRequest, name: str) -> str:
    """Return the name that silos see; no two runs share it."""
    return f"{request.name[: 63 - len(name)]}-{name}"
