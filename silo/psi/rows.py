"""The file of shared rows: where each shared record stands in this silo's data, in the order that all have.

It says which records partners have too, so it is for this user alone. It holds row numbers, from 0, and no
identifier.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secagg.errors import EnvironmentFault
from silo.storage import replace_file

KINDS = (".npy", ".csv", ".parquet")


def write_rows(path: Path, rows: NDArray[np.int64]) -> None:
    """Write ``rows``, int64, shape (count,), to ``path``: whole, and on disk when this returns.

    A ``.csv`` and a ``.parquet`` have one column, ``row``.

    Raises:
        EnvironmentFault: it cannot be written, or something else is in its place.
    """
    try:
        content = _encoded(path, rows)
        if path.exists() and path.read_bytes() != content:
            raise EnvironmentFault(f"{path} is there and has something else: take it away")
        replace_file(path, content)
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be written: {error.strerror}") from error


def _encoded(path: Path, rows: NDArray[np.int64]) -> bytes:
    match path.suffix.lower():
        case ".npy":
            file = io.BytesIO()
            np.save(file, rows)
            return file.getvalue()
        case ".csv":
            return "\n".join(["row", *map(str, rows.tolist()), ""]).encode()
        case _:
            return _parquet(path.absolute().parent, rows)


def _parquet(beside: Path, rows: NDArray[np.int64]) -> bytes:
    import duckdb

    # The folder is for this user alone.
    with tempfile.TemporaryDirectory(dir=beside) as folder, duckdb.connect() as database:
        path = Path(folder) / "rows.parquet"
        database.execute("CREATE TABLE found AS SELECT unnest(?) AS row", [rows])
        database.table("found").write_parquet(str(path))
        return path.read_bytes()
