"""What a silo must still know after a crash: its records, its last encoded vector, its model and its pins.

Records are lines of a SQLite database (WAL, synchronous=FULL): ``sync`` returns when they are on disk, and
only then may the reply leave that they permit. The encoded vector lies in a file beside it. It decides
nothing and holds no secret of a round.

Source: "State that survives" in ``docs/protocol.md``; https://www.sqlite.org/wal.html.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeAlias

import msgspec
import numpy as np

from secagg.errors import MalformedMessage, TrustError, UsageError
from secagg.hazmat.identity import grouped
from secagg.learning.model import GlobalModel
from secagg.learning.workload import Pin
from secagg.messages import Opened
from secagg.names import IntegerVector
from secagg.records import SiloRecord, decode_silo_record, encode_record
from secagg.terms import Digest
from silo.storage import StateFault, lock, make_folder, not_written
from silo.vector_file import VectorFile

SCHEMA = 1
_APPLICATION = 0x53414A31  # "SAJ1" in the database's header.
_TABLES = """
    CREATE TABLE record (number INTEGER PRIMARY KEY, line BLOB NOT NULL, chain BLOB NOT NULL) STRICT;
    CREATE TABLE pin (name TEXT PRIMARY KEY, digest BLOB NOT NULL) STRICT;
    CREATE TABLE model (one INTEGER PRIMARY KEY CHECK (one = 1), federation TEXT NOT NULL, job TEXT NOT NULL,
        round INTEGER NOT NULL, digest BLOB NOT NULL) STRICT;
"""
_LEDGER = "ledger:"
_COUNT = 8

Head: TypeAlias = tuple[int, bytes]
"""Entries of a ledger, and the chain (32 bytes) after the last."""


class _Encoded(msgspec.Struct, frozen=True):
    training: Digest
    dtype: Literal["<u4", "<u8"]


class _Base(msgspec.Struct, frozen=True):
    federation: str
    job: str
    round: int
    digest: Digest
    length: int
    opened: Opened | None = None


class Journal:
    """A silo's state folder.

    Args:
        folder: made if it is not there, for this user alone; one process at a time.
        roster: digest of the roster that the silo is configured with.
        pin: take ``roster`` in the place of the one that was pinned before.

    Attributes:
        records: what was synced before this process, oldest first.
        cache: the last encoded vector by its training digest, for ``Participant``.

    Raises:
        TrustError: another roster is pinned here.
        StateFault: another process uses the folder, or it is damaged, full or not writable.

    Guarantees:
        What ``sync``, ``keep`` and ``cache`` took is there after a crash at any later moment.
        Records come back in the order in which they were synced, all of one call or none.
        A damaged vector counts as absent; a damaged database stops the silo.
    """

    def __init__(self, folder: Path, *, roster: bytes, pin: bool = False) -> None:
        self.folder = folder
        self._guard = threading.Lock()
        self._lock = -1
        self._chain = b""
        with self._translated():
            make_folder(folder)
            self._lock = lock(folder, folder / "lock")
        try:
            with self._translated():
                for rest in folder.glob("*.new"):  # Of a write that a crash ended.
                    rest.unlink()
                self._database = sqlite3.connect(
                    folder / "journal.sqlite3", isolation_level=None, check_same_thread=False
                )
                self._open()
                self._pin(roster, pin)
                self.records = self._read()
                self._base = VectorFile(folder / "base", _Base)
                self.cache: MutableMapping[bytes, IntegerVector] = CachedVector(
                    folder / "vector", self._translated
                )
        except BaseException:
            self.close()
            raise

    # --- records -------------------------------------------------------------------------------------------

    def sync(self, records: Sequence[SiloRecord]) -> None:
        """Append ``records``; they are on disk when this returns.

        Raises:
            StateFault: they are not, and nothing may be sent.
        """
        if not records:
            return
        rows, chain = [], self._chain
        for record in records:
            line = encode_record(record)
            chain = _link(chain, line)
            rows.append((line, chain))
        with self._translated(), self._transaction():
            self._database.executemany("INSERT INTO record (line, chain) VALUES (?, ?)", rows)
        self._chain = chain

    def _read(self) -> tuple[SiloRecord, ...]:
        """Return the records. SQLite finds broken pages, the chain a record that changed or is missing."""
        records = []
        for line, chain in self._database.execute("SELECT line, chain FROM record ORDER BY number"):
            self._chain = _link(self._chain, line)
            if chain != self._chain:
                raise self._damaged()
            try:
                records.append(decode_silo_record(line))
            except MalformedMessage as error:
                raise self._damaged() from error
        return tuple(records)

    # --- model ---------------------------------------------------------------------------------------------

    def keep(self, model: Pin) -> None:
        """Write what the model is that is held now.

        Raises:
            StateFault: it cannot be written.
        """
        row = (model.federation, model.job, model.round, model.digest)
        with self._translated(), self._transaction():
            self._database.execute("INSERT OR REPLACE INTO model VALUES (1, ?, ?, ?, ?)", row)

    @property
    def model(self) -> Pin | None:
        """What the model was that was held last."""
        query = "SELECT federation, job, round, digest FROM model"
        with self._translated():
            row = self._database.execute(query).fetchone()
        return None if row is None else Pin(*row)

    def keep_base(self, pin: Pin, model: GlobalModel) -> None:
        """Write the model itself and what was said of it, which under ciphertexts nobody keeps but silos.

        Raises:
            StateFault: it cannot be written.
        """
        header = _Base(pin.federation, pin.job, pin.round, pin.digest, model.length, pin.opened)
        with self._translated():
            self._base.write(header, (model.weights, *model.state))

    def held(self) -> tuple[Pin | None, GlobalModel | None]:
        """Return what the model was that is held, and the model itself if this silo kept it.

        A crash may have come between the two: the model on disk is then the later one, and is what is held.

        Raises:
            StateFault: it cannot be read.
        """
        pin = self.model
        with self._translated():
            found = self._base.read()
        if found is None:
            return pin, None
        header, data = found
        base = Pin(header.federation, header.job, header.round, header.digest)
        kept = replace(base, opened=header.opened)
        same_job = pin is not None and (pin.federation, pin.job) == (base.federation, base.job)
        if pin != base and not (same_job and pin is not None and pin.round == base.round - 1):
            return pin, None
        try:
            model = GlobalModel.from_payload(base.round, np.frombuffer(data, "<f8"), length=header.length)
        except (MalformedMessage, ValueError):
            return pin, None
        return (kept, model) if model.digest == base.digest else (pin, None)

    # --- ledgers -------------------------------------------------------------------------------------------

    def head(self, data_set: str) -> Head | None:
        """Return what ``keep_head`` took last for ``data_set``.

        Raises:
            StateFault: it cannot be read.
        """
        with self._translated():
            return _head(self._database, data_set)

    def keep_head(self, data_set: str, entries: int, chain: bytes) -> None:
        """Write how long the ledger of ``data_set`` is and what it ends with, so that no older copy passes.

        Raises:
            StateFault: it cannot be written.
        """
        row = (_LEDGER + data_set, entries.to_bytes(_COUNT, "big") + chain)
        with self._translated(), self._transaction():
            self._database.execute("INSERT OR REPLACE INTO pin VALUES (?, ?)", row)

    # --- life ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Release the folder; a sync that is under way in another thread is finished first."""
        with self._guard:
            if hasattr(self, "_database"):
                with suppress(sqlite3.Error):
                    self._database.close()
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        execute = self._database.execute
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        (application,), (version,) = (
            execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
        )
        if (application, version) == (0, 0):
            with self._transaction():
                for statement in _TABLES.strip().split(";\n"):
                    execute(statement)
                execute(f"PRAGMA application_id = {_APPLICATION}")
                execute(f"PRAGMA user_version = {SCHEMA}")
        elif application != _APPLICATION:
            raise self._damaged()
        elif version != SCHEMA:
            raise StateFault(
                f"{self.folder} has the journal of another version (schema {version}, this one reads "
                f"{SCHEMA}); run the version that wrote it"
            )
        if execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise self._damaged()

    def _pin(self, roster: bytes, pin: bool) -> None:
        row = self._database.execute("SELECT digest FROM pin WHERE name = 'roster'").fetchone()
        if row is not None and row[0] != roster and not pin:
            raise TrustError(
                f"the roster is not the one that is pinned in {self.folder}: that is {grouped(row[0][:16])}, "
                f"the file has {grouped(roster[:16])}. If every change in it was confirmed with the other "
                "silos by telephone, type: silo roster pin --config silo.toml"
            )
        if row is None or row[0] != roster:
            with self._transaction():
                self._database.execute("INSERT OR REPLACE INTO pin VALUES ('roster', ?)", (roster,))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._guard:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # A failed commit may have ended the transaction itself.
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError as error:
            raise UsageError("the journal is closed") from error
        except (sqlite3.Error, OSError) as error:
            raise self._fault(error) from error

    def _fault(self, error: sqlite3.Error | OSError) -> StateFault:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return self._damaged()
        return not_written(self.folder, error)

    def _damaged(self) -> StateFault:
        return StateFault(
            f"the journal in {self.folder} is damaged, and without it this silo could sign what it must not. "
            "Never put an older copy in its place: take part again under a new identity, in a new state "
            "folder but with the ledger of its data, once the other silos have pinned a roster with it"
        )


class CachedVector(MutableMapping[bytes, IntegerVector]):
    """The last encoded vector, in memory and on disk."""

    def __init__(self, path: Path, translated: Callable[[], AbstractContextManager[None]]) -> None:
        self._translated = translated
        self._file = VectorFile(path, _Encoded)
        self._held: dict[bytes, IntegerVector] = {}
        found = self._file.read()
        if found is not None:
            header, data = found
            self._held[header.training] = np.frombuffer(data, dtype=header.dtype)

    def __getitem__(self, training: bytes) -> IntegerVector:
        return self._held[training]

    def __setitem__(self, training: bytes, vector: IntegerVector) -> None:
        """Keep ``vector`` in the place of the last; it is on disk when this returns."""
        dtype: Literal["<u4", "<u8"] = "<u4" if vector.itemsize == 4 else "<u8"
        with self._translated():
            self._file.write(_Encoded(training, dtype), (vector,))
        self._held = {training: vector}

    def __delitem__(self, training: bytes) -> None:
        del self._held[training]
        with self._translated():
            self._file.remove()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)


def read_head(folder: Path, data_set: str) -> Head | None:
    """Return what the journal in ``folder`` knows of a ledger, also while another process has it open.

    Raises:
        StateFault: the journal cannot be read.
    """
    path = folder / "journal.sqlite3"
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as database:
            return _head(database, data_set)
    except sqlite3.Error as error:
        raise StateFault(f"{path} cannot be read ({error}); type: silo check") from error


def _head(database: sqlite3.Connection, data_set: str) -> Head | None:
    query = "SELECT digest FROM pin WHERE name = ?"
    row = database.execute(query, (_LEDGER + data_set,)).fetchone()
    return None if row is None else (int.from_bytes(row[0][:_COUNT], "big"), row[0][_COUNT:])


def _link(chain: bytes, line: bytes) -> bytes:
    return hashlib.sha256(chain + line).digest()
