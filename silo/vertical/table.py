"""This party's own table in a vertical job: identifiers, columns of numbers and, at one party, labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secagg.errors import InputRefused, ParameterError
from secagg.hazmat.content import content_digest
from secagg.hazmat.framing import digest
from secagg.names import RealVector
from secagg.psi.identifiers import Duplicates, Identifiers, Rule, read_identifiers
from silo.readers import open_table, read_keys, read_numbers


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnTable:
    """What one party brings. Its repr shows sizes only.

    Attributes:
        X: its columns, finite, shape (rows, columns).
        columns: their names.
        y: labels, shape (rows,); None where this party has none.
        identifiers: of its rows.
    """

    X: NDArray[np.float64] = field(repr=False)
    columns: tuple[str, ...]
    y: RealVector | None = field(repr=False)
    identifiers: Identifiers

    def digest(self, secret: bytes) -> bytes:
        """Return a digest of all that is in it, 32 bytes; without ``secret`` nobody can guess it."""
        labels = b"" if self.y is None else content_digest(np.ascontiguousarray(self.y, "<f8").data.cast("B"))
        return digest(
            "vertical table",
            secret,
            self.columns,
            self.X.shape,
            content_digest(np.ascontiguousarray(self.X, "<f8").data.cast("B")),
            labels,
            self.identifiers.digest(secret),
        )


def read_own(
    path: Path,
    *,
    query: str | None,
    ids: Sequence[str],
    label: str | None,
    columns: Sequence[str] | None,
    rule: Rule,
    duplicates: Duplicates,
) -> OwnTable:
    """Read this party's own table.

    Args:
        path: see ``open_table``.
        query: see there.
        ids: the column of identifiers; several for a composite key.
        label: the column of labels; None where this party has none.
        columns: what is learned from; None for all others.
        rule: how identifiers are read.
        duplicates: what becomes of an identifier that several rows have.

    Raises:
        EnvironmentFault: the file cannot be read.
        InputRefused: a column has something else than finite numbers, an identifier is none or repeats.
        MissingExtra: DuckDB is not installed, and is needed.
        ParameterError: there is no such column, or one is asked for twice.
    """
    table = open_table(path, query=query)
    beside = [*ids, *([] if label is None else [label])]
    names = [name for name in table.columns if name not in beside] if columns is None else [*columns]
    if len(set(beside)) < len(beside) or set(names) & set(beside) or len(set(names)) < len(names):
        raise ParameterError("a column is named twice: identifiers, label and columns are each others")
    identifiers = read_identifiers(
        read_keys(table, ids), rule=rule, duplicates=duplicates, name=", ".join(ids)
    )
    try:
        read = read_numbers(table, [*names, *([] if label is None else [label])])
    except InputRefused as refused:
        if columns is not None:
            raise
        raise InputRefused(
            refused.rule, f"{refused}; encode it, fill its gaps, or name the other columns with --columns"
        ) from None
    return OwnTable(
        X=read[:, : len(names)],
        columns=tuple(names),
        y=None if label is None else read[:, -1],
        identifiers=identifiers,
    )


def check_labels(name: str, labels: RealVector, *, binary: bool) -> None:
    """Refuse labels that there is nothing to learn from.

    Args:
        name: of the column.
        labels: shape (rows,).
        binary: whether two classes are told apart, or numbers learned.

    Raises:
        InputRefused: they are not 0 and 1, or all the same.
    """
    if binary and not np.isin(labels, (0.0, 1.0)).all():
        raise InputRefused("table", f"the label {name} has other numbers than 0 and 1; encode it so")
    if not labels.size or not np.ptp(labels):
        raise InputRefused("table", f"the label {name} is the same in all rows; there is nothing to learn")
