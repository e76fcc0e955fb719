"""A silo's process: one participant, its journal, its app, and the line to the coordinator.

Messages are answered one at a time in a thread of their own, because training blocks: the event loop stays
alive for acknowledgements and keep-alives. It decides nothing; ``secagg.rounds.silo`` does.

What is logged: types and sizes of messages, round numbers, rules, and texts of this library's own errors,
which carry no data. Of a trainer's own error the type and the lines it passed; its text only when debugging.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Self, TypeAlias, get_args

import msgspec
import structlog
from structlog.contextvars import bind_contextvars

from secagg.errors import FaultyCoordinator, ParameterError, PolicyRefused, SecaggError, TrainerFailed
from secagg.estimates import check_round_memory
from secagg.hazmat.identity import grouped
from secagg.heap import return_freed_memory
from secagg.keys.document import audit_line
from secagg.keys.holder import KeyHolder
from secagg.keys.keyring import HeldKey
from secagg.learning.model import GlobalModel
from secagg.learning.settings import TrainingPlan
from secagg.learning.workload import LearningWorkload
from secagg.messages import FromCoordinator, FromSilo, Opened
from secagg.names import IntegerVector, SiloId
from secagg.payload import Frame, Payload
from secagg.rounds.silo import Participant, answer
from secagg.session import Aggregate
from secagg.terms import Terms
from secagg.wire import size_of
from silo.app import Apps
from silo.client import Arrival, Client
from silo.config import SiloConfig
from silo.journal import Journal
from silo.key_files import KeyFiles
from silo.ledger_file import LedgerFile
from silo.model_files import ModelFiles
from silo.storage import StateFault
from silo.tls import dialling

Task: TypeAlias = tuple[Frame, "asyncio.Future[Frame | None]"]

ROUNDS = "rounds"
"""Name of the thread that answers; it outlives a command that was told to stop while it trains."""
GRACE = 1.0
OPENING_SECONDS = 10.0
"""Between two lines about an opening that goes on."""
IDLE_SECONDS = 60.0
"""Without a message after which the memory of the last round is given back."""

_NAMES = frozenset(kind.__name__ for kind in (*get_args(FromCoordinator), *get_args(FromSilo)))

log = structlog.get_logger("silo")


class AppWorkload:
    """The work of whatever approved app a round names.

    Args:
        silo: whose it is.
        apps: which apps are approved, and with what arguments.
        journal: keeps what the model was.
        most_examples: that this silo may have.
        memory_limit: bytes that this process may hold beside training; None for what the machine has.

    Guarantees:
        Terms whose app is not approved get nowhere, nor do such that would take too much memory, as far as
            ``estimates`` can tell.
    """

    def __init__(
        self,
        silo: SiloId,
        apps: Apps,
        journal: Journal,
        *,
        most_examples: float | None,
        memory_limit: int | None = None,
    ) -> None:
        self._silo = silo
        self._apps = apps
        self._journal = journal
        self._most_examples = most_examples
        self._memory_limit = memory_limit
        self._models = ModelFiles(journal.folder)
        self._workloads: dict[str, LearningWorkload] = {}

    def accept(self, terms: Terms) -> None:
        """Check that the app is approved, and load it; see ``Workload.accept``."""
        bind_contextvars(federation=terms.federation, job=terms.job, round=terms.round)
        try:
            check_round_memory(terms, self._memory_limit, holder="at each silo")
        except ParameterError as error:
            if error.parameter != "memory":
                raise FaultyCoordinator(f"no round has these terms: {error}") from None
            raise PolicyRefused("memory_limit", str(error)) from None
        app = TrainingPlan.of(terms).app
        trainer = self._apps.trainer(app)
        if app not in self._workloads:
            log.info("app loaded", app=app)
            pin, base = self._journal.held()
            self._workloads[app] = LearningWorkload(
                self._silo,
                trainer,
                pin=pin,
                keep=self._journal.keep,
                base=base,
                keep_base=self._journal.keep_base,
                keep_sum=self._keep_sum,
                most_examples=self._most_examples,
            )
        self._workloads[app].accept(terms)

    def holds(self, terms: Terms) -> bytes | None:
        """Return the digest of the model held; see ``Workload.holds``."""
        return self._of(terms).holds(terms)

    def base_size(self, terms: Terms) -> int:
        """Return the bytes of the base; see ``Workload.base_size``."""
        return self._of(terms).base_size(terms)

    def base(self, terms: Terms) -> Payload | None:
        """Return the model held; see ``Workload.base``."""
        return self._of(terms).base(terms)

    def adopt(self, terms: Terms, base: Payload) -> None:
        """Take a candidate; see ``Workload.adopt``."""
        self._of(terms).adopt(terms, base)

    def confirm(self, terms: Terms) -> None:
        """Hold the candidate; see ``Workload.confirm``."""
        self._of(terms).confirm(terms)

    def vector(self, terms: Terms) -> IntegerVector:
        """Evaluate, train and encode; see ``Workload.vector``."""
        log.info("training")
        return self._of(terms).vector(terms)

    def apply(self, terms: Terms, aggregate: Aggregate, *, faulty: tuple[SiloId, ...] = ()) -> Opened:
        """Compute the next model; see ``Workload.apply``."""
        opened = self._of(terms).apply(terms, aggregate, faulty=faulty)
        log.info("round opened", survivors=len(aggregate.survivors))
        return opened

    def said(self, terms: Terms) -> Opened | None:
        """Return what was said of the sum; see ``Workload.said``."""
        return self._of(terms).said(terms)

    def _keep_sum(self, terms: Terms, aggregate: Aggregate, model: GlobalModel) -> None:
        """Write and log what this silo opened and the coordinator cannot."""
        metrics = dict(self._of(terms).metrics)
        log.info("metrics", **{name: round(value, 6) for name, value in metrics.items()})
        trainer = self._apps.trainer(TrainingPlan.of(terms).app)
        path = self._models.keep(terms, aggregate, trainer, model=model, metrics=metrics)
        log.info("model written", file=str(path))

    def _of(self, terms: Terms) -> LearningWorkload:
        return self._workloads[TrainingPlan.of(terms).app]


class Openings:
    """Logs how far the opening of a sum is, now and then: one of millions of values takes minutes.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next: float | None = None

    def __call__(self, done: int, count: int) -> None:
        """Note that ``done`` of ``count`` ciphertexts are opened."""
        now = self._clock()
        if done == count:
            self._next = None
        elif self._next is None:
            self._next = now + OPENING_SECONDS
        elif now >= self._next:
            log.info("opening", ciphertexts=f"{done:,} of {count:,}")
            self._next = now + OPENING_SECONDS


class Agent:
    """A silo's process, from its configuration.

    Args:
        config: ``silo.toml``.
        debug: also log the text of what a trainer raised, which may quote data.

    Raises:
        SecaggError: a file, key, certificate, roster or the state folder is not as it should be.

    Guarantees:
        What a reply permits is synced before the reply leaves.
        One message is answered at a time, and none is lost while training runs.
    """

    def __init__(self, config: SiloConfig, *, debug: bool = False) -> None:
        self._debug = debug
        identity, roster = config.member()
        credentials = partial(dialling, config.tls, name=config.name)
        credentials()  # What is wrong with the files is said before anything else.
        self._journal = Journal(config.state, roster=roster.digest)
        apps = Apps(config.name, config.policy.apps, config.data.arguments)
        policy = config.policy.policy()
        files = KeyFiles(config.state / "keys")
        files.tidy()  # The journal is held, so no other process keeps keys here.

        def keep(key: HeldKey) -> None:
            files.keep(key)
            log.info("key held", key=audit_line(key.document))

        keys = KeyHolder(
            config.name,
            identity=identity,
            roster=roster,
            policy=policy,
            clock=lambda: int(time.time()),
            held=files.read(),
            keep=keep,
            opened=Openings(),
        )
        self._ledger = LedgerFile(
            config.ledger_folder,
            config.data.name,
            pin=self._journal.head(config.data.name),
            keep_pin=partial(self._journal.keep_head, config.data.name),
            budget=config.policy.budget(),
            clock=lambda: int(time.time()),
        )
        self._participant = Participant(
            config.name,
            identity=identity,
            roster=roster,
            policy=policy,
            workload=AppWorkload(
                config.name,
                apps,
                self._journal,
                most_examples=policy.min_weight_cap,
                memory_limit=config.memory_limit,
            ),
            keys=keys,
            ledger=self._ledger.ledger,
            data_set=config.data.name,
            records=self._journal.records,
            cache=self._journal.cache,
            threads=config.threads,
        )
        self._config = config
        self._roster = roster
        self._client = Client(config.coordinator, credentials, roster=roster.digest)
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def run(self) -> None:
        """Take part until cancelled.

        Raises:
            TrustError: the coordinator is not the one, or does not know this silo.
            EnvironmentFault: another version there, or a state folder here that keeps nothing any more.
        """
        bind_contextvars(silo=self._config.name)
        log.info(
            "taking part",
            coordinator=self._config.coordinator,
            state=str(self._config.state),
            roster=grouped(self._roster.digest[:16]),
            records=len(self._journal.records),
        )
        loop, context = asyncio.get_running_loop(), contextvars.copy_context()
        # A daemon: a training run of hours does not keep a process alive that was told to stop.
        self._thread = threading.Thread(target=context.run, args=(self._work, loop), name=ROUNDS, daemon=True)
        self._thread.start()
        tasks = [asyncio.create_task(self._client.run()), asyncio.create_task(self._serve())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._tasks.put(None)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    def close(self) -> None:
        """Release the state folder; what the thread still computes is given up."""
        if self._thread is not None:
            self._thread.join(GRACE)
        self._ledger.close()
        self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            arrival = await self._next()
            answered: asyncio.Future[Frame | None] = loop.create_future()
            self._tasks.put((arrival.frame, answered))
            reply = await answered
            self._client.limit = self._participant.largest_payload
            if reply is not None:
                self._client.reply(arrival, reply)

    async def _next(self) -> Arrival:
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                return await self._client.next()
        except TimeoutError:
            return_freed_memory()
            return await self._client.next()

    # --- in the thread -------------------------------------------------------------------------------------

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while (task := self._tasks.get()) is not None:
            frame, answered = task
            try:
                reply, fault = self._answer(frame), None
            except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
                reply, fault = None, error
            with suppress(RuntimeError):  # The loop is closed: nobody waits any more.
                loop.call_soon_threadsafe(_settle, answered, reply, fault)

    def _answer(self, frame: Frame) -> Frame | None:
        log.debug("received", **_described(frame))
        reply, error = answer(self._participant, frame, self._journal.sync)
        if isinstance(error, StateFault):
            raise error  # What was not kept cannot be relied on: the process ends.
        if error is not None:
            self._tell(error)
        doubted = self._participant.doubted
        if doubted is not None:
            log.warning("asking another silo", silo=doubted.silo, why=str(doubted))
        if reply is not None:
            log.debug("answered", **_described(reply))
        return reply

    def _tell(self, error: SecaggError) -> None:
        rule = error.rule if isinstance(error, PolicyRefused) else type(error).__name__
        log.warning("left the round", rule=rule, why=str(error))
        if isinstance(error, TrainerFailed) and error.original is not None:
            original = error.original
            lines = list(_passed(original))
            if self._debug:
                lines = traceback.format_exception(original)
            log.error("the trainer raised", type=type(original).__name__, traceback="".join(lines))


def _settle(answered: asyncio.Future[Frame | None], reply: Frame | None, fault: BaseException | None) -> None:
    if answered.cancelled():
        return
    if fault is None:
        answered.set_result(reply)
    else:
        answered.set_exception(fault)


def _passed(error: BaseException) -> Iterable[str]:
    """Return the lines of code that ``error`` came through, without its text and without any value."""
    return traceback.format_tb(error.__traceback__)


class _Tag(msgspec.Struct):
    type: str


def _described(frame: Frame) -> dict[str, str | int]:
    """Return type and size of a message, for the log."""
    header, _ = frame
    try:
        name = msgspec.msgpack.decode(header[1:], type=_Tag).type
    except msgspec.MsgspecError:
        name = ""
    size = size_of(frame)
    return {"type": name if name in _NAMES else "none of the protocol", "size": size}
