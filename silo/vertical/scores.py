"""Scores as a file: the number of a row of this party's table, from 0, and its score; no identifier."""

from __future__ import annotations

import csv
import os
from contextlib import closing
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.errors import EnvironmentFault, MissingExtra, ParameterError
from secagg.names import RealVector

ENDINGS = (".csv", ".parquet")
COLUMNS = ("row", "score")


def check_out(path: Path) -> None:
    """Refuse a file that scores cannot be written to, before they are computed.

    Raises:
        EnvironmentFault: its folder is not there or cannot be written to.
        MissingExtra: DuckDB is not installed, and is needed.
        ParameterError: it is neither ``.csv`` nor ``.parquet``.
    """
    if path.suffix.lower() not in ENDINGS:
        raise ParameterError(f"{path}: scores are written as {' or '.join(ENDINGS)}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise EnvironmentFault(
            f"{path.parent} is not there or cannot be written to: create it, or name another"
        )
    if path.suffix.lower() == ".parquet":
        _duckdb()


def write_scores(path: Path, rows: NDArray[np.int64], scores: RealVector) -> None:
    """Write scores, for this user alone, whole or not at all.

    Args:
        path: see ``check_out``; replaced.
        rows: shape (count,).
        scores: shape (count,).

    Raises:
        EnvironmentFault: it cannot be written.
    """
    try:
        # A folder of this user alone: DuckDB makes files that others may read.
        with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            written = Path(folder) / "scores.csv"
            with written.open("w", encoding="utf-8", newline="") as file:
                lines = csv.writer(file, lineterminator="\n")
                lines.writerow(COLUMNS)
                lines.writerows(zip(rows.tolist(), scores.tolist(), strict=True))  # As floats are read again.
            if path.suffix.lower() == ".parquet":
                written = _as_parquet(written)
            written.chmod(0o600)
            written.replace(path)
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be written: {error.strerror}") from error


def _as_parquet(path: Path) -> Path:
    """Return the file beside ``path``, a CSV, that has the same as Parquet."""
    parquet = path.with_suffix(".parquet")
    source, target = ("'" + str(file).replace("'", "''") + "'" for file in (path, parquet))
    with closing(_duckdb().connect()) as database:
        database.execute("SET threads = 1")
        database.execute(
            f"COPY (SELECT * FROM read_csv({source}, header = true, "  # noqa: S608 - names are quoted
            f"columns = {{'row': 'BIGINT', 'score': 'DOUBLE'}})) TO {target} (FORMAT parquet)"
        )
    return parquet


def _duckdb() -> Any:
    try:
        return import_module("duckdb")
    except ModuleNotFoundError as missing:
        raise MissingExtra("data", "duckdb") from missing
