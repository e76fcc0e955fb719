"""What a query finds in a SQLite database, through Python's own module, read-only and by chunks."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from secagg.errors import EnvironmentFault, ParameterError
from silo.readers.table import ROWS, check_names

_ABOUT_THE_FILE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOTADB,
}


class SqliteTable:
    """The result of one query.

    Args:
        path: of the database; it is there.
        query: one SELECT.

    Raises:
        EnvironmentFault: it is no SQLite database, or is in use.
        ParameterError: the query is none, or finds two columns of one name.
    """

    def __init__(self, path: Path, query: str) -> None:
        self.path = path
        self._query = query
        with closing(self._connect()) as database:
            with self._translated(of_the_query=True):
                database.execute(f"EXPLAIN {query}").close()  # It looks at no value.
            with self._translated():
                found = database.execute(query).description
        if found is None:
            raise ParameterError(f"the query of {path} must be one SELECT")
        self.columns: tuple[str, ...] = tuple(column[0] for column in found)
        check_names(path, self.columns)

    def chunks(
        self,
        columns: Sequence[str],
        *,
        numbers: bool = False,
    ) -> Iterator[Sequence[Sequence[Any]]]:
        """See ``Table``."""
        places = [self.columns.index(name) for name in columns]
        with closing(self._connect()) as database, self._translated():
            cursor = database.execute(self._query)
            while rows := cursor.fetchmany(ROWS):
                turned = list(zip(*rows, strict=True))
                yield [turned[place] for place in places]

    def _connect(self) -> sqlite3.Connection:
        with self._translated():
            database = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True)
            database.set_authorizer(_read_only)
            database.execute("SELECT 1 FROM sqlite_schema").close()  # Only now is the file looked at.
            return database

    @contextmanager
    def _translated(self, *, of_the_query: bool = False) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _ABOUT_THE_FILE:
                raise EnvironmentFault(f"{self.path} cannot be read as a SQLite database: {error}") from None
            if of_the_query:
                raise ParameterError(f"the query of {self.path} must be one SELECT: {error}") from None
            # Once values are looked at, its text quotes them.
            what = getattr(error, "sqlite_errorname", "text that is no UTF-8")
            raise EnvironmentFault(
                f"{self.path}: a value cannot be read ({what}); correct the table, or the query"
            ) from None
        except sqlite3.Warning:  # Two statements.
            raise ParameterError(f"the query of {self.path} must be one SELECT") from None


def _read_only(action: int, *_: str | None) -> int:
    allowed = {
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_FUNCTION,
        sqlite3.SQLITE_RECURSIVE,
    }
    return sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY
