"""What a coordinator must not forget: runs, the records of opened sums, and what silos were asked to sign.

SQLAlchemy Core; SQLite beside the models by default. Every write is committed before the call returns. It
holds figures of opened sums, and of one silo whether it took part; models are files (``model_file``).

Source: https://www.sqlite.org/pragma.html#pragma_synchronous; https://docs.sqlalchemy.org/en/20/core.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from secagg.errors import EnvironmentFault, MalformedMessage, MissingExtra
from secagg.keys.coordinator import EstablishedKey
from secagg.keys.document import decode_document
from secagg.learning.history import Record
from secagg.learning.request import RunRequest
from secagg.rounds.memory import Memory
from secagg.terms import KeyScheme

try:
    import sqlalchemy as sa
except ModuleNotFoundError as missing:
    raise MissingExtra("coordinator", "SQLAlchemy") from missing

SCHEMA = 1
DATABASE = "state.sqlite3"
LOCK = "lock"

State: TypeAlias = Literal["running", "completed", "degraded", "halted", "refused", "stopped"]

_tables = sa.MetaData()
_schema = sa.Table("schema", _tables, sa.Column("version", sa.Integer, nullable=False))
_runs = sa.Table(
    "runs",
    _tables,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("number", sa.Integer, nullable=False, unique=True),
    sa.Column("request", sa.LargeBinary, nullable=False),
    sa.Column("asker", sa.String(80), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("exit", sa.Integer),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("failure", sa.LargeBinary),
    sa.Column("started", sa.Float, nullable=False),
    sa.Column("ended", sa.Float),
)
_rounds = sa.Table(
    "rounds",
    _tables,
    sa.Column("run", sa.ForeignKey("runs.id"), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("record", sa.LargeBinary, nullable=False),
)
_memories = sa.Table(
    "memories",
    _tables,
    sa.Column("run", sa.ForeignKey("runs.id"), primary_key=True),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("memory", sa.LargeBinary, nullable=False),
)
_keys = sa.Table(
    "keys",
    _tables,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("scheme", sa.String(32), nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("taken", sa.LargeBinary, nullable=False),
)

_record = msgspec.msgpack.Decoder(Record)
_request = msgspec.msgpack.Decoder(RunRequest)
_memory = msgspec.msgpack.Decoder(Memory)
_taken = msgspec.msgpack.Decoder(tuple[tuple[str, bytes], ...])


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a run ended.

    Attributes:
        state: any but "running".
        exit: the exit code it means.
        text: in words, for people.
        failure: the error, as ``control`` encodes it; None if there was none.
    """

    state: State
    exit: int
    text: str
    failure: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """One run.

    Attributes:
        id: of the run.
        request: what was asked for.
        asker: who asked, as ``role:name``.
        verdict: None while it is under way, or its process ended before its verdict.
        started, ended: when.
    """

    id: str
    request: RunRequest
    asker: str
    verdict: Verdict | None
    started: datetime
    ended: datetime | None

    @property
    def state(self) -> State:
        """Where it stands."""
        return "running" if self.verdict is None else self.verdict.state


class Store:
    """The database of one coordinator's process.

    Args:
        folder: exists; the database and the lock are in it.
        url: of another database than the folder's own, as SQLAlchemy takes it.

    Raises:
        EnvironmentFault: another coordinator runs on the folder; the database cannot be read or written, or
            is of another version.

    Guarantees:
        What a call wrote is on disk when it returns.
        Of two processes on one folder the second is refused, and told the first one's number.
        A closed store, or the end of its process however it comes, frees the folder.
    """

    def __init__(self, folder: Path, *, url: str | None = None) -> None:
        self._lock: int | None = _locked(folder)
        self.path = folder / DATABASE
        self.new = url is None and not self.path.exists()
        try:
            self._engine = sa.create_engine(url or f"sqlite:///{self.path}")
            if self._engine.dialect.name == "sqlite":
                sa.event.listen(self._engine, "connect", _settle)
            with self._writing() as connection:
                _tables.create_all(connection)
                versions = connection.execute(sa.select(_schema.c.version)).scalars().all()
                if not versions:
                    connection.execute(_schema.insert().values(version=SCHEMA))
                elif versions != [SCHEMA]:
                    raise EnvironmentFault(
                        f"{self.path} is of version {versions[0]}, this coordinator reads version {SCHEMA}: "
                        "start the version that wrote it, or give another state folder"
                    )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another process have the folder."""
        if engine := getattr(self, "_engine", None):
            engine.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- runs ----------------------------------------------------------------------------------------------

    def add_run(self, run: str, request: RunRequest, *, asker: str, now: datetime) -> StoredRun:
        """Write that ``run`` was asked for."""
        with self._writing() as connection:
            number = connection.execute(sa.select(sa.func.count()).select_from(_runs)).scalar_one()
            connection.execute(
                _runs.insert().values(
                    id=run,
                    number=number + 1,
                    request=msgspec.msgpack.encode(request),
                    asker=asker,
                    state="running",
                    text="",
                    started=now.timestamp(),
                )
            )
        return StoredRun(id=run, request=request, asker=asker, verdict=None, started=now, ended=None)

    def run(self, run: str) -> StoredRun | None:
        """Return one run, or None."""
        with self._writing() as connection:
            row = connection.execute(sa.select(_runs).where(_runs.c.id == run)).first()
        return None if row is None else _stored(row)

    def runs(self) -> tuple[StoredRun, ...]:
        """Return all runs, oldest first."""
        with self._writing() as connection:
            rows = connection.execute(sa.select(_runs).order_by(_runs.c.number)).all()
        return tuple(map(_stored, rows))

    def end(self, run: str, verdict: Verdict, *, now: datetime) -> None:
        """Write how ``run`` ended."""
        self._change(
            run,
            state=verdict.state,
            exit=verdict.exit,
            text=verdict.text,
            failure=verdict.failure,
            ended=now.timestamp(),
        )

    def begin_again(self, run: str) -> None:
        """Write that ``run`` is under way again."""
        self._change(run, state="running", exit=None, text="", failure=None, ended=None)

    # --- rounds --------------------------------------------------------------------------------------------

    def add_record(self, run: str, record: Record) -> None:
        """Write an opened sum."""
        number = record.report.round
        with self._writing() as connection:
            connection.execute(
                _rounds.insert().values(run=run, round=number, record=msgspec.msgpack.encode(record))
            )

    def records(self, run: str) -> tuple[Record, ...]:
        """Return the opened sums of ``run``, in order."""
        query = sa.select(_rounds.c.record).where(_rounds.c.run == run).order_by(_rounds.c.round)
        with self._writing() as connection:
            return tuple(_decoded(_record, line) for line in connection.execute(query).scalars())

    def sums(self, run: str) -> int:
        """Return how many sums of ``run`` were opened."""
        query = sa.select(sa.func.count()).select_from(_rounds).where(_rounds.c.run == run)
        with self._writing() as connection:
            return int(connection.execute(query).scalar_one())

    def set_memory(self, run: str, number: int, memory: Memory) -> None:
        """Write what is to be known of round ``number`` of ``run`` if the process ends now."""
        values = {"round": number, "memory": msgspec.msgpack.encode(memory)}
        with self._writing() as connection:
            changed = connection.execute(_memories.update().where(_memories.c.run == run).values(**values))
            if not changed.rowcount:
                connection.execute(_memories.insert().values(run=run, **values))

    def memory(self, run: str, number: int) -> Memory:
        """Return what was kept for round ``number`` of ``run``.

        For a round that has no attempt yet it is what earlier rounds left, of this run or of the one before.
        """
        query = sa.select(_memories.c.run, _memories.c.round, _memories.c.memory).join(_runs)
        own_first = sa.case((_memories.c.run == run, 0), else_=1)
        with self._writing() as connection:
            row = connection.execute(query.order_by(own_first, _runs.c.number.desc())).first()
        if row is None:
            return Memory()
        memory: Memory = _decoded(_memory, row.memory)
        return memory if (row.run, row.round) == (run, number) else memory.next_round()

    # --- keys ----------------------------------------------------------------------------------------------

    def add_key(self, key: EstablishedKey) -> None:
        """Write what is public of a key that every silo holds."""
        with self._writing() as connection:
            number = connection.execute(sa.select(sa.func.count()).select_from(_keys)).scalar_one()
            connection.execute(
                _keys.insert().values(
                    number=number + 1,
                    scheme=key.document.scheme,
                    document=key.content,
                    taken=msgspec.msgpack.encode(key.taken),
                )
            )

    def keys(self) -> tuple[EstablishedKey, ...]:
        """Return all keys, oldest first."""
        with self._writing() as connection:
            rows = connection.execute(sa.select(_keys).order_by(_keys.c.number)).all()
        return tuple(map(_established, rows))

    def key(self, scheme: KeyScheme) -> EstablishedKey | None:
        """Return the last key for ``scheme``."""
        query = sa.select(_keys).where(_keys.c.scheme == scheme).order_by(_keys.c.number.desc())
        with self._writing() as connection:
            row = connection.execute(query).first()
        return None if row is None else _established(row)

    # --- small parts ---------------------------------------------------------------------------------------

    def _change(self, run: str, **values: Any) -> None:
        with self._writing() as connection:
            connection.execute(_runs.update().where(_runs.c.id == run).values(**values))

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """Give a transaction; what the database says goes wrong is said in our words."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.DBAPIError as error:
            # What SQLAlchemy prints has the statement and its values in it.
            raise EnvironmentFault(
                f"{self.path}: the database says: {error.orig}. Free space, or correct the folder's owner; "
                "nothing of this step was kept"
            ) from None


def _settle(connection: Any, _record: object) -> None:
    # Write-ahead log, and every commit on disk before it returns.
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "busy_timeout = 5000"):
        connection.execute(f"PRAGMA {pragma}")


def _locked(folder: Path) -> int:
    path = folder / LOCK
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
    except BlockingIOError:
        other = os.read(lock, 20).decode("ascii", "replace").strip()
        os.close(lock)
        raise EnvironmentFault(
            f"{folder} is in use by another coordinator, process {other}: stop that one, "
            "or give this one another state folder"
        ) from None
    except OSError as error:
        os.close(lock)
        raise EnvironmentFault(f"{path} cannot be written: {error.strerror}") from None
    return lock


def _stored(row: Any) -> StoredRun:
    verdict = None
    if row.state != "running":
        verdict = Verdict(state=row.state, exit=row.exit, text=row.text, failure=row.failure)
    return StoredRun(
        id=row.id,
        request=_decoded(_request, row.request),
        asker=row.asker,
        verdict=verdict,
        started=datetime.fromtimestamp(row.started, UTC),
        ended=None if row.ended is None else datetime.fromtimestamp(row.ended, UTC),
    )


def _established(row: Any) -> EstablishedKey:
    try:
        return EstablishedKey(decode_document(row.document), row.document, _decoded(_taken, row.taken))
    except MalformedMessage as error:
        raise _damaged() from error


def _decoded(decoder: Any, line: bytes) -> Any:
    try:
        return decoder.decode(line)
    except msgspec.MsgspecError as error:
        raise _damaged() from error


def _damaged() -> EnvironmentFault:
    return EnvironmentFault(
        "a line of the state database is damaged: restore it from a backup, or give another state folder"
    )
