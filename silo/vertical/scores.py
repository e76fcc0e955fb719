"""Scores as a file: the number of a row of this party's table, from 0, and its score; no identifier."""

from __future__ import annotations

import csv
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from secagg.errors import EnvironmentFault
from secagg.names import RealVector

KINDS = (".csv", ".parquet")
COLUMNS = ("row", "score")


def write_scores(path: Path, rows: NDArray[np.int64], scores: RealVector) -> None:
    """Write scores, for this user alone, whole or not at all.

    Args:
        path: of one of ``KINDS``; what is there is replaced.
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
    import duckdb

    parquet = path.with_suffix(".parquet")
    source, target = ("'" + str(file).replace("'", "''") + "'" for file in (path, parquet))
    with duckdb.connect() as database:
        database.execute("SET threads = 1")
        database.execute(
            f"COPY (SELECT * FROM read_csv({source}, header = true, "  # noqa: S608 - names are quoted
            f"columns = {{'row': 'BIGINT', 'score': 'DOUBLE'}})) TO {target} (FORMAT parquet)"
        )
    return parquet
