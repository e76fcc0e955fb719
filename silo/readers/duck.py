"""CSV, Parquet and DuckDB's own files through DuckDB, which reads them by chunks.

DuckDB may open the one file that is read and nothing else: no other file, no network, no extension. It reads
on one thread, so that rows come in the order of the file, and takes nothing from the file's path. Blank lines
of a CSV are no rows; where there is one column, each is a row without a value.

Source: https://duckdb.org/docs/stable/operations_manual/securing_duckdb/overview
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from secagg.errors import EnvironmentFault, MissingExtra, ParameterError
from secagg.operator_files import unreadable
from silo.readers.table import ROWS, check_names

try:
    import duckdb
except ModuleNotFoundError as missing:
    raise MissingExtra("data", "duckdb") from missing

SEPARATORS = ",;\t|"
LONGEST_HEADER = 1 << 20
"""Characters of the line that names the columns."""
_PATTERN = frozenset("*?[")
_LINE = re.compile(r"Line: (\d+)")
_ABOUT_THE_QUERY = (
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ParserException,
    duckdb.PermissionException,
)


class DuckTable:
    """One file, or what a query finds in it.

    Args:
        path: ``.csv``, ``.tsv``, ``.parquet`` or ``.duckdb``; it is there.
        query: one SELECT over ``data``, or over the tables of a ``.duckdb``; None for the file as it lies.

    Raises:
        EnvironmentFault: the file is not what its name says.
        ParameterError: the query is none, or finds two columns of one name.
    """

    def __init__(self, path: Path, query: str | None = None) -> None:
        self.path = path
        self._query = query
        self._header = _header(path) if path.suffix.lower() in {".csv", ".tsv"} else None
        with closing(self._connect()) as database, self._translated():
            self.columns: tuple[str, ...] = self._described(database)
        check_names(path, self.columns)

    def chunks(self, columns: Sequence[str], *, numbers: bool = False) -> Iterator[Sequence[Sequence[Any]]]:
        """See ``Table``."""
        places = [self.columns.index(name) for name in columns]
        query = self._query
        if query is None:  # A file is read column by column, where it is laid out so.
            # A bare cast would be the CSV reader's, which raises where it should give nothing.
            names = list(map(_quoted, columns))
            if numbers:
                names = [f"trim({name})" if self._header else name for name in names]
                names = [f"TRY_CAST({name} AS DOUBLE)" for name in names]
            query = f"SELECT {', '.join(names)} FROM data"  # noqa: S608 - names are quoted
            places = list(range(len(columns)))
        with closing(self._connect()) as database, self._translated():
            database.execute(query)
            while rows := database.fetchmany(ROWS):
                turned = list(zip(*rows, strict=True))
                yield [turned[place] for place in places]

    def _connect(self) -> duckdb.DuckDBPyConnection:
        own = self.path.suffix.lower() == ".duckdb"
        settings: dict[str, str | bool | int | float | list[str]] = {
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",  # Else a query reads variables of this process.
            "threads": "1",
            "temp_directory": "",  # Nothing of the data is written anywhere.
        }
        with self._translated():
            path = str(self.path.absolute())
            database = duckdb.connect(path if own else ":memory:", read_only=own, config=settings)
            if not own:
                database.execute(f"SET allowed_paths = [{_text(path)}]")
            database.execute("SET enable_external_access = false")
            database.execute("SET lock_configuration = true")
            if not own:
                database.execute(f"CREATE TEMP VIEW data AS SELECT * FROM {self._scan(path)}")  # noqa: S608 - quoted
        return database

    def _scan(self, path: str) -> str:
        if self._header is None:
            return f"read_parquet({_text(path)}, hive_partitioning = false)"
        separator, names = self._header
        columns = ", ".join(f"{_text(name)}: 'VARCHAR'" for name in names)
        return (
            f"read_csv({_text(path)}, auto_detect = false, header = true, delim = {_text(separator)}, "
            f"quote = '\"', escape = '\"', hive_partitioning = false, columns = {{{columns}}})"
        )

    def _described(self, database: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
        """Return the names of columns, without looking at a value; so what is wrong can be told in full."""
        query = self._query
        try:
            if query is not None:
                statements = database.extract_statements(query)
                if [each.type for each in statements] != [duckdb.StatementType.SELECT]:
                    raise ParameterError(f"the query of {self.path} must be one SELECT")
            found = database.execute(f"DESCRIBE {query or 'SELECT * FROM data'}")  # noqa: S608 - one SELECT
            return tuple(str(column[0]) for column in found.fetchall())
        except _ABOUT_THE_QUERY as error:
            if query is None:
                raise
            raise ParameterError(f"the query of {self.path}: {error}") from None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            raise self._unread(error) from None

    def _unread(self, error: duckdb.Error) -> EnvironmentFault:
        if isinstance(error, duckdb.PermissionException) and _PATTERN & set(str(self.path.absolute())):
            return EnvironmentFault(
                f"{self.path}: DuckDB takes its name for those of other files; rename it, without * ? ["
            )
        # Its text quotes lines and values.
        found = _LINE.search(str(error))
        where = f", line {found[1]}" if found else ""
        return EnvironmentFault(
            f"{self.path}{where}: cannot be read as {self.path.suffix.lower()[1:]} ({type(error).__name__}); "
            "write the file anew, or correct the query"
        )


def _header(path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the separator and the names of the first line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline(LONGEST_HEADER)
            separator = "\t" if path.suffix.lower() == ".tsv" else max(SEPARATORS, key=first.count)
            file.seek(0)
            lines = iter(partial(file.readline, LONGEST_HEADER), "")
            names = next(csv.reader(lines, delimiter=separator), [])
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from None
    except csv.Error:
        raise EnvironmentFault(f"{path}: its first line cannot be read as names of columns") from None
    if not names:
        raise EnvironmentFault(f"{path} is empty; its first line names the columns")
    check_names(path, names)
    if len({name.lower() for name in names}) < len(names):
        raise ParameterError(f"{path} has columns whose names differ in case only; give each another name")
    return separator, tuple(names)


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
