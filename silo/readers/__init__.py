"""Tables of a data holder, read by chunks: CSV, Parquet, SQL, NumPy. Rows come in the order of the file.

``open_table`` finds the reader; what is read of a table is in ``table``.
"""

from __future__ import annotations

from pathlib import Path

from secagg.errors import ParameterError
from secagg.operator_files import unreadable
from silo.readers.table import Table, read_keys, read_numbers

__all__ = ["Table", "open_table", "read_keys", "read_numbers"]

_DUCKDB = (".csv", ".tsv", ".parquet", ".duckdb")
_SQLITE = (".sqlite", ".sqlite3", ".db")
_ARRAYS = (".npy", ".npz")


def open_table(path: Path, *, query: str | None = None) -> Table:
    """Return the table in ``path``; the ending of its name says what it is.

    Args:
        path: ``.csv`` (separated by commas, semicolons, tabs or bars), ``.tsv``, ``.parquet``, ``.duckdb``,
            ``.sqlite``, ``.sqlite3``, ``.db``, ``.npy``, ``.npz``.
        query: one SELECT, whose result is the table; needed for a database. A CSV or Parquet file is ``data``
            in it. Rows are those of its result, so it should have an ORDER BY that leaves no two rows alike.

    Raises:
        EnvironmentFault: the file cannot be read, or is not what its name says.
        MissingExtra: DuckDB is not installed, and is needed.
        ParameterError: another ending, a query where there can be none, or none where there must be one.
    """
    kind = path.suffix.lower()
    if kind not in (*_DUCKDB, *_SQLITE, *_ARRAYS):
        raise ParameterError(
            f"{path} is none of the files that can be read: {', '.join((*_DUCKDB, *_SQLITE, *_ARRAYS))}"
        )
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise unreadable(path, error) from None
    if kind in _ARRAYS:
        from silo.readers.arrays import array_table

        if query is not None:
            raise ParameterError(f"{path} holds arrays, which no query is asked of; name its columns")
        return array_table(path)
    if kind in _SQLITE:
        from silo.readers.sqlite import SqliteTable

        return SqliteTable(path, _needed(path, query))
    from silo.readers.duck import DuckTable

    return DuckTable(path, _needed(path, query) if kind == ".duckdb" else query)


def _needed(path: Path, query: str | None) -> str:
    if query is None:
        raise ParameterError(f"{path} is a database: say with a query which of its records, in which order")
    return query
